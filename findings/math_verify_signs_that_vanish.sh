#!/usr/bin/env bash
# Primes, transposes, divisibility and bare inequality signs are dropped, so different answers are equal
# (math-verify 0.9.0, latex2sympy2_extended 1.11.0).
#
# Guess before the run: a sign that the grammar does not know makes the text unreadable, and it is compared as text.
# Seen: the sign is skipped, and what is left is compared. The derivative f' is f, a transposed matrix is the matrix,
# "n divides 12" and "at most 3" are 12 and 3, and 3!! is the factorial of a factorial. A thin space between groups of
# digits becomes a product, and 70 000 is 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    math-verify==0.9.0 latex2sympy2_extended==1.11.0 antlr4-python3-runtime==4.13.2 sympy==1.14.0
"$folder/venv/bin/python" - <<'PYTHON'
from math_verify import parse, verify

DIFFERENT = [
    ("f'(x)=2x", "f(x)=2x"),
    ("x'", "x"),
    ("A^T", "A"),
    ("12", r"n\mid 12"),
    ("3", r"\le 3"),
    ("3", r"\approx 3"),
    ("720", "3!!"),
    ("0", r"70\,000"),
]
accepted = []
for gold, answer in DIFFERENT:
    read = parse(f"${gold}$"), parse(rf"\boxed{{{answer}}}")
    accepted.append(verify(*read))
    print(f"gold {gold!r} is read as {read[0][0]}, answer {answer!r} as {read[1][0]}: equal {accepted[-1]}")
assert all(accepted), "the behaviour has changed"
PYTHON
