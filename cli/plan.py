"""`plan`: whether a run fits on a machine, and how long its steps take."""

import argparse
from contextlib import suppress
from pathlib import Path

from openr1.config.checks import check_train
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError, MissingError
from openr1.inputs.located import located


def run(argv: list[str]) -> int:
    """Plan a run; returns 0 if it fits, 1 if it does not."""
    parser = argparse.ArgumentParser(
        prog="python -m cli plan",
        description="Memory of every process and seconds of every phase of an RL run, without starting anything. "
        "Of the model only config.json is needed.",
        usage="python -m cli plan --config FILE [--gpus N --gpu NAME] [--section.key value ...]",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file, or the name of a shipped config")
    parser.add_argument("--gpus", type=int, metavar="N", help="number of GPUs (default: this machine and its GPUs)")
    parser.add_argument("--gpu", metavar="NAME", help="model of these GPUs, such as h800")
    parser.add_argument(
        "--response-length", type=float, metavar="N", help="mean tokens of a response (default: half of the maximum)"
    )
    args, overrides = parser.parse_known_args(argv)
    if (args.gpus is None) != (args.gpu is None):
        raise ConfigError("--gpus and --gpu go together, as in --gpus 4 --gpu h800")
    if args.gpus is not None and args.gpus < 0:
        raise ConfigError(f"--gpus {args.gpus}: must be 0 or more")
    config = load_config(TrainConfig, Path(args.config), overrides)
    longest = config.rollout.generate_max_len
    if args.response_length is not None and not 1 <= args.response_length <= longest:
        raise ConfigError(
            f"--response-length {args.response_length:g}: must be from 1 to rollout.generate_max_len {longest}"
        )
    check_train(config)
    # What is published of a model is enough, if it is not here.
    with suppress(MissingError):
        config = located(config)
    # Imported late, so that --help is fast.
    from openr1.plan.machine import described_machine, this_machine
    from openr1.plan.plan import Planner
    from openr1.plan.report import describe_plan

    machine = this_machine() if args.gpus is None else described_machine(args.gpus, args.gpu)
    lines, fits = describe_plan(Planner(machine, args.response_length), config)
    print("\n".join(lines))
    return int(not fits)
