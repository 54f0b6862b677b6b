"""`python -m openr1.rewards.serve_child serve ...`: the reward server as a child process that ends with its parent."""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Request SIGTERM on the parent's death (Linux `prctl`), then run the command line with the same arguments."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(0)  # The parent died before the request, so no signal will come.
    sys.argv[0] = "openr1"
    runpy.run_module("cli", run_name="__main__")


if __name__ == "__main__":
    main()
