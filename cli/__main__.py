"""Command line: `python -m cli <command>`, or `openr1 <command>` once installed.

Exit codes: 0 ok, 1 findings (grade-audit, eval --check, a plan that does not fit), 2 bad usage or config, 3 a required
service or file is missing or cannot be used (no permission, a full disk), 4 training stopped on an error, 130 / 143
interrupted (with a checkpoint, if after the first step).
"""

import importlib
import sys

from openr1.errors import OpenR1Error
from openr1.runtime.interrupts import Interrupted
from reward_server.printable import printable

COMMANDS = {
    "train": ("cli.train", "reinforcement learning from a config"),
    "plan": ("cli.plan", "whether a run fits on a machine, and how long its steps take"),
    "sft": ("cli.sft", "supervised fine-tuning from a config"),
    "dpo": ("cli.dpo", "preference optimization from a config"),
    "serve": ("cli.serve", "the reward server"),
    "eval": ("cli.eval", "accuracy of a model on benchmarks"),
    "compare": ("cli.compare", "tables and plots of several evaluations"),
    "reward": ("cli.reward", "a starter file for your own reward functions"),
    "score": ("cli.score", "grade one response or a file of responses, without a server"),
    "grade-audit": ("cli.grade_audit", "find labels that cannot be graded"),
    "model": ("cli.model", "download a model"),
    "data": ("cli.data", "download, prepare and select training data"),
    "generate": ("cli.generate", "puzzles and search traces"),
}
"""Module and purpose of each command. Modules are imported lazily, so that `--help` is fast."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print("usage: openr1 <command> [--help]   (or: python -m cli <command>)\n\ncommands:")
        for name, (_, purpose) in COMMANDS.items():
            print(f"  {name:13s}{purpose}")
        return 0 if words else 2
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        print(f"cli: unknown command {command!r}; the commands are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        code: int = importlib.import_module(COMMANDS[command][0]).run(rest)
        return code
    except OpenR1Error as error:
        print(printable(f"{command}: {error}"), file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno is None:  # not the system's: a timeout or a connection that the code above did not expect
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        print(printable(f"{command}: {where}{error.strerror or error}"), file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        # Ctrl-C before the command has installed its signal handlers: nothing has started yet.
        return 130
    except Interrupted as interrupted:
        print(f"{command}: stopped by {interrupted}", file=sys.stderr)
        return interrupted.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
