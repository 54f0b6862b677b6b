#!/usr/bin/env bash
# Trains with GRPO; `train` starts the reward server, unless --reward.url names one.
#   bash scripts/grpo.sh [CONFIG.yaml] [--section.key value ...] [--resume] [--dry-run]
# Without CONFIG: grpo_countdown_tiny.yaml where there is no GPU, grpo_math.yaml with four or more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/gpus.sh
config=scripts/configs/grpo_countdown_tiny.yaml
gpus=$(count_gpus)
if [ "$gpus" -ge 4 ]; then
    config=scripts/configs/grpo_math.yaml
elif [ "$gpus" -gt 0 ] && { [ $# -eq 0 ] || [ "${1#--}" != "$1" ]; }; then
    echo "grpo: found $gpus GPU(s): scripts/configs/grpo_math.yaml needs 4, $config none; name one of them" >&2
    exit 2
fi
exec bash scripts/launch.sh train "$config" "$@"
