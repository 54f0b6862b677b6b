"""Writes DeepSpeed's checkpoint files in the background, and refuses to read files that hold code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from openr1.errors import PolicyError
from openr1.workers.background import BackgroundWriter, to_host

# DeepSpeed reads with `weights_only=False`, which `TrainWorker` overrules by torch's variable for that. These classes
# in its files are harmless, which torch does not know: a pair of numbers, a constant factor, and an enumeration.
torch.serialization.add_safe_globals([fragment_address, LossScaler, ZeroStageEnum])


@contextmanager
def refusing_code(folder: Path) -> Iterator[None]:
    """Name the folder in the error of a file that holds more than tensors and plain values.

    Raises:
        PolicyError: A file in it does.
    """
    try:
        yield
    except UnpicklingError as error:
        raise PolicyError(
            f"{folder}: a file holds more than tensors and plain values, and could run code when it is read; openr1 "
            "writes no such file, so do not trust this checkpoint"
        ) from error


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
