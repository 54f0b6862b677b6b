"""`python -m cli <command>`, and `openr1 <command>` once installed: parse, call one function, map errors to exit codes.

Exit codes: 0 ok, 1 findings (grade-audit, eval --check), 2 bad usage or config, 3 a required service or file is
missing, 4 training stopped on an error, 130 / 143 interrupted (with a checkpoint, past the first step).
"""

import sys

from openr1.errors import OpenR1Error
from openr1.runtime.interrupts import Interrupted

COMMANDS = {
    "train": "reinforcement learning from a config",
    "sft": "supervised fine-tuning from a config",
    "dpo": "preference optimization from a config",
    "serve": "the reward server",
    "eval": "accuracy of a model on benchmarks",
    "compare": "tables and plots of several evaluations",
    "score": "grade a response, or a file of them, without a server",
    "grade-audit": "find labels that cannot be graded",
    "data": "download, prepare and select training data",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print("usage: python -m cli <command> [--help]\n\ncommands:")
        for name, purpose in COMMANDS.items():
            print(f"  {name:13s}{purpose}")
        return 0 if words else 2
    command, rest = words[0], words[1:]
    try:
        return _run(command, rest)
    except OpenR1Error as error:
        print(f"{command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        # Ctrl-C before the command has taken over the signals: nothing has begun.
        return 130
    except Interrupted as interrupted:
        print(f"{command}: stopped by {interrupted}", file=sys.stderr)
        return interrupted.exit_code


def _run(command: str, words: list[str]) -> int:
    """Import and run one command: each imports what it needs, so that `--help` stays quick."""
    if command == "train":
        from cli import train

        return train.run(words)
    if command == "sft":
        from cli import sft

        return sft.run(words)
    if command == "dpo":
        from cli import dpo

        return dpo.run(words)
    if command == "serve":
        from cli import serve

        return serve.run(words)
    if command == "eval":
        from cli import eval as evaluation

        return evaluation.run(words)
    if command == "compare":
        from cli import compare

        return compare.run(words)
    if command == "score":
        from cli import score

        return score.run(words)
    if command == "grade-audit":
        from cli import grade_audit

        return grade_audit.run(words)
    if command == "data":
        from cli import data

        return data.run(words)
    print(f"cli: unknown command {command!r}; the commands are {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
