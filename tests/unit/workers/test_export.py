"""Exports: what each rank keeps in memory, and what is written; without DeepSpeed and processes."""

import json
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from openr1.config.sections import ModelConfig, OptimizerConfig
from openr1.data.template import ChatTemplate
from openr1.data.tokenizer import load_tokenizer
from openr1.tracking.checkpoint import wait_until_written
from openr1.workers import learner
from openr1.workers.background import BackgroundWriter
from openr1.workers.learner import PolicyLearner
from openr1.workers.lora import KeptUpdate
from openr1.workers.model import load_causal_lm
from openr1.workers.settings import LearnerSettings


class GatheringLearner(PolicyLearner):
    """A policy whose weights come as under ZeRO 3: each a copy, made when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Load the model alone: no backend, which needs a process group."""
        model = ModelConfig(path=path, dtype="float32")
        template = ChatTemplate("plain", {})
        self.settings = LearnerSettings(model, OptimizerConfig(), 3, 1.0, 1, template=template)
        self.lm, self._adapters, self.writer = load_causal_lm(model), None, BackgroundWriter()
        self.copies: list[weakref.ref[Tensor]] = []
        self.most_alive = 0

    def _merged(self, kept: KeptUpdate) -> Iterator[tuple[str, Tensor]]:
        """Yield copies of twice the value; count how many of them live at the same time."""
        for name, parameter in self.lm.named_parameters():
            copy = parameter.data * 2
            self.copies.append(weakref.ref(copy))
            self.most_alive = max(self.most_alive, sum(one() is not None for one in self.copies))
            yield name, copy
            del copy


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_rank_that_writes_keeps_the_weights(
    rank: int, tiny_model: Callable[[bool], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a copy of the model on every rank of a machine, and a rank that leaves the others alone in a gather.

    The tensor that was yielded before may live until the next one has been made, so two do.
    """
    policy = GatheringLearner(tiny_model(True))
    names = [name for name, _ in policy.lm.named_parameters()]
    monkeypatch.setattr(learner.dist, "get_rank", lambda: rank)
    policy.export(tmp_path / "model")
    wait_until_written("the model", policy.writer.is_done, 60, Event())
    assert len(policy.copies) == len(names) > 10
    if rank == 1:
        assert policy.most_alive <= 2
        assert not (tmp_path / "model").exists()
        return
    written = load_file(tmp_path / "model/model.safetensors")
    assert written.keys() == set(names)
    for name, parameter in policy.lm.named_parameters():
        torch.testing.assert_close(written[name], parameter.data * 2, rtol=0, atol=0)
    assert (tmp_path / "model/tokenizer.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    # The run's chat template, which is not the one of the model that it began with.
    assert tokenizer.apply_chat_template([{"role": "user", "content": "2+3?"}], tokenize=False) == "2+3?\n"


def test_a_vicuna_is_exported(
    tiny_model: Callable[[bool], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a training that is lost at its end: transformers does not write sampling parameters without do_sample."""
    folder = Path(shutil.copytree(tiny_model(True), tmp_path / "base"))
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 0.6, "top_p": 0.9}))
    policy = GatheringLearner(folder)
    monkeypatch.setattr(learner.dist, "get_rank", lambda: 0)
    policy.export(tmp_path / "model")
    wait_until_written("the model", policy.writer.is_done, 60, Event())
    assert json.loads((tmp_path / "model/generation_config.json").read_text())["do_sample"] is True
    assert load_tokenizer(tmp_path / "model").encode("1 + 2") == load_tokenizer(folder).encode("1 + 2")
