"""`generate`: puzzles and search traces, as `python -m data.generate.NAME` makes them in a checkout."""

import importlib
import sys

GENERATORS = {
    "countdown": "Countdown problems and search traces",
    "game24": "24-game problems and search traces",
    "samples": "the sample rows that ship in data/samples",
    "tiny_model": "a tiny model with random weights",
}
"""Module of `data.generate` and purpose of each generator."""


def run(argv: list[str]) -> int:
    """Run the generator that the first word names with the others; returns its exit code, 2 for an unknown name."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: openr1 generate NAME [--help]\n\ngenerators:")
        for name, purpose in GENERATORS.items():
            print(f"  {name:13s}{purpose}")
        return 0 if argv else 2
    if argv[0] not in GENERATORS:
        print(f"generate: unknown generator {argv[0]!r}; there are {', '.join(GENERATORS)}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"data.generate.{argv[0]}").main(argv[1:])
    return code
