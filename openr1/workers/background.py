"""Writes files of a training worker while it trains on: tensors are copied first, a thread does the rest."""

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, UntypedStorage

from openr1.errors import PolicyError


class BackgroundWriter:
    """Runs writes one after the other on a thread. What they write must not change any more: see `to_host`."""

    def __init__(self) -> None:
        """Start without anything to write."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._writes: list[tuple[Path, Future[object]]] = []

    def submit(self, path: Path, write: Callable[[], object]) -> None:
        """Write `path` in the background."""
        self._writes.append((path, self._thread.submit(write)))

    def is_done(self) -> bool:
        """Whether everything has been written; not necessarily flushed to disk.

        Raises:
            PolicyError: A write failed, now or earlier: no answer may be lost and then look like success.
        """
        for path, future in self._writes:
            if future.done() and (error := future.exception()) is not None:
                raise PolicyError(f"{path} could not be written: {type(error).__name__}: {error}") from error
        self._writes = [write for write in self._writes if not write[1].done()]
        return not self._writes


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
