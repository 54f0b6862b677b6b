"""`train`: reinforcement learning from a config."""

from pathlib import Path

from cli.options import config_parser
from openr1.config.checks import check_train
from openr1.config.load import load_config, to_yaml
from openr1.config.train import TrainConfig


def run(argv: list[str]) -> int:
    """Parse and train; returns the exit code."""
    parser = config_parser("train", "Train a policy by reinforcement learning on verifiable rewards.", TrainConfig)
    args, overrides = parser.parse_known_args(argv)
    config = load_config(TrainConfig, Path(args.config), overrides)
    checks = check_train(config)
    if args.dry_run:
        print(to_yaml(config) + "\n".join(f"# ok: {line}" for line in checks))
        return 0
    # Imported late, so that --help and --dry-run are fast.
    from openr1.training.rl import run_training

    run_training(config, resume=args.resume)
    return 0
