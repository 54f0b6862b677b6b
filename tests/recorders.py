"""Actors that start in place of engines, policy ranks and references, and write down where they are.

A module of its own, without torch: a test of placement starts dozens of them.
"""

import json
import os
from typing import Any

import ray


class Recorder:
    """Writes `<log file>.json` beside where the real actor would log."""

    def __init__(self, settings: Any) -> None:
        """Record this process's GPUs and what it was told."""
        # Unset would mean all GPUs of the machine.
        visible = vars(settings).get("visible_devices") or os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        settings.log_path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "gpus": visible.split(",") if visible else [],
            "granted": [str(gpu) for gpu in ray.get_gpu_ids()],
            "node": ray.get_runtime_context().get_node_id(),
            "on_gpu": settings.on_gpu,
            "alloc_conf": os.environ.get("PYTORCH_ALLOC_CONF"),
            "accelerator": os.environ.get("DS_ACCELERATOR"),
        }
        self._path = settings.log_path.with_suffix(".json")
        self._path.write_text(json.dumps(record))

    def ready(self) -> bool:
        """As of an engine."""
        return True

    def sleep(self) -> None:
        """As of an engine: writes down which actors had started before."""
        others = sorted(path.stem for path in self._path.parent.glob("*.json"))
        self._path.write_text(json.dumps(json.loads(self._path.read_text()) | {"asleep_with": others}))

    def offload(self) -> None:
        """As of a policy rank."""

    def reload(self) -> None:
        """As of a policy rank."""

    def open_store(self) -> tuple[str, int]:
        """As of a policy rank."""
        return "127.0.0.1", 1

    def load_model(self, store_at: tuple[str, int], learner: Any) -> None:
        """As of a policy rank."""

    def connect_engines(self, make_sender: Any) -> None:
        """As of a policy rank."""
