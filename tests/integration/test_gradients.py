"""The gradient does not depend on how a batch is cut: real DeepSpeed, one and two gloo ranks, every ZeRO stage."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import deepspeed
import pytest
import ray
import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from openr1.actors.workers import group_settings, start_workers
from openr1.algorithms import head
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.losses import ClipBounds
from openr1.algorithms.objectives.policy import PolicyObjective
from openr1.algorithms.objectives.sft import SftObjective
from openr1.algorithms.objectives.value import ValueObjective
from openr1.algorithms.token_ops import Chunking
from openr1.config.sections import ModelConfig, OptimizerConfig, PolicyConfig
from openr1.placement.group import Place
from openr1.workers.group import CriticGroup, PolicyGroup
from openr1.workers.micro_batches import cut_into_micro_batches, plan_batch
from openr1.workers.settings import LearnerSettings
from openr1.workers.worker import TrainWorker
from tests.integration.test_world_size import save

BETA1 = 0.9
OBJECTIVE = PolicyObjective("ppo", ClipBounds(0.2, 0.2), kl_coef=0.1)
ADAM = OptimizerConfig(learning_rate=1e-3, adam_betas=(BETA1, 0.95), max_norm=0.0)


class ReadableWorker(TrainWorker):
    """A rank that tells the gradient of its newest update: the first one, or any where AdamW's beta1 is 0."""

    def load_model(self, store_at: tuple[str, int], learner: LearnerSettings) -> None:
        """Load, and from then on know the optimizer that makes the steps."""
        super().load_model(store_at, learner)
        register_optimizer_step_pre_hook(self._note)

    def gradients(self) -> dict[str, torch.Tensor]:
        """Full gradients by name: after one AdamW step from zero state, the first moment is (1 - beta1) * gradient."""
        settings = self.learner.settings
        module = self.policy.lm if settings.role == "policy" else self.learner.module
        share = 1 - settings.optimizer.adam_betas[0]
        return {name: self._first_moment(parameter) / share for name, parameter in module.named_parameters()}

    def _note(self, optimizer: Optimizer, *_: object) -> None:
        self._optimizer = optimizer

    def _first_moment(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        if self.learner.settings.zero_stage == 0:
            moment = self._optimizer.state[parameter]["exp_avg"]
        else:
            moment = deepspeed.utils.safe_get_full_optimizer_state(parameter, "exp_avg")
        return moment.float()


def make_batch() -> TrainBatch:
    """Eight rows of different lengths, with advantages, old log-probs off the policy, and a reference."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for length in (3, 9, 4, 12, 7, 5, 11, 6):
        tokens = torch.randint(5, 500, (4 + length,), generator=generator).tolist()
        rows.append((tokens[:4], tokens[4:]))
    batch = TrainBatch.from_tokens(rows).with_advantages(torch.randn(8, generator=generator))
    noise = 0.3 * torch.randn(batch.input_ids.shape, generator=generator)
    log_probs = (-6.2 + noise) * batch.response_mask
    return TrainBatch(
        **{**vars(batch), "old_log_probs": log_probs, "ref_log_probs": log_probs + 0.1 * batch.response_mask}
    )


def start_ranks(
    learner: LearnerSettings, policy: PolicyConfig, logs: Path, kind: type[TrainWorker] = ReadableWorker
) -> tuple[PolicyGroup, list[ray.actor.ActorHandle]]:
    """A policy, and its ranks."""
    workers = start_workers(learner, policy, [Place()] * (policy.num_ranks or 1), logs, kind)
    return PolicyGroup(workers, group_settings(learner, policy)), workers


def kill(workers: list[ray.actor.ActorHandle]) -> None:
    """End the ranks, whose memory others need."""
    for worker in workers:
        ray.kill(worker)


def gradients_of(workers: list[ray.actor.ActorHandle]) -> dict[str, torch.Tensor]:
    """As rank 0 tells them; reading is a collective."""
    return ray.get([worker.gradients.remote() for worker in workers])[0]


def plain_torch_gradients(model: Path, batch: TrainBatch, entropy_coef: float = 0.0) -> dict[str, torch.Tensor]:
    """The same loss written out once more, on the whole batch, with nothing of openr1."""
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    logits = lm(batch.input_ids, attention_mask=batch.attention_mask.long()).logits[:, :-1]
    targets = batch.input_ids[:, 1:]
    distribution = torch.distributions.Categorical(logits=logits)
    log_probs = distribution.log_prob(targets)
    mask = batch.response_mask[:, 1:]
    ratio = torch.exp(log_probs - batch.old_log_probs[:, 1:])
    advantages = batch.advantages[:, 1:]
    surrogate = torch.min(ratio * advantages, torch.clip(ratio, 0.8, 1.2) * advantages)
    difference = batch.ref_log_probs[:, 1:] - log_probs
    kl = torch.exp(difference) - difference - 1
    loss = ((-surrogate + 0.1 * kl - entropy_coef * distribution.entropy()) * mask).sum() / mask.sum()
    loss.backward()
    return {name: parameter.grad for name, parameter in lm.named_parameters()}


@pytest.mark.parametrize(
    ("num_ranks", "micro_batch_tokens", "packing"), [(1, 10_000, False), (2, 40, False), (2, 30, True)]
)
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_gradient_equals_plain_torch(
    ray_cluster: None,
    tiny_model: Callable[[bool], Path],
    tmp_path: Path,
    zero_stage: int,
    num_ranks: int,
    micro_batch_tokens: int,
    packing: bool,
) -> None:
    """Catches a mean per micro-batch or rank instead of over all tokens, and gradients averaged where they must add.

    One rank with one micro-batch, and two ranks with two or more each, all against the same loss in plain torch. Packed
    rows that see their neighbour, or whose positions go on from it, would show as well. So would an evaluation before
    the update that goes backward: its gradient would come on top.
    """
    model = tiny_model(True)
    policy = PolicyConfig(num_ranks=num_ranks, zero_stage=zero_stage, micro_batch_tokens=micro_batch_tokens)
    settings = ModelConfig(path=model, dtype="float32", packing=packing)
    group, workers = start_ranks(LearnerSettings(settings, ADAM, zero_stage, 1.0, 10), policy, tmp_path / "logs")
    batch = make_batch().with_loss_weights("token", 100)
    if num_ranks == 2:
        assert all(len(rank) >= 2 and all(rank) for rank in plan_batch(batch, 2, micro_batch_tokens, 64, packing))
    evaluated = group.step(batch, OBJECTIVE, apply=False)
    stats = group.step(batch, OBJECTIVE)
    gradients = gradients_of(workers)
    kill(workers)
    assert evaluated.loss == pytest.approx(stats.loss, rel=1e-6)
    assert evaluated.sums._asdict() == pytest.approx(stats.sums._asdict(), rel=1e-6)
    assert (evaluated.applied, stats.applied) == (False, True)
    expected = plain_torch_gradients(model, batch)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            gradients[name], gradient, atol=2e-6, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    norm = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    assert stats.grad_norm == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_ranks_add_up_bfloat16_gradients_in_float32(
    ray_cluster: None, tiny_model: Callable[[bool], Path], tmp_path: Path, zero_stage: int
) -> None:
    """Catches gradients that are rounded to bfloat16 for their way between ranks, once more the more ranks there are.

    One micro-batch a rank: its gradient is in bfloat16, and the mean of two such numbers mostly is not.
    """
    policy = PolicyConfig(num_ranks=2, zero_stage=zero_stage, micro_batch_tokens=10_000)
    settings = ModelConfig(path=tiny_model(True), dtype="bfloat16")
    optimizer = OptimizerConfig(learning_rate=1e-3, adam_betas=(0.0, 0.95), max_norm=0.0)
    group, workers = start_ranks(LearnerSettings(settings, optimizer, zero_stage, 1.0, 10), policy, tmp_path / "logs")
    batch = make_batch().with_loss_weights("token", 100)
    assert [len(rank) for rank in plan_batch(batch, 2, 10_000, 64)] == [1, 1]
    group.step(batch, OBJECTIVE)
    gradients = gradients_of(workers)
    kill(workers)
    for name, gradient in gradients.items():
        rounded = (gradient != gradient.bfloat16().float()).float().mean()
        assert rounded > 0.2, name


class ChunkingWorker(ReadableWorker):
    """A policy rank that may hold the logits of few tokens, as with a large vocabulary."""

    def load_model(self, store_at: tuple[str, int], learner: LearnerSettings) -> None:
        """Load, then lower the limit."""
        super().load_model(store_at, learner)
        self.learner.module.chunks = Chunking(5, 5)


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_ranks_may_have_different_numbers_of_chunks(ray_cluster: None, tmp_path: Path, zero_stage: int) -> None:
    """Catches a weight that ZeRO 3 gathers once for each chunk: ranks then wait for each other in different gathers.

    It keeps weights of less than 100,000 values whole on every rank; the head here has 131,072.
    """
    sizes = {"hidden_size": 128, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen2Config(vocab_size=1024, num_hidden_layers=1, tie_word_embeddings=False, **sizes)
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    settings = ModelConfig(path=tmp_path / "model", dtype="float32")
    learner = LearnerSettings(settings, ADAM, zero_stage, 1.0, 10)
    policy = PolicyConfig(num_ranks=2, zero_stage=zero_stage, micro_batch_tokens=10_000, timeout_seconds=60.0)
    group, workers = start_ranks(learner, policy, tmp_path / "logs", ChunkingWorker)
    batch = make_batch().mask_responses(torch.arange(8) > 4).with_loss_weights("token", 100)
    shares = cut_into_micro_batches(batch, plan_batch(batch, 2, 10_000, 128))
    tokens = [micro.num_response_tokens for share in shares for micro in share]
    assert len({-(-count // 5) for count in tokens}) == 2
    group.step(batch, replace(OBJECTIVE, entropy_coef=0.5))
    gradients = gradients_of(workers)
    kill(workers)
    for name, gradient in plain_torch_gradients(tmp_path / "model", batch, entropy_coef=0.5).items():
        torch.testing.assert_close(gradients[name], gradient, atol=2e-6, rtol=1e-4)


class BFloat16HeadWorker(ChunkingWorker):
    """A policy rank whose head keeps bfloat16 operands, as on a GPU; the product itself is emulated."""

    def load_model(self, store_at: tuple[str, int], learner: LearnerSettings) -> None:
        """Choose that head, then load."""
        head.keeps_bfloat16 = lambda weight: weight.dtype == torch.bfloat16
        super().load_model(store_at, learner)


@pytest.mark.parametrize(
    ("zero_stage", "tied"),
    [(3, True), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(1, True), (3, False)])],
)
def test_the_head_of_gpus_gives_the_same_gradient(
    ray_cluster: None, tiny_model: Callable[[bool], Path], tmp_path: Path, zero_stage: int, tied: bool
) -> None:
    """Catches a head whose weight ZeRO 3 has freed before the backward pass, and a gradient that DeepSpeed misses.

    Against float32 copies of the operands: the gradient of the logits is rounded to bfloat16, by 2^-8 at most, and
    then that of the weight and of hidden states. All gradients count together, since the backbone's own bfloat16
    makes more of a difference in those that nearly cancel (biases of keys).
    """
    settings = ModelConfig(path=tiny_model(tied), dtype="bfloat16")
    optimizer = OptimizerConfig(learning_rate=1e-3, adam_betas=(0.0, 0.95), max_norm=0.0)
    learner = LearnerSettings(settings, optimizer, zero_stage, 1.0, 10)
    policy = PolicyConfig(num_ranks=2, zero_stage=zero_stage, micro_batch_tokens=40, timeout_seconds=60.0)
    found = []
    for kind in (ChunkingWorker, BFloat16HeadWorker):
        group, workers = start_ranks(learner, policy, tmp_path / "logs", kind)
        group.step(make_batch().with_loss_weights("token", 100), replace(OBJECTIVE, entropy_coef=0.5))
        found.append(torch.cat([gradient.flatten() for gradient in gradients_of(workers).values()]))
        kill(workers)
    expected, gradient = found
    assert 0 < (gradient - expected).norm() < 2 * 2**-8 * expected.norm()


@pytest.mark.parametrize("packing", [False, True])
def test_supervised_loss_is_that_of_transformers(
    ray_cluster: None, tiny_model: Callable[[bool], Path], tmp_path: Path, packing: bool
) -> None:
    """Catches a loss over prompts, a mean of row means, a label shifted by one, and rows that see their neighbours."""
    model = tiny_model(True)
    batch = make_batch().with_loss_weights("token", 100)
    settings = ModelConfig(path=model, dtype="float32", packing=packing)
    policy = PolicyConfig(zero_stage=1, micro_batch_tokens=40)
    group, workers = start_ranks(LearnerSettings(settings, ADAM, 1, 1.0, 10), policy, tmp_path / "logs")
    stats = group.step(batch, SftObjective())
    kill(workers)
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    labels = torch.where(batch.response_mask, batch.input_ids, -100)
    with torch.no_grad():
        expected = lm(batch.input_ids, attention_mask=batch.attention_mask.long(), labels=labels).loss
    assert stats.loss == pytest.approx(float(expected), rel=1e-5)
    assert stats.sums.nll / batch.num_response_tokens == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("zero_stage", "micro_batch_tokens", "packing"), [(1, 40, False), (3, 30, True)])
def test_second_update_of_a_critic_equals_plain_torch(
    ray_cluster: None,
    tiny_model: Callable[[bool], Path],
    tmp_path: Path,
    zero_stage: int,
    micro_batch_tokens: int,
    packing: bool,
) -> None:
    """Catches a mean per micro-batch or rank, a head that does not train, and values read at another token.

    Two ranks with two or more micro-batches each. At the first update the head is 0, and nothing else has a gradient;
    the values and the gradient of the second are those of plain torch. A saved critic is loaded as it was.
    """
    model, generator = tiny_model(False), torch.Generator().manual_seed(4)
    batch = make_batch()
    values, returns = (0.3 * torch.randn(batch.input_ids.shape, generator=generator) for _ in range(2))
    batch = TrainBatch(**{**vars(batch), "values": values, "returns": 1 + returns}).with_loss_weights("token", 100)
    optimizer = OptimizerConfig(learning_rate=0.01, adam_betas=(0.0, 0.95), max_norm=0.0)
    settings = ModelConfig(path=model, dtype="float32", packing=packing)
    learner = LearnerSettings(settings, optimizer, zero_stage, 1.0, 10, role="critic")
    policy = PolicyConfig(num_ranks=2, zero_stage=zero_stage, micro_batch_tokens=micro_batch_tokens)
    workers = start_workers(learner, policy, [Place()] * 2, tmp_path / "logs", ReadableWorker)
    group = CriticGroup(workers, group_settings(learner, policy))
    assert all(len(rank) >= 2 and all(rank) for rank in plan_batch(batch, 2, micro_batch_tokens, 64, packing))
    assert not group.values(batch).any()
    group.step(batch, ValueObjective(0.5))
    save(group, tmp_path / "critic")
    after_one = group.values(batch)
    stats = group.begin_step(batch, ValueObjective(0.5))()
    gradients = gradients_of(workers)
    assert not torch.equal(group.values(batch), after_one)
    group.load(tmp_path / "critic")
    torch.testing.assert_close(group.values(batch), after_one)
    kill(workers)

    backbone = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).model
    head = torch.nn.Parameter(torch.zeros(backbone.config.hidden_size))
    named = {f"backbone.{name}": parameter for name, parameter in backbone.named_parameters()} | {"head.weight": head}
    adamw = torch.optim.AdamW(named.values(), lr=0.01, betas=(0.0, 0.95), weight_decay=0.0)
    mask = batch.response_mask[:, 1:]
    for _ in range(2):
        if head.grad is not None:
            adamw.step()
        adamw.zero_grad()
        now = (backbone(batch.input_ids, attention_mask=batch.attention_mask.long()).last_hidden_state @ head)[:, :-1]
        bounded = values[:, 1:] + torch.clip(now - values[:, 1:], -0.5, 0.5)
        errors = torch.stack([now - returns[:, 1:] - 1, bounded - returns[:, 1:] - 1])
        loss = 0.5 * errors.square().amax(0)[mask].mean()
        loss.backward()
    torch.testing.assert_close(after_one[:, 1:][mask], now.detach()[mask], atol=1e-4, rtol=1e-4)
    assert stats.loss == pytest.approx(float(loss.detach()), rel=1e-4)
    assert gradients.keys() == named.keys()
    for name, parameter in named.items():
        torch.testing.assert_close(gradients[name].flatten(), parameter.grad.flatten(), atol=2e-5, rtol=1e-3)
    norm = torch.cat([parameter.grad.flatten() for parameter in named.values()]).norm()
    assert stats.grad_norm == pytest.approx(float(norm), rel=1e-3)
