#!/usr/bin/env bash
# Supervised training on short reasoning:  bash scripts/sft_cot.sh [CONFIG.yaml] [--section.key value ...] [--resume] [--dry-run]
# Without CONFIG: sft_cot_tiny.yaml where there is no GPU, else sft_cot.yaml.
set -euo pipefail
scripts=$(dirname "${BASH_SOURCE[0]}")
source "$scripts/gpus.sh"
config=scripts/configs/sft_cot.yaml
[ "$(count_gpus)" -gt 0 ] || config=scripts/configs/sft_cot_tiny.yaml
exec bash "$scripts/launch.sh" sft "$config" "$@"
