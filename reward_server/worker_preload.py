"""Imported once by the fork server from which all workers are forked: loads the parser, and patches worker start-up.

A `multiprocessing` child normally starts by importing the parent's main script again, so that functions defined there
can be unpickled. Grading workers need nothing from it. Skipping it keeps them small, and keeps a training script
without an `if __name__ == "__main__":` guard from running again in every worker.
"""

from collections.abc import Mapping
from multiprocessing import spawn
from typing import Any

from pebble.pool.process import WORKERS_NAME

from reward_server.grading import symbolic

__all__ = ["symbolic"]

_prepare = spawn.prepare


def _prepare_worker(data: Mapping[str, Any]) -> None:
    """`spawn.prepare` without the import of the main script, for pebble's workers only.

    Other processes forked from the same fork server, such as those of the user's own pools, keep the usual behaviour.
    """
    skipped = ("init_main_from_name", "init_main_from_path") if data.get("name") == WORKERS_NAME else ()
    _prepare({key: value for key, value in data.items() if key not in skipped})


spawn.prepare = _prepare_worker
