#!/usr/bin/env bash
# PyTorch counts no floating-point operation for attention on a CPU (torch 2.13.0).
#
# FlopCounterMode is what budgets and utilisations of training runs are computed with, often on the machine at hand.
# Guess before the run: attention counts 2 x 2 x batch x heads x length x length x head size, whichever kernel runs it.
# Seen: that is so for the math backend, whose products are counted one by one. On a CPU PyTorch takes its fused kernel by
# default, which is not in the counter's registry: the count is 0, without a warning, with a mask as without. The same
# script on a GPU counts attention, so the two disagree by more than half for long rows.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
install() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
torch=torch==2.13.0+cpu
install "$torch" numpy 2>/dev/null || install --extra-index-url https://download.pytorch.org/whl/cpu "$torch" numpy
"$folder/venv/bin/python" - <<'PYTHON'
from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

BATCH, HEADS, LENGTH, SIZE = 2, 4, 64, 32


def count(masked, backend):
    query = torch.randn(BATCH, HEADS, LENGTH, SIZE)
    mask = torch.zeros(LENGTH, LENGTH) if masked else None
    with FlopCounterMode(display=False) as counter, sdpa_kernel(backend) if backend else nullcontext():
        scaled_dot_product_attention(query, query, query, attn_mask=mask)
    return counter.get_total_flops()


expected = 2 * 2 * BATCH * HEADS * LENGTH * LENGTH * SIZE
found = {
    "default": count(False, None),
    "default, with a mask": count(True, None),
    "math backend": count(False, SDPBackend.MATH),
}
print("torch", torch.__version__, "by hand:", expected)
for name, flops in found.items():
    print(f"{name}: {flops}")
assert found == {"default": 0, "default, with a mask": 0, "math backend": expected}, "the behaviour has changed"
PYTHON
