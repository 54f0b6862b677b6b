"""`dpo`: preference optimization (DPO) from a config."""

from cli.options import config_parser, run_fixed_dataset
from openr1.config.checks import check_dpo
from openr1.config.dpo import DpoConfig


def run(argv: list[str]) -> int:
    """Parse and train; returns the exit code."""
    parser = config_parser("dpo", "Train a model on preference pairs (DPO).", DpoConfig)
    return run_fixed_dataset(parser, argv, DpoConfig, check_dpo, _train)


def _train(config: DpoConfig, resume: bool) -> None:
    # Imported late, so that --help and --dry-run are fast.
    from openr1.offline.dpo import run_dpo

    run_dpo(config, resume)
