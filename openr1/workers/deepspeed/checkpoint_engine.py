"""Writes DeepSpeed's checkpoint files in the background."""

from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

from openr1.workers.background import BackgroundWriter, to_host


class BackgroundCheckpointEngine(TorchCheckpointEngine):  # type: ignore[misc]
    """DeepSpeed's own, of which `save` ends once the state is copied to host memory. The files are the same."""

    def __init__(self, config: Any, writer: BackgroundWriter) -> None:
        """`config` is that of the DeepSpeed engine, which says how files are serialized."""
        super().__init__(config)
        self._writer = writer

    def save(self, state_dict: Any, path: str) -> None:
        """Copy, and leave the file to the writer."""
        copied, as_zip = to_host(state_dict), self.zipfile_serialization
        self._writer.submit(Path(path), lambda: torch.save(copied, path, _use_new_zipfile_serialization=as_zip))
