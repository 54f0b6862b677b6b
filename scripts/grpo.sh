#!/usr/bin/env bash
# Trains with GRPO; `train` starts the reward server, unless --reward.url names one.
#   bash scripts/grpo.sh [CONFIG.yaml] [--section.key value ...] [--resume] [--dry-run]
# Without CONFIG: grpo_countdown_tiny.yaml, which trains in minutes on any machine, with GPUs or without.
set -euo pipefail
scripts=$(dirname "${BASH_SOURCE[0]}")
exec bash "$scripts/launch.sh" train scripts/configs/grpo_countdown_tiny.yaml "$@"
