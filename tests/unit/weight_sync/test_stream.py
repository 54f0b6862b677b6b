"""The file of a push, read back by the safetensors library."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from openr1.errors import WeightSyncError
from openr1.weight_sync.stream import TensorShape, write_tensors
from tests.running import ROOT


def shapes_of(tensors: dict[str, Tensor]) -> list[TensorShape]:
    return [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    """Catches offsets, types or shapes that the format does not allow, and strided tensors that are written as stored.

    The library refuses holes, overlaps and a wrong size.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a.weight": torch.randn(3, 5, generator=generator).bfloat16(),
        "a.bias": torch.randn(5, generator=generator),
        "transposed": torch.randn(4, 6, generator=generator).T,
        "a scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 7),
        "half": torch.randn(2, 2, generator=generator).half(),
        "counts": torch.arange(7),
        "flags": torch.tensor([True, False, True]),
    }
    write_tensors(tmp_path / "push", shapes_of(tensors), tensors.items())
    found = load_file(tmp_path / "push")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(tmp_path / "push", framework="pt") as file:
        assert sorted(file.keys()) == sorted(tensors)


def test_nothing_at_all(tmp_path: Path) -> None:
    """Catches a crash for a model without weights."""
    write_tensors(tmp_path / "push", [], [])
    assert load_file(tmp_path / "push") == {}


@pytest.mark.parametrize(
    ("came", "message"),
    [
        ({"b": torch.zeros(2), "a": torch.zeros(2)}, r"weight 0 is \('b', torch.float32, \(2,\)\)"),
        ({"a": torch.zeros(3), "b": torch.zeros(2)}, r"weight 0 is .*\(3,\).* and \('a', torch.float32, \(2,\)\)"),
        ({"a": torch.zeros(2).half(), "b": torch.zeros(2)}, "torch.float16"),
        ({"a": torch.zeros(2)}, r"weight 1 is missing: \('b'"),
        ({"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}, "weight 2 is .* and None was announced"),
    ],
)
def test_weights_that_were_not_announced(came: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    """Catches a weight that is written where another belongs: engines would serve it without an error."""
    announced = shapes_of({"a": torch.zeros(2), "b": torch.zeros(2)})
    with pytest.raises(WeightSyncError, match=message):
        write_tensors(tmp_path / "push", announced, came.items())


def test_a_file_without_room(tmp_path: Path) -> None:
    """Catches a file that is cut off without an error. A limit on the size of files stands for a full disk."""
    code = (
        "import resource, torch; from pathlib import Path; from openr1.weight_sync.stream import write_tensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"write_tensors(Path({str(tmp_path / 'push')!r}), [('a', torch.float32, (1000,))], [('a', torch.zeros(1000))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "OSError: [Errno 27]" in done.stderr.splitlines()[-1]
