#!/usr/bin/env bash
# Makes .baseline: this repository at the commit that speed and memory are compared with, and an environment of its own
# (4 GB, minutes). A second call does nothing. `git worktree remove --force .baseline` removes it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

commit=52c86e6505aa9654e93681baa0031e5b90c3878b
if [ ! -e .baseline ]; then
    git cat-file -e "$commit^{commit}" 2>/dev/null ||
        { echo "baseline: commit ${commit:0:7} is not in this clone; fetch the whole history" >&2; exit 3; }
    git worktree add --detach --quiet .baseline "$commit"
fi
[ "$(git -C .baseline rev-parse HEAD)" = "$commit" ] ||
    { echo "baseline: .baseline is not at ${commit:0:7}; remove it" >&2; exit 3; }
exec make -C .baseline setup
