"""Shared by commands: `--config`, dotted overrides and help that lists every config key; types of flags."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from openr1.config.dpo import DpoConfig
from openr1.config.load import describe_fields, load_config, to_yaml
from openr1.config.sft import SftConfig
from openr1.errors import MissingError
from openr1.inputs.located import AnyRunConfig, located

if TYPE_CHECKING:
    from openr1.inputs.model_check import CheckedModel

FixedDatasetConfig = TypeVar("FixedDatasetConfig", SftConfig, DpoConfig)


def config_parser(command: str, purpose: str, kind: type[BaseModel]) -> argparse.ArgumentParser:
    """Build the parser of a command. Call `parse_known_args` on it: the remaining arguments override keys of `kind`."""
    width = max(len(key) for key, _ in describe_fields(kind)) + 4
    keys = "\n".join(f"  --{key:{width}s}{text}" for key, text in describe_fields(kind))
    parser = argparse.ArgumentParser(
        prog=f"python -m cli {command}",
        description=purpose,
        epilog=f"overrides of the config (text and paths as they are, other values in YAML):\n{keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage=f"python -m cli {command} --config FILE [options] [--section.key value ...]",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file, or the name of a shipped config")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and its checks, then exit")
    parser.add_argument("--resume", action="store_true", help="continue the run from its newest checkpoint")
    return parser


def run_fixed_dataset(
    parser: argparse.ArgumentParser,
    argv: list[str],
    kind: type[FixedDatasetConfig],
    check: Callable[[FixedDatasetConfig], list[str]],
    train: Callable[[FixedDatasetConfig, bool], None],
) -> int:
    """Run a command that trains on a fixed dataset (SFT or DPO): parse, check, train; returns the exit code."""
    args, overrides = parser.parse_known_args(argv)
    config = load_config(kind, Path(args.config), overrides)
    checks = check(config)
    if args.dry_run:
        print(to_yaml(config) + "\n".join(f"# ok: {line}" for line in checks), flush=True)
        print("\n".join(model_lines(config, _check_model)))
        return 0
    config = located(config)
    # Imported late, so that --help is fast.
    from openr1.inputs.early import check_files

    check_files(config)
    train(config, args.resume)
    return 0


def _check_model(config: SftConfig | DpoConfig) -> "CheckedModel":
    # Imported late: transformers takes seconds.
    from openr1.data.template import run_template
    from openr1.inputs.model_check import check_model

    return check_model(config.model, config.data.max_len, run_template(config))


def model_lines(config: AnyRunConfig, check: "Callable[[AnyRunConfig], CheckedModel]") -> list[str]:
    """What `--dry-run` says of the model; one that is not here yet is no error.

    Raises:
        ConfigError: The model is here, but cannot be used.
    """
    try:
        return [f"# ok: {line}" for line in check(located(config)).findings]
    except MissingError as error:
        return [f"# not here yet: {error}"]


def positive(text: str) -> int:
    """Type of a flag that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def json_object(text: str) -> dict[str, Any]:
    """Type of a flag whose value is a JSON object."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, not {text!r}")
    return value
