"""`openr1 <command>` and `python -m openr1 <command>`: the command line, from a checkout or an installation.

The folder `cli` is beside this package in a checkout and in `openr1/_shipped` in a wheel, which claims no import names
such as `cli`, `data` and `eval` in site-packages (docs/decisions/0009-import-names-of-the-wheel.md).
"""

import importlib
import os
import sys

from openr1.config.shipped import ROOT


def main() -> int:
    """Run a command with the words of the command line; returns the exit code."""
    sys.path.insert(0, str(ROOT))
    # Child processes need the folder, too: the reward server that a run starts is a command.
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), others]) if others else str(ROOT)
    code: int = importlib.import_module("cli.__main__").main()
    return code


if __name__ == "__main__":
    raise SystemExit(main())
