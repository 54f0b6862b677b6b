"""Files that are written while training goes on: they hold what was saved, and a failure is not forgotten."""

import gc
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from openr1.errors import NotSaved
from openr1.tracking.checkpoint import wait_until_written
from openr1.workers import learner
from openr1.workers.background import BackgroundWriter, WriterState, all_written, to_host
from openr1.workers.deepspeed.checkpoint_engine import BackgroundCheckpointEngine
from tests.small_disk import small_disk
from tests.unit.workers.test_export import GatheringLearner


def make_state() -> dict[str, Any]:
    """A state as optimizers have it: views of one flat buffer, tensors in objects, numbers, and a tied weight."""
    flat = torch.arange(12, dtype=torch.float32)
    weight = nn.Parameter(flat[:6].view(2, 3))
    module = OrderedDict(weight=weight.data.t(), tied=weight.data, half=torch.ones(3, dtype=torch.bfloat16))
    return {
        "module": module,
        "flat": [flat, flat[6:]],
        "scaler": SimpleNamespace(scale=torch.tensor(2.0)),
        "lr_scheduler": {"rates": [0.5], "shape": torch.Size([2, 3])},
        "empty": torch.empty(0, 3),
    }


def spoil(state: dict[str, Any]) -> None:
    """Change every value in place, as an update does."""
    state["flat"][0].fill_(-1)
    state["module"]["half"].fill_(-1)
    state["scaler"].scale.fill_(-1)
    state["lr_scheduler"]["rates"][0] = -1.0


def check(state: dict[str, Any]) -> None:
    """That a state is the one of `make_state`, by hand."""
    assert state["module"]["weight"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert state["module"]["tied"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert state["module"]["half"].tolist() == [1, 1, 1]
    assert state["module"]["half"].dtype == torch.bfloat16
    assert state["flat"][1].tolist() == [6, 7, 8, 9, 10, 11]
    assert (float(state["scaler"].scale), state["lr_scheduler"]["rates"]) == (2.0, [0.5])
    assert state["lr_scheduler"]["shape"] == (2, 3)
    assert state["empty"].shape == (0, 3)


def test_a_copy_is_not_trained_on() -> None:
    """Catches a tensor, also one on the CPU or in an object, that the next update changes before it is written, and
    views that become copies of their own: a file would grow by all of them."""
    state = make_state()
    copied = to_host(state)
    spoil(state)
    check(copied)
    assert type(copied["module"]) is OrderedDict
    shared = {copied[key][index].untyped_storage().data_ptr() for key, index in (("module", "tied"), ("flat", 1))}
    assert shared == {copied["module"]["weight"].untyped_storage().data_ptr()}


def test_files_hold_what_was_saved(tmp_path: Path) -> None:
    """Catches a file that is written from tensors which have trained on, and one in another form than DeepSpeed's."""
    writer, go_on = BackgroundWriter(), threading.Event()
    writer.submit(tmp_path, lambda: go_on.wait(60))
    engine = BackgroundCheckpointEngine(SimpleNamespace(checkpoint_config={"checkpoint_serialization": True}), writer)
    state = make_state()
    engine.save(state, str(tmp_path / "state.pt"))
    spoil(state)
    assert not writer.is_done()
    assert not (tmp_path / "state.pt").exists()
    go_on.set()
    wait_until_written("the state", writer.is_done, 60, threading.Event())
    check(engine.load(str(tmp_path / "state.pt")))


def test_an_export_holds_what_was_saved(
    tiny_model: Callable[[bool], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an exported model with weights of a later step."""
    policy, go_on = GatheringLearner(tiny_model(True)), threading.Event()
    monkeypatch.setattr(learner.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(
        policy, "_merged", lambda kept: ((name, one.data) for name, one in policy.lm.named_parameters())
    )
    expected = {name: parameter.data.clone() for name, parameter in policy.lm.named_parameters()}
    policy.writer.submit(tmp_path, lambda: go_on.wait(60))
    policy.export(tmp_path / "model")
    for parameter in policy.lm.parameters():
        parameter.data.fill_(-1)
    go_on.set()
    wait_until_written("the model", policy.writer.is_done, 60, threading.Event())
    written = load_file(tmp_path / "model/model.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())


def test_a_failed_write_stays_failed(tmp_path: Path) -> None:
    """Catches a failure that is told once, to an answer that gets lost, or is covered by a write that succeeds; one
    that is told while files are still being written, which then cannot be removed; and one of an earlier checkpoint."""
    writer, written = BackgroundWriter(), []
    writer.submit(tmp_path / "missing", (tmp_path / "missing/file").touch)
    writer.submit(tmp_path / "there", lambda: written.append(1))
    for _ in range(2):
        with pytest.raises(NotSaved, match=r"missing could not be written: FileNotFoundError"):
            wait_until_written("both", writer.is_done, 60, threading.Event())
    go_on = threading.Event()
    writer.submit(tmp_path / "more", lambda: go_on.wait(60))
    assert not writer.is_done()
    go_on.set()
    with pytest.raises(NotSaved, match="could not be written"):
        wait_until_written("all", writer.is_done, 60, threading.Event())
    writer.start_over()
    assert writer.is_done()


def test_all_ranks_are_awaited_before_a_failure_is_told() -> None:
    """Catches a checkpoint that is removed because of one rank while another one still writes into it."""
    failed, busy, done = (
        WriterState(True, "policy could not be written"),
        WriterState(False, None),
        WriterState(True, None),
    )
    assert not all_written([failed, busy])
    assert all_written([done, done])
    with pytest.raises(NotSaved, match="policy could not be written"):
        all_written([done, failed])


def test_a_full_disk(tmp_path: Path) -> None:
    """Catches a full disk that is taken for a fault of the program, a part of a file that counts as written, and a copy
    of the whole state that lives on in the error."""
    tensors = {"weight": torch.arange(10**6)}
    copied = weakref.ref(tensors["weight"])
    with small_disk(tmp_path / "disk", 2**20) as folder:
        writer = BackgroundWriter()
        for as_zip in (False, True):
            engine = BackgroundCheckpointEngine(
                SimpleNamespace(checkpoint_config={"checkpoint_serialization": as_zip}), writer
            )
            engine.save(tensors, str(folder / f"state_{as_zip}.pt"))
        writer.submit(folder / "model", partial(save_file, tensors, folder / "model"))
        del tensors, engine
        with pytest.raises(NotSaved, match=r"state_False\.pt could not be written: RuntimeError: .*No space left"):
            wait_until_written("all", writer.is_done, 60, threading.Event())
        failures = [write.result() or "written" for write in writer._writes]
        assert [one.split(" could not be written: ")[1].split(":")[0] for one in failures] == [
            "RuntimeError",
            "RuntimeError",
            "SafetensorError",
        ]
        gc.collect()
        assert copied() is None
