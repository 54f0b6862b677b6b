#!/usr/bin/env bash
# Supervised training on long reasoning:  bash scripts/sft_longcot.sh [CONFIG.yaml] [--section.key value ...] [--resume] [--dry-run]
# Without CONFIG: sft_longcot_tiny.yaml where there is no GPU, else sft_longcot.yaml.
set -euo pipefail
scripts=$(dirname "${BASH_SOURCE[0]}")
source "$scripts/gpus.sh"
config=scripts/configs/sft_longcot.yaml
[ "$(count_gpus)" -gt 0 ] || config=scripts/configs/sft_longcot_tiny.yaml
exec bash "$scripts/launch.sh" sft "$config" "$@"
