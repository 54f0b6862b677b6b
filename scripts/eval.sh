#!/usr/bin/env bash
# Measures a model on benchmarks:  bash scripts/eval.sh MODEL_FOLDER [flags of `python -m cli eval`]
# Without --benchmarks: gsm8k, math500, amc23 and olympiadbench, from data/benchmarks (--data FOLDER for another place).
# MODEL_FOLDER is looked for where the caller is, then in the repository, from which all other paths are taken.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
[ -x $python ] || { echo "eval: no .venv here; run: make setup" >&2; exit 3; }
[ $# -gt 0 ] && [ "${1#--}" = "$1" ] || { echo "eval: name the model's folder first: bash scripts/eval.sh MODEL_FOLDER" >&2; exit 2; }
model=$1
[ -d "$caller/$1" ] && model=$caller/$1
shift
benchmarks=(--benchmarks gsm8k,math500,amc23,olympiadbench)
case " $* " in *" --benchmarks"*) benchmarks=() ;; esac
exec $python -m cli eval --model "$model" "${benchmarks[@]}" "$@"
