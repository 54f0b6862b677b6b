#!/usr/bin/env bash
# What grpo.sh, sft_cot.sh, sft_longcot.sh and dpo.sh have in common:
#   bash scripts/launch.sh COMMAND DEFAULT_CONFIG [CONFIG.yaml] [flags of `python -m cli COMMAND`]
# CONFIG.yaml is looked for where the caller is, then in the repository, from which all other paths are taken.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command=$1
config=$2
shift 2
[ -x .venv/bin/python ] || { echo "$command: no .venv here; run: make setup" >&2; exit 3; }
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
    config=$1
    [ -f "$caller/$1" ] && config=$caller/$1
    shift
fi
exec .venv/bin/python -m cli "$command" --config "$config" "$@"
