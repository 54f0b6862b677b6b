"""`compare`: tables and plots of several evaluations."""

import argparse
from pathlib import Path


def run(argv: list[str]) -> int:
    """Parse the flags and compare; returns the exit code, 0."""
    parser = argparse.ArgumentParser(
        prog="python -m cli compare",
        description="Compare evaluations written by `eval`: tables, plots, and differences paired by problem.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="FOLDER, label=FOLDER, or label=FOLDER:TRAINING_FOLDER with the folder of the run that trained the model; "
        "differences are relative to the first RUN",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), help="output (default: %(default)s)")
    arguments = parser.parse_args(argv)

    from eval.compare import compare

    compare(arguments.runs, arguments.output)
    return 0
