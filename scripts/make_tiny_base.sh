#!/usr/bin/env bash
# Makes the tiny base model of data/models/tiny_base again: traces, random weights, supervised training (about half an hour on 2 cores).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
inputs=runs/tiny_base_inputs
run=runs/sft_countdown_tiny
[ ! -e $run ] || { echo "make_tiny_base: $run exists; move it away first" >&2; exit 2; }
space="--counts 3 --largest 10 --target-smallest 1 --target-largest 99 --wording short"
.venv/bin/python -m data.generate.tiny_model --output $inputs/model --seed 0
.venv/bin/python -m data.generate.countdown traces --output $inputs/traces.jsonl --seed 0 --count 135000 $space \
    --skill-fraction 0.7 --skill-hit 0.6 --hit 0.35 --give-up 0.55
.venv/bin/python -m cli sft --config scripts/configs/sft_countdown_tiny.yaml
rm -rf data/models/tiny_base
cp -r $run/model data/models/tiny_base
cp $run/metrics.jsonl data/models/tiny_base/sft_metrics.jsonl
