#!/usr/bin/env bash
# Preference optimization (DPO):  bash scripts/dpo.sh [CONFIG.yaml] [--section.key value ...] [--resume] [--dry-run]
# Without CONFIG: dpo_game24_tiny.yaml where there is no GPU, else dpo_game24.yaml.
set -euo pipefail
scripts=$(dirname "${BASH_SOURCE[0]}")
source "$scripts/gpus.sh"
config=scripts/configs/dpo_game24.yaml
[ "$(count_gpus)" -gt 0 ] || config=scripts/configs/dpo_game24_tiny.yaml
exec bash "$scripts/launch.sh" dpo "$config" "$@"
