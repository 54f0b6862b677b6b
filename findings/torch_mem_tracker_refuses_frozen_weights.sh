#!/usr/bin/env bash
# PyTorch's memory tracker raises as soon as a model has a frozen weight (torch 2.13.0).
#
# torch.distributed._tools.mem_tracker.MemTracker estimates the peak memory of a training step, also on fake tensors.
# Guess before the run: weights that do not train are counted as parameters and get no gradient.
# Seen: its forward hook registers a gradient hook on every parameter of a module, and PyTorch refuses that for one that
# requires no gradient. No model with adapters, or with frozen layers of any kind, can be measured.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
install() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
torch=torch==2.13.0+cpu
install "$torch" numpy 2>/dev/null || install --extra-index-url https://download.pytorch.org/whl/cpu "$torch" numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker


def track(frozen):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(not frozen)
    tracker = MemTracker()
    tracker.track_external(model)
    try:
        with tracker:
            model(torch.ones(2, 4)).sum().backward()
    except RuntimeError as error:
        return str(error)
    return "measured"


found = {"all weights train": track(False), "the first layer is frozen": track(True)}
print("torch", torch.__version__)
for name, outcome in found.items():
    print(f"{name}: {outcome}")
assert found == {
    "all weights train": "measured",
    "the first layer is frozen": "cannot register a hook on a tensor that doesn't require gradient",
}, "the behaviour has changed"
PYTHON
