"""`compare`: tables and plots of several evaluations."""

import argparse
import importlib.util
from pathlib import Path

from openr1.errors import MissingError


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

    if importlib.util.find_spec("matplotlib") is None:
        raise MissingError("matplotlib, which draws the plots, is not installed; install openr1[plots]")

    from eval.compare import compare

    compare(arguments.runs, arguments.output)
    return 0
