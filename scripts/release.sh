#!/usr/bin/env bash
# Prepares a release: checks, tests, wheel and sdist in dist/, and a local tag. It pushes and uploads nothing.
#   bash scripts/release.sh VERSION [--check]      --check: the checks of steps 1 and 2 alone
#
# Before: set __version__ in openr1/__init__.py and version in CITATION.cff; in CHANGELOG.md, name the section of Unreleased
# `## [VERSION] - YYYY-MM-DD` and open an empty `## [Unreleased]` above it; commit.
#   1. the version is as above, and new: no tag has it
#   2. main is checked out, and nothing is uncommitted
#   3. make check, with an audit of the dependencies (needs the internet), make test-slow
#   4. wheel and sdist; the wheel installs into an empty folder and runs there
#   5. an annotated tag vVERSION
# After, by hand: git push origin main vVERSION; upload dist/ where releases are published; write the release's page.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "release: $*" >&2; exit 2; }
version=${1:-}
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+((a|b|rc)[0-9]+)?$ ]] || fail "name the version first: bash scripts/release.sh 0.1.0"
[ $# -eq 1 ] || [ "$2" = --check ] || fail "unknown argument $2"
escaped=${version//./\\.}

grep -q "^__version__ = \"$escaped\"$" openr1/__init__.py || fail "openr1/__init__.py: __version__ is not \"$version\""
grep -q "^version: $escaped$" CITATION.cff || fail "CITATION.cff: version is not $version"
grep -qE "^## \[$escaped\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md || fail "CHANGELOG.md has no section [$version] with a date"
grep -q '^## \[Unreleased\]$' CHANGELOG.md || fail "CHANGELOG.md has no section [Unreleased] for what comes next"
[ -n "$(sed -n "/^## \[$escaped\]/,/^## \[/p" CHANGELOG.md | grep '^- ')" ] || fail "CHANGELOG.md: the section [$version] is empty"
[ -z "$(git tag --list "v$version")" ] || fail "the tag v$version exists"
[ "$(git branch --show-current)" = main ] || fail "main is not checked out"
[ -z "$(git status --porcelain)" ] || fail "there are uncommitted changes: git status"
[ $# -eq 1 ] || { echo "release: $version can be released"; exit 0; }

make check
# `make check` goes on where this cannot be checked; a release does not.
bash scripts/audit.sh
make test-slow

rm -rf build dist
.venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
.venv/bin/python -c 'from setuptools.build_meta import build_sdist; build_sdist("dist")' >/dev/null
target=$(mktemp -d)
trap 'rm -rf "$target"' EXIT
.venv/bin/python -m pip install --quiet --no-deps --no-index --target "$target/site" dist/*.whl
mkdir "$target/empty"
(
    python=$PWD/.venv/bin/python
    cd "$target/empty"
    PYTHONPATH=$target/site "$python" -P -m openr1 train --config grpo_countdown_tiny --dry-run >/dev/null
)
[ -z "$(git status --porcelain)" ] || fail "the tests or the build changed the tree: git status"
git tag --annotate "v$version" --message "openr1 $version"
ls -l dist
echo "release: tagged v$version here. Next, by hand: git push origin main v$version; upload dist/"
