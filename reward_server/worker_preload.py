"""Loaded once, by the process from which all workers are forked: the parser, and one change to how they begin.

A process of Python's `multiprocessing` begins by running the caller's main script again, so that functions defined
there can be found. Workers need none, and a training script must not run in each of them for want of an
`if __name__ == "__main__":`.
"""

from collections.abc import Mapping
from multiprocessing import spawn
from typing import Any

from pebble.pool.process import WORKERS_NAME

from reward_server.grading import symbolic

__all__ = ["symbolic"]

_prepare = spawn.prepare


def _prepare_worker(data: Mapping[str, Any]) -> None:
    main = ("init_main_from_name", "init_main_from_path") if data.get("name") == WORKERS_NAME else ()
    _prepare({key: value for key, value in data.items() if key not in main})


spawn.prepare = _prepare_worker
