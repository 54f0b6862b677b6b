"""`train`: reinforcement learning from a config."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import config_parser, model_lines
from openr1.config.checks import check_train
from openr1.config.load import load_config, to_yaml
from openr1.config.train import TrainConfig
from openr1.errors import MissingError
from openr1.inputs.located import located

if TYPE_CHECKING:
    from openr1.inputs.model_check import CheckedModel


def run(argv: list[str]) -> int:
    """Parse and train; returns the exit code."""
    parser = config_parser("train", "Train a policy by reinforcement learning on verifiable rewards.", TrainConfig)
    args, overrides = parser.parse_known_args(argv)
    config = load_config(TrainConfig, Path(args.config), overrides)
    checks = check_train(config)
    if args.dry_run:
        print(to_yaml(config) + "\n".join(f"# ok: {line}" for line in checks), flush=True)
        print("\n".join(model_lines(config, _check_models)), flush=True)
        print("\n".join(f"# {line}" for line in _plan(config)))
        return 0
    config = located(config)
    # Imported late, so that --help is fast; and then, so that what can be found out at once is.
    from openr1.inputs.early import check_files

    check_files(config)
    from openr1.training.rl import run_training

    run_training(config, resume=args.resume)
    return 0


def _check_models(config: TrainConfig) -> "CheckedModel":
    # Imported late: transformers takes seconds.
    from openr1.inputs.datasets import check_models

    return check_models(config)


def _plan(config: TrainConfig) -> list[str]:
    """The plan for this machine; why there is none if the model's config.json is missing."""
    # Imported late: torch and transformers take seconds.
    from openr1.plan.machine import this_machine
    from openr1.plan.plan import Planner
    from openr1.plan.report import describe_plan

    # What is published of a model is enough, if it is not here.
    with suppress(MissingError):
        config = located(config)
    try:
        return describe_plan(Planner(this_machine()), config)[0]
    except MissingError as error:
        return [f"no plan: {error}"]
