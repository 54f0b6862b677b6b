"""Writes a safetensors file tensor by tensor: beside the file, one tensor is in host memory at a time.

`safetensors.torch.save_file` takes all tensors at once.
Format: https://huggingface.co/docs/safetensors: the header's length (8 bytes, little endian), a JSON header, the data.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from openr1.errors import WeightSyncError

DTYPE_NAMES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 8

TensorShape = tuple[str, torch.dtype, tuple[int, ...]]
"""Name, data type and shape of a tensor."""


def write_tensors(path: Path, shapes: Sequence[TensorShape], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write tensors from any device as they come; `shapes` announces all of them in the same order.

    Raises:
        WeightSyncError: A tensor is not the announced one, or there are more or fewer.
        OSError: There is no room for the file.
    """
    count = 0
    with path.open("wb") as file:
        file.write(_header(shapes))
        for name, tensor in tensors:
            expected = shapes[count] if count < len(shapes) else None
            found = (name, tensor.dtype, tuple(tensor.shape))
            if expected != found:
                raise WeightSyncError(f"weight {count} is {found}, and {expected} was announced")
            file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            count += 1
    if count < len(shapes):
        raise WeightSyncError(f"weight {count} is missing: {shapes[count]} was announced")


def _header(shapes: Sequence[TensorShape]) -> bytes:
    """The start of the file, which says where behind it each tensor is."""
    start, entries = 0, {}
    for name, dtype, shape in shapes:
        end = start + dtype.itemsize * torch.Size(shape).numel()
        entries[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
