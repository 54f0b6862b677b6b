"""`python -m cli sft`: supervised fine-tuning from a config."""

from cli.options import config_parser, run_offline
from openr1.config.checks import check_sft
from openr1.config.sft import SftConfig


def run(argv: list[str]) -> int:
    """Parse and train; returns the exit code."""
    parser = config_parser("sft", "Fine-tune a model on responses.", SftConfig)
    return run_offline(parser, argv, SftConfig, check_sft, _train)


def _train(config: SftConfig, resume: bool) -> None:
    # Imported late, so that --help and --dry-run stay quick.
    from openr1.training.sft import run_sft

    run_sft(config, resume)
