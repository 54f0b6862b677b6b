"""`compare`: evaluations side by side, as tables and plots."""

import argparse
import importlib.util
from pathlib import Path

from openr1.errors import MissingError


def run(argv: list[str]) -> int:
    """Parse the flags and compare; returns the exit code, 0."""
    parser = argparse.ArgumentParser(
        prog="python -m cli compare",
        description="Compare models by folders that `eval` wrote: tables, plots, and differences paired by problem.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="FOLDER, label=FOLDER, or label=FOLDER:TRAINING_FOLDER with the run folder that the model came from; "
        "differences are to the first",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), help="folder (default: %(default)s)")
    arguments = parser.parse_args(argv)

    if importlib.util.find_spec("matplotlib") is None:
        raise MissingError("matplotlib, which draws the plots, is not installed; install openr1[plots]")

    from eval.compare import compare

    compare(arguments.runs, arguments.output)
    return 0
