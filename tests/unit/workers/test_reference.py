"""The reference's log-probs, through a real actor: whose they are, and what they are."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from openr1.actors import workers as actor_workers
from openr1.actors.workers import (
    WORKER_CPU_VARIABLES,
    group_settings,
    learner_settings,
    start_reference,
    start_workers,
    wait_for_references,
)
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.losses import ClipBounds
from openr1.algorithms.objectives.policy import PolicyObjective
from openr1.config.sections import LoraConfig, ModelConfig, OptimizerConfig, PolicyConfig
from openr1.errors import ActorLost
from openr1.placement.group import Place
from openr1.runtime import heartbeats
from openr1.runtime.faults import VARIABLE
from openr1.runtime.ray_cluster import start_actor
from openr1.runtime.restarts import Restarts
from openr1.types import Group, Response
from openr1.workers.group import PolicyGroup
from openr1.workers.reference import REFERENCE_OPTIONS, ReferenceWorker
from openr1.workers.reference_client import BaseModelReference, ReferenceClient
from openr1.workers.settings import ReferenceSettings
from tests.fakes import make_config, make_prompt, make_response

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


@pytest.mark.parametrize(("collected", "packing", "num_workers"), [("as submitted", False, 1), ("backwards", True, 2)])
def test_reference_log_probs_belong_to_their_groups(
    collected: str,
    packing: bool,
    num_workers: int,
    ray_cluster: None,
    tiny_model: Callable[[bool], Path],
    tmp_path: Path,
) -> None:
    """Catches groups or passes mixed up, sorting by length not undone, a last pass never sent, inserted tokens, and
    answers of two workers in the order of the workers.
    """
    model = tiny_model(True)
    settings = ReferenceSettings(
        model=ModelConfig(path=model, dtype="float32", packing=packing),
        temperature=TEMPERATURE,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        threads=1,
        on_gpu=False,
        log_path=tmp_path / "reference.log",
    )
    workers = [
        start_actor(ReferenceWorker, 1, Place().options | REFERENCE_OPTIONS, WORKER_CPU_VARIABLES, settings)
        for _ in range(num_workers)
    ]
    reference = ReferenceClient(workers, MICRO_BATCH_TOKENS, timeout_seconds=120)
    groups = make_groups(12)
    for _step in range(2):
        for group in groups:
            reference.submit(group)
        wanted = groups if collected == "as submitted" else groups[::-1]
        torch.testing.assert_close(reference.collect(wanted), plain_log_probs(model, wanted), atol=1e-4, rtol=0)
    for worker in workers:
        ray.kill(worker)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("action", ["kill", pytest.param("stop", marks=pytest.mark.slow)])
def test_what_a_lost_reference_owes_is_computed_again(
    action: str,
    ray_cluster: None,
    tiny_model: Callable[[bool], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a step that ends with its reference, or waits for a stopped one until its deadline; an answer that is
    lost or comes twice; and a restart that nothing counts.
    """
    monkeypatch.setattr(heartbeats, "SILENT_SECONDS", 10.0)
    model = tiny_model(True)
    config = make_config(tmp_path, model={"path": str(model), "dtype": "float32"}, rollout={"temperature": TEMPERATURE})
    config = config.model_copy(
        update={"policy": config.policy.model_copy(update={"micro_batch_tokens": MICRO_BATCH_TOKENS})}
    )
    # The workers have the environment of this process's Ray, which has started already.
    fault = {VARIABLE: f"reference_1/log_probs:{action}:2"}
    monkeypatch.setattr(actor_workers, "worker_variables", lambda on_gpu: WORKER_CPU_VARIABLES | fault)
    workers = [start_reference(config, Place(), index, tmp_path) for index in range(2)]
    wait_for_references(workers, 120)
    restarts = Restarts(workers)
    reference = ReferenceClient(workers, MICRO_BATCH_TOKENS, timeout_seconds=200)
    groups = make_groups(24)
    for step in range(3):
        for group in groups:
            reference.submit(group)
        torch.testing.assert_close(reference.collect(groups), plain_log_probs(model, groups), atol=1e-4, rtol=0)
        assert restarts.count() == 1, step
    for worker in workers:
        ray.kill(worker)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_reference_that_always_dies_ends_the_run(
    ray_cluster: None, tiny_model: Callable[[bool], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a crash loop without an end."""
    config = make_config(
        tmp_path, model={"path": str(tiny_model(True)), "dtype": "float32"}, rollout={"max_restarts": 1}
    )
    fault = {VARIABLE: "reference/log_probs:kill:1+"}
    monkeypatch.setattr(actor_workers, "worker_variables", lambda on_gpu: WORKER_CPU_VARIABLES | fault)
    worker = start_reference(config, Place(), 0, tmp_path)
    wait_for_references([worker], 120)
    reference = ReferenceClient([worker], MICRO_BATCH_TOKENS, timeout_seconds=200)
    groups = make_groups(3)
    for group in groups:
        reference.submit(group)
    with pytest.raises(ActorLost, match="reference 0"):
        reference.collect(groups)


@ray.remote(num_cpus=0)
class CountingWorker:
    """A reference that answers zeros and counts tokens."""

    def __init__(self) -> None:
        self._tokens = 0

    def ready(self) -> int:
        """At once."""
        return os.getpid()

    def log_probs(self, groups: list[Group]) -> torch.Tensor:
        """0 for every sampled token."""
        self._tokens += sum(group.num_tokens for group in groups)
        return torch.zeros(sum(group.num_response_tokens for group in groups))

    def tokens(self) -> int:
        """Tokens so far."""
        return self._tokens


def test_work_is_shared_by_tokens(ray_cluster: None) -> None:
    """Catches references that get the same number of calls instead of tokens, or all of the last buffer on one."""
    workers = [CountingWorker.remote() for _ in range(3)]
    reference = ReferenceClient(workers, MICRO_BATCH_TOKENS, timeout_seconds=120)
    groups = make_groups(30)
    for group in groups:
        reference.submit(group)
    reference.collect(groups)
    tokens = ray.get([worker.tokens.remote() for worker in workers])
    assert sum(tokens) == sum(group.num_tokens for group in groups)
    # A buffer is 4 passes of 64 tokens and the group that filled it, of at most 3 x 39.
    assert max(tokens) - min(tokens) <= 4 * 64 + 3 * 39
    for worker in workers:
        ray.kill(worker)


@pytest.mark.parametrize(("num_ranks", "zero_stage"), [(1, 1), (2, 3)])
def test_without_its_adapters_the_policy_is_its_reference(
    num_ranks: int, zero_stage: int, ray_cluster: None, tiny_model: Callable[[bool], Path], tmp_path: Path
) -> None:
    """Catches a LoRA run whose KL is measured to the policy itself, and adapters that stay off or frozen afterwards."""
    model = tiny_model(True)
    config = ModelConfig(path=model, dtype="float32", lora=LoraConfig(rank=4))
    policy_config = PolicyConfig(num_ranks=num_ranks, zero_stage=zero_stage, micro_batch_tokens=MICRO_BATCH_TOKENS)
    learner = learner_settings(config, OptimizerConfig(learning_rate=0.1), policy_config, 9, TEMPERATURE)
    workers = start_workers(learner, policy_config, [Place()] * num_ranks, tmp_path / "logs")
    policy = PolicyGroup(workers, group_settings(learner, policy_config))
    groups = make_groups(4)
    batch = TrainBatch.from_groups(groups)
    batch = batch.with_advantages(torch.ones(len(batch))).with_loss_weights("token", 30)
    policy.step(batch, PolicyObjective("ppo", ClipBounds(0.2, 0.2), kl_coef=0.0))
    reference = BaseModelReference(policy)
    for group in groups:
        reference.submit(group)
    plain = plain_log_probs(model, groups)
    trained = policy.log_probs(batch)[batch.response_mask]
    assert float((trained - plain).abs().max()) > 0.1
    torch.testing.assert_close(reference.collect(groups), plain, atol=1e-4, rtol=0)
    torch.testing.assert_close(policy.log_probs(batch)[batch.response_mask], trained)
    # Gradients still reach the adapters.
    policy.step(batch, PolicyObjective("ppo", ClipBounds(0.2, 0.2), kl_coef=0.0))
    assert float((policy.log_probs(batch)[batch.response_mask] - trained).abs().max()) > 0.01
    for worker in workers:
        ray.kill(worker)
