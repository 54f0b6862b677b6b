"""`serve`: run the reward server until SIGTERM or Ctrl-C."""

import argparse
import os
import sys
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cli serve", description="Run the reward server that grades responses over HTTP."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=_port, default=5000, help="port to listen on; 0 picks a free port (default: %(default)s)"
    )
    parser.add_argument(
        "--task", default="math", help="default task, for /get_reward and /score (default: %(default)s)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="JSON Lines with prompt and label, to look up labels for OpenRLHF clients that send none",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML with limits, reward weights, and tasks by import path"
    )
    parser.add_argument(
        "--module", metavar="MODULE", help="your reward functions: my_rewards.py or package.module; see `openr1 reward`"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="allow a host that other machines can reach without requiring a token"
    )
    return parser


def run(argv: list[str]) -> int:
    """Parse the flags and serve. Exit codes: 0 after SIGTERM or Ctrl-C, 2 bad usage or config, 3 cannot listen."""
    arguments = _parser().parse_args(argv)

    # Imported here, so that --help does not load the web framework.
    from reward_server.compat.openrlhf import PromptIndex
    from reward_server.config_file import ConfigFileError
    from reward_server.functions.module import ModuleError
    from reward_server.functions.tasks import settings_and_tasks
    from reward_server.grader import Grader
    from reward_server.schema import TOKEN_VARIABLE
    from reward_server.server import HostNotLoopback, ServeError, check_host, serve
    from reward_server.service import Service
    from reward_server.tasks import UnknownTask, find_task

    # Removed from the environment, so that no child process inherits it.
    token = os.environ.pop(TOKEN_VARIABLE, None) or None
    try:
        check_host(arguments.host, token, arguments.insecure)
        config, tasks = settings_and_tasks(arguments.config, arguments.module)
        find_task(arguments.task, tasks)
        prompts = PromptIndex.read(arguments.data) if arguments.data else PromptIndex([])
    except (HostNotLoopback, ConfigFileError, ModuleError, UnknownTask, ValueError, OSError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    service = Service(
        grader=Grader(config),
        config=config,
        tasks=tasks,
        default_task=arguments.task,
        prompts=prompts,
        token=token,
    )
    try:
        serve(arguments.host, arguments.port, service)
    except ServeError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 3
    return 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)
