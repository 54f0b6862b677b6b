"""`sft`: supervised fine-tuning (SFT) from a config."""

from cli.options import config_parser, run_fixed_dataset
from openr1.config.checks import check_sft
from openr1.config.sft import SftConfig


def run(argv: list[str]) -> int:
    """Parse and train; returns the exit code."""
    parser = config_parser("sft", "Fine-tune a model on prompts with responses (SFT).", SftConfig)
    return run_fixed_dataset(parser, argv, SftConfig, check_sft, _train)


def _train(config: SftConfig, resume: bool) -> None:
    # Imported late, so that --help and --dry-run are fast.
    from openr1.offline.sft import run_sft

    run_sft(config, resume)
