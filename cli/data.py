"""`data`: fetch public datasets, make training sets of files, and select what a run learned from."""

import argparse
import math
from pathlib import Path
from typing import Any, TypeAlias

from data.generate.countdown import WORDINGS
from data.prepare.hub_datasets import SOURCES

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def run(argv: list[str]) -> int:
    """Run `download`, `prepare` or `select`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cli data", description="Make training sets; docs/data.md explains all.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_download(commands)
    _add_prepare(commands)
    _add_select(commands)
    arguments = parser.parse_args(argv)
    if arguments.command == "download":
        return _download(arguments)
    if arguments.command == "prepare":
        return _prepare(arguments)
    return _select(arguments)


def _add_download(commands: Commands) -> None:
    parser = commands.add_parser("download", help="fetch a public dataset from the Hugging Face hub")
    parser.add_argument("name", choices=sorted(SOURCES), metavar="NAME", help=", ".join(sorted(SOURCES)))
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write (default: data/NAME)")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of the dataset (default: main)")
    _add_reading(parser)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wording", choices=sorted(WORDINGS), default="en", help="of Countdown prompts (default: %(default)s)"
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be used, and count them")


def _add_prepare(commands: Commands) -> None:
    parser = commands.add_parser("prepare", help="make a training set of files")
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help=".jsonl, .json or .parquet")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of train.jsonl, held_out.jsonl, prepare.json")
    add("--format", metavar="NAME", help="of all files (default: as their columns tell)")
    add("--task", help="task of all rows (default: the row's own, else the format's)")
    _add_reading(parser)
    add("--system-prompt", metavar="TEXT", help="put before every prompt, as a message")
    add("--prefix", metavar="TEXT", help="text that every response goes on from, as <think>")
    add("--model", type=Path, metavar="DIR", help="whose tokenizer and chat template count tokens")
    add("--prompt-max-len", type=_positive, metavar="N", help="drop prompts with more tokens")
    add("--difficulty", type=_names, default=(), metavar="NAMES", help="keep these alone, as easy,medium")
    add("--pass-rates", type=Path, nargs="+", default=(), metavar="FILE", help="samples of eval, or rollouts of a run")
    add("--pass-rate-min", type=_fraction, default=0.0, metavar="X", help="keep prompts solved at least so often")
    add("--pass-rate-max", type=_fraction, default=1.0, metavar="X", help="keep prompts solved at most so often")
    add("--keep-unmeasured", action="store_true", help="keep prompts without a pass rate")
    add("--benchmarks", type=Path, nargs="+", default=(), metavar="PATH", help="drop what these files or folders ask")
    add(
        "--ngram",
        type=_positive,
        default=10,
        metavar="N",
        help="words in common that make it so (default: %(default)s)",
    )
    add("--weights", type=_weight, nargs="+", default=(), metavar="W", help="share of each FILE in the mixture")
    add("--count", type=_positive, metavar="N", help="draw so many rows")
    add("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    add("--held-out", type=_fraction, metavar="FRACTION", help="share of rows for held_out.jsonl")


def _add_select(commands: Commands) -> None:
    parser = commands.add_parser("select", help="keep the prompts that a run learned from")
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="folder of a run of two epochs or more")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="the run's training file (default: as its config says)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--threshold", type=float, default=0.6, help="keep impacts above it (default: %(default)s)")
    which.add_argument("--count", type=_positive, metavar="N", help="keep so many, the highest")


def _download(arguments: argparse.Namespace) -> int:
    from data.prepare.download import download

    name = arguments.name
    output = arguments.output or Path("data", name)
    download(name, SOURCES[name], output, arguments.revision, arguments.wording, arguments.skip_bad)
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    from data.prepare.pipeline import Plan, prepare

    flags: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name != "command"
    }
    prepare(Plan(**flags)).show()
    return 0


def _select(arguments: argparse.Namespace) -> int:
    from data.prepare.learning_impact import Selection, select

    selection = Selection(arguments.threshold, arguments.count)
    select(arguments.run, arguments.output, arguments.data, selection)
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


def _weight(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))
