#!/usr/bin/env bash
# What works on this machine's GPUs, row by row: docs/gpu.md.
#   bash scripts/gpu_check.sh [--only machine,head,attention,demo,lora,sleep,repeat,half,separate]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -x .venv/bin/python ] || { echo "gpu_check: no .venv here; run: make setup" >&2; exit 3; }
exec .venv/bin/python -m benchmarks.gpu_check "$@"
