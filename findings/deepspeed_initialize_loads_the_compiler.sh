#!/usr/bin/env bash
# deepspeed.initialize loads torch.compile's backend, although nothing is compiled (DeepSpeed 0.19.8, torch 2.13.0).
#
# Guess before the run: with ZeRO, torch's own AdamW and no compile setting, DeepSpeed imports nothing of Inductor.
# Seen: to find out whether the optimizer is one that ZeRO supports, it imports its Muon, a function of which has the
# decorator torch.compile; the decorator asks Inductor for its configuration at once: 181 of its modules in every rank,
# and 2.2 s of CPU time for the call. With TORCHDYNAMO_DISABLE=1 the decorator asks nothing: 18 modules, and 1.1 s.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
install() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
torch=torch==2.13.0+cpu
install "$torch" 2>/dev/null || install --index-url https://download.pytorch.org/whl/cpu "$torch"
install numpy setuptools ninja deepspeed==0.19.8
cd "$folder"
cat > measure.py <<'PYTHON'
import os
import sys
import time

import deepspeed
import torch
import torch.distributed as dist

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
deepspeed.init_distributed(dist_backend="gloo")
model = torch.nn.Linear(8, 8).to(torch.bfloat16)
config = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": 1},
    "bf16": {"enabled": True},
    "zero_allow_untested_optimizer": True,
}
before, start = set(sys.modules), time.process_time()
assert "torch._inductor.compile_fx" not in before, "imported earlier than it was"
deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3), config=config)
new = {name for name in set(sys.modules) - before if name.startswith("torch._inductor")}
print(f"TORCHDYNAMO_DISABLE={os.environ.get('TORCHDYNAMO_DISABLE', '')}: {len(new)} modules of Inductor, "
      f"{time.process_time() - start:.1f} s of CPU time")
assert ("torch._inductor.compile_fx" in new) == ("TORCHDYNAMO_DISABLE" not in os.environ), "the import has changed"
assert (len(new) > 50) == ("TORCHDYNAMO_DISABLE" not in os.environ), "the import has changed"
PYTHON
measure() {
    env DS_ACCELERATOR=cpu RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 TORCH_EXTENSIONS_DIR="$folder/extensions" \
        DS_IGNORE_CUDA_DETECTION=1 PATH="$folder/venv/bin:$PATH" "$@" "$folder/venv/bin/python" measure.py
}
measure
measure TORCHDYNAMO_DISABLE=1
