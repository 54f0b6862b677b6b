"""`reward`: begin with reward functions of your own."""

import argparse
from pathlib import Path


def run(argv: list[str]) -> int:
    """`reward new FILE` writes a starter file; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cli reward", description="Begin with reward functions of your own."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="write a file with one reward function that works at once")
    new.add_argument("file", type=Path, help="the new file, such as my_rewards.py")
    return _new(parser.parse_args(argv).file)


def _new(file: Path) -> int:
    from openr1.errors import ConfigError, MissingError
    from reward_server.functions import starter

    if file.suffix != ".py":
        raise ConfigError(f"{file}: reward functions are Python: give a name that ends in .py")
    text = Path(starter.__file__).read_text(encoding="utf-8").replace("THIS_FILE", str(file))
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise ConfigError(f"{file}: exists already: give another name, or remove it") from None
    except OSError as error:
        raise MissingError(f"{file}: {error.strerror}: create its folder first") from error
    print(f"{file}: one reward function; try it:\n  openr1 score --module {file} --label 4 --response '2 + 2 is 4'")
    return 0
