"""The reference's log-probs, through a real actor: whose they are, and what they are."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from openr1.config.sections import ModelConfig
from openr1.runtime.ray_cluster import start_actor
from openr1.training.actors import WORKER_CPU_VARIABLES
from openr1.types import Group, Response
from openr1.workers.group import ReferenceClient
from openr1.workers.reference import ReferenceWorker
from openr1.workers.settings import ReferenceSettings
from tests.fakes import make_prompt, make_response

MICRO_BATCH_TOKENS = 64
TEMPERATURE = 0.7


def make_groups(count: int) -> list[Group]:
    """Groups of three responses of 1 to 30 random tokens; every seventh token was inserted, not sampled."""
    rng = random.Random(0)

    def tokens(number: int) -> list[int]:
        return [rng.randrange(5, 40) for _ in range(number)]

    def response(length: int) -> Response:
        loss_mask = tuple(index % 7 != 3 for index in range(length))
        return replace(make_response(*tokens(length)), loss_mask=loss_mask)

    prompts = [make_prompt(number, token_ids=tuple(tokens(rng.randint(2, 9)))) for number in range(count)]
    return [Group(prompt, tuple(response(rng.randint(1, 30)) for _ in range(3))) for prompt in prompts]


def plain_log_probs(model: Path, groups: list[Group]) -> torch.Tensor:
    """Of sampled tokens, one response at a time through transformers alone."""
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    rows = []
    for group in groups:
        for response in group.responses:
            tokens = torch.tensor([*group.prompt.token_ids, *response.token_ids])
            with torch.no_grad():
                logits = lm(tokens[None]).logits[0] / TEMPERATURE
            predicted = logits.log_softmax(-1)[:-1].gather(-1, tokens[1:, None]).squeeze(-1)
            rows.append(predicted[-len(response.token_ids) :][torch.tensor(response.loss_mask)])
    return torch.cat(rows)


@pytest.mark.parametrize(("collected", "packing"), [("as submitted", False), ("backwards", True)])
def test_reference_log_probs_belong_to_their_groups(
    collected: str, packing: bool, ray_cluster: None, tiny_model: Callable[[bool], Path], tmp_path: Path
) -> None:
    """Catches groups or passes mixed up, sorting by length not undone, a last pass never sent, inserted tokens."""
    model = tiny_model(True)
    settings = ReferenceSettings(
        model=ModelConfig(path=model, dtype="float32", packing=packing),
        temperature=TEMPERATURE,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        threads=1,
        on_gpu=False,
        log_path=tmp_path / "reference.log",
    )
    worker = start_actor(ReferenceWorker, 1, False, WORKER_CPU_VARIABLES, settings)
    reference = ReferenceClient(worker, MICRO_BATCH_TOKENS, timeout_seconds=120)
    groups = make_groups(12)
    for _step in range(2):
        for group in groups:
            reference.submit(group)
        wanted = groups if collected == "as submitted" else groups[::-1]
        torch.testing.assert_close(reference.collect(wanted), plain_log_probs(model, wanted), atol=1e-4, rtol=0)
    ray.kill(worker)
