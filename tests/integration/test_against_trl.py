"""Advantages, losses and gradients against TRL's own trainers, on random inputs and a real model.

TRL adds 1e-4 to deviations, openr1 1e-6: the estimators are given TRL's. Where the two differ by design is in
docs/algorithms.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from openr1.algorithms.advantages import (
    decoupled_advantages,
    group_centered_advantages,
    group_normalized_advantages,
    leave_one_out_advantages,
)
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.losses import ClipBounds
from openr1.algorithms.objectives.policy import PolicyObjective
from openr1.algorithms.off_policy import OffPolicyCorrection
from openr1.algorithms.optimizer_step import optimizer_step
from openr1.algorithms.token_ops import Chunking, TokenOutputs
from openr1.workers.model import LogProbModel, compute_head_in_float32
from reward_server.compat.adapters import trl_reward
from tests.unit.reward_server.test_adapters import PUZZLE, SOLVED

LONGEST, GROUP, EPS_OF_TRL = 9, 4, 1e-4
Maker = Callable[..., Any]


@pytest.fixture
def make_trl(tiny_model: Callable[[bool], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """A trainer of TRL's for the tiny model in float32; `reward` gives each response's."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")

    def make(method: str, reward: Callable[..., list[float | None]], **settings: Any) -> Any:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
        from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

        trainer, config = {
            "grpo": (GRPOTrainer, GRPOConfig),
            "rloo": (RLOOTrainer, RLOOConfig),
            "gmpo": (GMPOTrainer, GMPOConfig),
        }[method]
        model = tiny_model(True)
        arguments = config(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            per_device_train_batch_size=3 * GROUP,
            num_generations=GROUP,
            max_completion_length=LONGEST,
            **settings,
        )
        return trainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            args=arguments,
            reward_funcs=reward,
            train_dataset=Dataset.from_list([{"prompt": "Make 3 from 1, 2."}]),
            processing_class=AutoTokenizer.from_pretrained(model),
        )

    return make


@pytest.mark.parametrize(
    ("method", "settings", "estimate"),
    [
        ("grpo", {"beta": 0.0}, lambda *args: group_normalized_advantages(*args, eps=EPS_OF_TRL)),
        ("grpo", {"beta": 0.0, "scale_rewards": "none"}, group_centered_advantages),
        ("rloo", {"beta": 0.0}, leave_one_out_advantages),
    ],
    ids=["grpo", "dr_grpo", "rloo"],
)
def test_advantages_are_those_of_trl(
    make_trl: Maker, method: str, settings: dict[str, Any], estimate: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Catches another deviation (n, not n - 1), a baseline that holds the response itself, and failures that count."""
    generator = torch.Generator().manual_seed(5)
    rewards = torch.randint(0, 5, (3, GROUP), generator=generator) / 4
    valid = torch.ones(3, GROUP, dtype=torch.bool)
    valid[1, 2] = False
    answers = [float(reward) if ok else None for reward, ok in zip(rewards.flatten(), valid.flatten(), strict=True)]
    trainer = make_trl(method, lambda completions, **_: answers, **settings)
    trainer.model.train()
    prompts = [{"prompt": f"Make {number} from 1, 2."} for number in (3, 4, 5) for _ in range(GROUP)]
    expected = trainer._generate_and_score_completions(prompts)["advantages"]
    torch.testing.assert_close(estimate(rewards, valid).flatten(), expected, atol=1e-5, rtol=1e-5)


def test_gdpo_is_that_of_trl(make_trl: Maker) -> None:
    """Catches another order of normalizing, weighting and adding, and a component that is missing and counts as 0."""
    generator = torch.Generator().manual_seed(6)
    values = torch.randint(0, 5, (2, 3, GROUP), generator=generator) / torch.tensor([4.0, 0.5])[:, None, None]
    present = torch.ones(2, 3, GROUP, dtype=torch.bool)
    # One response without its second component, and one that could not be graded.
    present[1, 0, 1], present[:, 1, 2] = False, False
    answers = [
        [float(value) if there else None for value, there in zip(*rows, strict=True)]
        for rows in zip(values.flatten(1), present.flatten(1), strict=True)
    ]
    rewards = [lambda completions, *, answer=answer, **_: answer for answer in answers]
    settings = {"beta": 0.0, "multi_objective_aggregation": "normalize_then_sum", "reward_weights": [1.0, 0.25]}
    trainer = make_trl("grpo", rewards, **settings)
    trainer.model.train()
    prompts = [{"prompt": f"Make {number} from 1, 2."} for number in (3, 4, 5) for _ in range(GROUP)]
    expected = trainer._generate_and_score_completions(prompts)["advantages"]
    ours = decoupled_advantages(values, present, torch.tensor([1.0, 0.25]), present.any(0), eps=EPS_OF_TRL)
    torch.testing.assert_close(ours.flatten(), expected, atol=1e-5, rtol=1e-5)


@dataclass(frozen=True)
class Case:
    """The same loss in TRL's words and in ours."""

    trl: dict[str, Any]
    objective: PolicyObjective
    aggregation: str
    sampled_elsewhere: bool = False
    """The engine's log-probs differ, and are corrected for."""
    method: str = "grpo"
    """TRL's trainer."""


BOUNDS = ClipBounds(low=0.2, high=0.3)
CLIPS = {"epsilon": 0.2, "epsilon_high": 0.3}
KL = {"beta": 0.3, "use_bias_correction_kl": False}
CASES = {
    "grpo": Case({"loss_type": "grpo", **CLIPS}, PolicyObjective("ppo", BOUNDS, 0.0), "sequence"),
    "bnpo": Case({"loss_type": "bnpo", **CLIPS}, PolicyObjective("ppo", BOUNDS, 0.0), "token"),
    "dapo": Case({"loss_type": "dapo", **CLIPS}, PolicyObjective("ppo", BOUNDS, 0.0), "token"),
    "dr_grpo": Case({"loss_type": "dr_grpo", **CLIPS}, PolicyObjective("ppo", BOUNDS, 0.0), "constant"),
    "kl": Case({"loss_type": "bnpo", **KL, **CLIPS}, PolicyObjective("ppo", BOUNDS, 0.3), "token"),
    "dual clip": Case(
        {"loss_type": "bnpo", "delta": 1.5, **CLIPS}, PolicyObjective("ppo", ClipBounds(0.2, 0.3, 1.5), 0.0), "token"
    ),
    "gspo": Case(
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.03},
        PolicyObjective("gspo", ClipBounds(0.02, 0.03), 0.0),
        "sequence",
    ),
    # TRL gives the bound itself, and has none below.
    "cispo": Case(
        {"loss_type": "cispo", "epsilon_high": 1.3}, PolicyObjective("cispo", ClipBounds(0.999, 0.3), 0.0), "token"
    ),
    "sapo": Case(
        {"loss_type": "sapo", "sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0},
        PolicyObjective("sapo", ClipBounds(0.2, 0.2, soft=(2.0, 3.0)), 0.0),
        "sequence",
    ),
    # Bounds of the logarithm.
    "gmpo": Case(
        {"epsilon": 0.1, "epsilon_high": 0.2},
        PolicyObjective("gmpo", ClipBounds(-math.expm1(-0.1), math.expm1(0.2)), 0.0),
        "sequence",
        method="gmpo",
    ),
    "entropy": Case(
        {"loss_type": "bnpo", "entropy_coef": 0.2, **CLIPS},
        PolicyObjective("ppo", BOUNDS, 0.0, entropy_coef=0.2),
        "token",
    ),
    "tis": Case(
        {"loss_type": "bnpo", **KL, **CLIPS},
        PolicyObjective("ppo", BOUNDS, 0.3, off_policy=OffPolicyCorrection(importance="token", importance_max=1.2)),
        "token",
        sampled_elsewhere=True,
    ),
}


class PlainBackend:
    """The model as DeepSpeed wraps it, without DeepSpeed."""

    def __init__(self, lm: Any) -> None:
        compute_head_in_float32(lm)
        self.model = LogProbModel(lm, 1.0)
        # As with a large vocabulary: logits in chunks, and again in the backward pass.
        self.model.chunks = Chunking(5, 5)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, **kwargs: Any) -> TokenOutputs:
        outputs: TokenOutputs = self.model(input_ids, attention_mask, response_mask, **kwargs)
        return outputs

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        pass


def random_rows() -> list[tuple[list[int], list[int]]]:
    """Prompts and responses of different lengths."""
    generator = torch.Generator().manual_seed(2)

    def tokens(count: int) -> list[int]:
        return torch.randint(20, 200, (count,), generator=generator).tolist()

    return [(tokens(2 + row % 3), tokens(1 + (5 * row) % LONGEST)) for row in range(3 * GROUP)]


def to_trl(rows: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    """Rows as TRL lays them out: prompts padded on the left, completions on the right."""
    widest = max(len(prompt) for prompt, _ in rows)
    columns: dict[str, list[list[int]]] = {
        name: [] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    }
    for prompt, response in rows:
        before, after = widest - len(prompt), LONGEST - len(response)
        columns["prompt_ids"].append([0] * before + prompt)
        columns["prompt_mask"].append([0] * before + [1] * len(prompt))
        columns["completion_ids"].append(response + [0] * after)
        columns["completion_mask"].append([1] * len(response) + [0] * after)
    return {name: torch.tensor(values) for name, values in columns.items()}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_trl(name: str, make_trl: Maker) -> None:
    """Catches wrong bounds, a weight per micro-batch, gradient through what is detached, KL that is corrected for."""
    case, rows = CASES[name], random_rows()
    trainer = make_trl(case.method, lambda completions, **_: [0.0] * len(completions), **({"beta": 0.0} | case.trl))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    generator = torch.Generator().manual_seed(4)
    advantages = torch.randn(len(rows), generator=generator)
    batch = TrainBatch.from_tokens(rows)
    inputs = to_trl(rows)
    backend = PlainBackend(trainer.model)
    with torch.no_grad():
        current = backend(*batch.inputs).log_probs[batch.response_mask]
    old, reference, sampled = (current + 0.3 * torch.randn(len(current), generator=generator) for _ in range(3))
    places = inputs["completion_mask"].bool()

    def spread(values: Tensor, mask: Tensor) -> Tensor:
        return torch.zeros(mask.shape).masked_scatter(mask, values)

    inputs |= {
        "advantages": advantages,
        "old_per_token_logps": spread(old, places),
        "ref_per_token_logps": spread(reference, places),
        "num_items_in_batch": places.sum(),
    }
    if case.sampled_elsewhere:
        trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
        ratio = (old - sampled).exp().clamp(max=case.objective.off_policy.importance_max)
        inputs["importance_sampling_ratio"] = spread(ratio, places)
    expected = trainer._compute_loss(trainer.model, inputs)
    expected.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.model.zero_grad()

    batch = replace(
        batch.with_advantages(advantages).with_loss_weights(case.aggregation, LONGEST),
        old_log_probs=spread(old, batch.response_mask),
        ref_log_probs=spread(reference, batch.response_mask) if case.objective.kl_coef else None,
        rollout_log_probs=spread(sampled, batch.response_mask),
    )
    micro_batches = [batch.select(part) for part in ([3, 1, 4], [0, 7, 8, 9, 10, 11], [6, 5, 2])]
    stats = optimizer_step(backend, micro_batches, case.objective)
    assert stats.loss == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-6)
    for parameter_name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[parameter_name], atol=1e-5, rtol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 1e-2


def test_trl_takes_the_reward_function(make_trl: Maker) -> None:
    """Catches a function that TRL calls otherwise than it is written for, and a failure that it would take for a 0."""
    trainer = make_trl("grpo", trl_reward("countdown"), beta=0.0)
    inputs = [{"prompt": "p", "label": label} for label in (PUZZLE, PUZZLE, "no label")]
    completions = [SOLVED, "no idea", SOLVED]
    rewards = trainer._calculate_rewards(inputs, ["p"] * 3, completions, [[1]] * 3).flatten()
    # The equation and a tenth for the format; neither; what could not be graded.
    torch.testing.assert_close(rewards, torch.tensor([1.1, 0.0, math.nan]), equal_nan=True)
