"""Writes files of a training worker while it trains on: tensors are copied first, a thread does the rest."""

import copy
import io
import pickle
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, UntypedStorage

from openr1.errors import NotSaved
from openr1.runtime.faults import FAULTS


class BackgroundWriter:
    """Runs writes one after the other on a thread. What they write must not change any more: see `to_host`."""

    def __init__(self) -> None:
        """Start without anything to write."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._writes: list[Future[str | None]] = []

    def submit(self, path: Path, write: Callable[[], object]) -> None:
        """Write `path` in the background."""
        self._writes.append(self._thread.submit(_failure_of, path, write))

    def start_over(self) -> None:
        """Forget what could not be written: what follows is another checkpoint."""
        self._writes = [write for write in self._writes if not write.done()]

    def state(self) -> "WriterState":
        """How far it is.

        A failure is told again until `start_over`: no answer may be lost and then look like success.
        """
        failures = [failure for write in self._writes if write.done() and (failure := write.result()) is not None]
        return WriterState(all(write.done() for write in self._writes), failures[0] if failures else None)

    def is_done(self) -> bool:
        """Whether everything has been written, if this is the only rank; see `all_written`."""
        return all_written([self.state()])


class WriterState(NamedTuple):
    """Whether nothing is being written any more, and why a file could not be written (the first one, or None)."""

    is_done: bool
    failure: str | None


def all_written(ranks: Iterable[WriterState]) -> bool:
    """Whether all ranks have written everything; not necessarily flushed to disk.

    Raises:
        NotSaved: A file could not be written. Only once no rank writes any more, so that the rest can be removed.
    """
    states = list(ranks)
    if not all(state.is_done for state in states):
        return False
    for state in states:
        if state.failure is not None:
            raise NotSaved(state.failure)
    return True


def _failure_of(path: Path, write: Callable[[], object]) -> str | None:
    """Write; returns what the disk refused. The error itself would keep alive what was to be written."""
    try:
        FAULTS.at("write")
        write()
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two: of PyTorch and safetensors on a full disk
        return f"{path} could not be written: {type(error).__name__}: {' '.join(str(error).split())}"
    return None


def to_host(value: Any) -> Any:
    """A deep copy of what `torch.save` can write, with all tensors in host memory: later updates change none of it.

    Tensors that share memory share it in the copy, too, so that a file does not grow.
    """
    found = _TensorFinder(io.BytesIO())
    found.dump(value)
    storages: dict[int, UntypedStorage] = {}
    return copy.deepcopy(value, {id(tensor): _copy(tensor, storages) for tensor in found.tensors})


class _TensorFinder(pickle.Pickler):
    """Collects the tensors of an object instead of writing them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []

    def persistent_id(self, one: object) -> int | None:
        if not isinstance(one, Tensor):
            return None
        self.tensors.append(one)
        return len(self.tensors)


def _copy(tensor: Tensor, storages: dict[int, UntypedStorage]) -> Tensor:
    """The same view of a copied storage, which is copied once."""
    storage = tensor.untyped_storage()
    key = storage.data_ptr()
    if key not in storages:
        everything = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
        storages[key] = everything.to("cpu", copy=True).untyped_storage()
    view = torch.empty(0, dtype=tensor.dtype)
    return view.set_(storages[key], tensor.storage_offset(), tensor.shape, tensor.stride())
