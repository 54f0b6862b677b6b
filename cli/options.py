"""Shared by commands: `--config`, dotted overrides and help that lists every config key; types of flags."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from openr1.config.dpo import DpoConfig
from openr1.config.load import describe_fields, load_config, to_yaml
from openr1.config.sft import SftConfig

FixedDatasetConfig = TypeVar("FixedDatasetConfig", SftConfig, DpoConfig)


def config_parser(command: str, purpose: str, kind: type[BaseModel]) -> argparse.ArgumentParser:
    """Build the parser of a command. Call `parse_known_args` on it: the remaining arguments override keys of `kind`."""
    width = max(len(key) for key, _ in describe_fields(kind)) + 4
    keys = "\n".join(f"  --{key:{width}s}{text}" for key, text in describe_fields(kind))
    parser = argparse.ArgumentParser(
        prog=f"python -m cli {command}",
        description=purpose,
        epilog=f"overrides of the config (values are YAML):\n{keys}",
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
        print(to_yaml(config) + "\n".join(f"# ok: {line}" for line in checks))
    else:
        train(config, args.resume)
    return 0


def positive(text: str) -> int:
    """Type of a flag that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value
