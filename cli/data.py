"""`data`: download public datasets, prepare training sets, and select the prompts that a run learned from."""

import argparse
import math
from pathlib import Path
from typing import Any, TypeAlias

from cli.options import positive
from data.generate.countdown import WORDINGS
from data.prepare.hub_datasets import HUB_DATASETS

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def run(argv: list[str]) -> int:
    """Run `download`, `prepare` or `select`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cli data", description="Prepare training sets; see docs/data.md.", allow_abbrev=False
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
    parser = commands.add_parser("download", help="download a public dataset from the Hugging Face Hub")
    parser.add_argument("name", choices=sorted(HUB_DATASETS), metavar="NAME", help=", ".join(sorted(HUB_DATASETS)))
    parser.add_argument("--output", type=Path, metavar="DIR", help="output folder (default: data/NAME)")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of the dataset (default: main)")
    _add_reading(parser)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wording", choices=sorted(WORDINGS), default="en", help="wording of Countdown prompts (default: %(default)s)"
    )
    parser.add_argument("--skip-bad", action="store_true", help="skip and count rows that cannot be used")


def _add_prepare(commands: Commands) -> None:
    parser = commands.add_parser("prepare", help="prepare a training set from files")
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help=".jsonl, .json or .parquet")
    add(
        "--output", type=Path, required=True, metavar="DIR", help="folder for train.jsonl, held_out.jsonl, prepare.json"
    )
    add("--format", metavar="NAME", help="format of all files (default: detected from the columns)")
    add("--task", help="task of all rows (default: that of the row, else that of the format)")
    _add_reading(parser)
    add("--system-prompt", metavar="TEXT", help="system message to add to every row")
    add("--prefix", metavar="TEXT", help="text that every response continues, e.g. <think>")
    add("--model", type=Path, metavar="DIR", help="model whose tokenizer and chat template count tokens")
    add("--prompt-max-len", type=positive, metavar="N", help="drop prompts with more tokens than this")
    add("--difficulty", type=_names, default=(), metavar="NAMES", help="keep only these, e.g. easy,medium")
    add(
        "--pass-rates",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="samples of an evaluation, or rollouts of a run",
    )
    add("--pass-rate-min", type=_fraction, default=0.0, metavar="X", help="drop prompts with a lower pass rate")
    add("--pass-rate-max", type=_fraction, default=1.0, metavar="X", help="drop prompts with a higher pass rate")
    add("--keep-unmeasured", action="store_true", help="keep prompts without a pass rate")
    add(
        "--benchmarks",
        type=Path,
        nargs="+",
        default=(),
        metavar="PATH",
        help="drop questions that occur in these files or folders",
    )
    add(
        "--ngram",
        type=positive,
        default=10,
        metavar="N",
        help="consecutive shared words that count as the same question (default: %(default)s)",
    )
    add(
        "--weights",
        type=_weight,
        nargs="+",
        default=(),
        metavar="W",
        help="relative weight of each FILE in the mixture",
    )
    add("--count", type=positive, metavar="N", help="sample this many rows")
    add("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    add("--held-out", type=_fraction, metavar="FRACTION", help="fraction of rows for held_out.jsonl")


def _add_select(commands: Commands) -> None:
    parser = commands.add_parser("select", help="select the prompts that a run learned from")
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="folder of a run of at least two epochs")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="output file")
    parser.add_argument("--data", type=Path, metavar="FILE", help="training file of the run (default: from its config)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--threshold", type=float, default=0.6, help="keep prompts with an impact above this (default: %(default)s)"
    )
    which.add_argument("--count", type=positive, metavar="N", help="keep the N prompts with the highest impact")


def _download(arguments: argparse.Namespace) -> int:
    from data.prepare.download import download

    name = arguments.name
    output = arguments.output or Path("data", name)
    download(name, HUB_DATASETS[name], output, arguments.revision, arguments.wording, arguments.skip_bad)
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    from data.prepare.pipeline import PrepareConfig, prepare

    flags: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name != "command"
    }
    prepare(PrepareConfig(**flags)).show()
    return 0


def _select(arguments: argparse.Namespace) -> int:
    from data.prepare.learning_impact import Selection, select

    selection = Selection(arguments.threshold, arguments.count)
    select(arguments.run, arguments.output, arguments.data, selection)
    return 0


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
