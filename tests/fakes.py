"""Fakes of the trainer's stages and of the loggers, and short ways to make records; nothing else is faked."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import StepStats
from openr1.algorithms.objectives.policy import PolicyObjective, PolicySums
from openr1.algorithms.objectives.sft import SftObjective, SftSums
from openr1.algorithms.objectives.value import ValueObjective, ValueSums
from openr1.config.load import validate
from openr1.config.sft import SftConfig
from openr1.config.train import TrainConfig
from openr1.errors import OpenR1Error
from openr1.runtime.interrupts import Interrupted, Interrupts
from openr1.tracking.loggers.client import Loggers
from openr1.training.advantage_stage import AdvantageEstimation
from openr1.training.stages import Stages
from openr1.types import Grade, Group, Prompt, Response, SamplingParams, WeightVersion

# Sums for each response token that FakePolicy.step answers; the effective sample fraction is 0.5 ** 2 / 0.5 = 0.5.
TOKEN_SUMS = {
    "entropy": 3.0,
    "kl": 2**-11,
    "clipped": 0.125,
    "mismatch_abs": 2**-5,
    "mismatch_kl": 0.375,
    "importance": 1.5,
    "rejected": 0.0625,
    "weight": 0.5,
    "weight_squared": 0.5,
}


def make_config(folder: Path, **sections: Any) -> TrainConfig:
    """Two prompts of two responses a step, one update a step; `sections` replace keys, `rollout={"top_p": 0.5}`."""
    values: dict[str, Any] = {
        "run": {"name": "test", "output_dir": str(folder), "seed": 7},
        "model": {"path": "model"},
        "data": {"train": "train.jsonl"},
        "rollout": {"rollout_batch_size": 2, "n_samples_per_prompt": 2, "generate_max_len": 8},
        "policy": {"train_batch_size": 4},
        "num_steps": 3,
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return validate(TrainConfig, values, "test")


def make_prompt(number: int = 0, **fields: Any) -> Prompt:
    """Prompt `p<number>`: a single token, 10 + number, unless `fields` say otherwise."""
    name = f"p{number}"
    return Prompt(
        **{"id": name, "text": name, "token_ids": (10 + number,), "label": "{}", "task": "countdown"} | fields
    )


def make_response(
    *token_ids: int, log_prob: float = -1.0, truncated: bool = False, inserted: Sequence[int] = ()
) -> Response:
    """A response of weight version 0 with the same log-prob for every token but those at the indices `inserted`."""
    text = " ".join(map(str, token_ids))
    sampled = tuple(index not in inserted for index in range(len(token_ids)))
    log_probs = tuple(log_prob if is_sampled else 0.0 for is_sampled in sampled)
    return Response(text, token_ids, log_probs, sampled, "length" if truncated else "stop", 0, 0)


def make_group(prompt: Prompt, lengths: Sequence[int] = (2, 1)) -> Group:
    """One response for each length; its tokens are all ten times the prompt's first one, plus the response's index."""
    first = 10 * prompt.token_ids[0]
    responses = [make_response(*[first + index] * length) for index, length in enumerate(lengths)]
    return Group(prompt, tuple(responses))


def make_score(reward: float | None) -> Grade:
    """A grade with a score equal to the reward; None makes one of a response that could not be graded."""
    if reward is None:
        return Grade(None, None, {}, "error", "grader_error: it broke")
    return Grade(reward, reward, {"equation": reward}, "correct" if reward == 1 else "wrong")


@dataclass
class FakeRollout:
    """Makes each prompt's group with `make`, and finishes them in the order that `order` puts the prompts in."""

    make: Callable[[Prompt], Group] = make_group
    order: Callable[[Sequence[Prompt]], Sequence[Prompt]] = list
    interrupt_after: int | None = None
    """Groups after which `Interrupted` is raised, as a signal handler would."""
    requests: list[tuple[list[str], SamplingParams]] = field(default_factory=list)
    """Prompt ids and sampling of each call."""

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> Iterator[Group]:
        """Yield the groups."""
        self.requests.append(([prompt.id for prompt in prompts], sampling))
        for done, prompt in enumerate(self.order(prompts)):
            if done == self.interrupt_after:
                raise Interrupted(2)
            yield self.make(prompt)


def graded(
    rewards: dict[str, list[float | None]] | None = None, default: Sequence[float | None] = (1.0, 0.0)
) -> Callable[[Group], list[Grade]]:
    """Grades by prompt id: one number a response, None for what could not be graded."""
    return lambda group: [make_score(reward) for reward in (rewards or {}).get(group.prompt.id, default)]


@dataclass
class FakeRewards:
    """Answers with `score`; an error that it raises becomes the future's, as with the real client."""

    score: Callable[[Group], list[Grade]] = field(default_factory=graded)
    submitted: list[str] = field(default_factory=list)
    """Prompt ids in the order in which they came."""

    def submit(self, group: Group) -> "Future[list[Grade]]":
        """The grades, at once."""
        self.submitted.append(group.prompt.id)
        future: Future[list[Grade]] = Future()
        try:
            future.set_result(self.score(group))
        except OpenR1Error as error:
            future.set_exception(error)
        return future


@dataclass
class FakeReference:
    """The log-prob of every token is minus a thousandth of the token itself, so that a mix-up shows."""

    submitted: list[Group] = field(default_factory=list)

    def submit(self, group: Group) -> None:
        """Only recorded."""
        self.submitted.append(group)

    def collect(self, groups: Sequence[Group]) -> torch.Tensor:
        """All sampled tokens in one row."""
        assert all(group in self.submitted for group in groups)
        responses = [response for group in groups for response in group.responses]
        tokens = [
            token
            for response in responses
            for token, is_sampled in zip(response.token_ids, response.loss_mask, strict=True)
            if is_sampled
        ]
        return torch.tensor(tokens) / -1000


@dataclass
class FakePolicy:
    """Records calls as (name, argument); `during_update` runs inside every update, with its number, from 1 on.

    A step that is applied is recorded as "update", another as "evaluate".
    """

    during_update: Callable[[int], object] = lambda number: None
    calls: list[tuple[str, Any]] = field(default_factory=list)
    objectives: list[Any] = field(default_factory=list)
    """Objective of every update."""

    @property
    def names(self) -> list[str]:
        """The names of all calls, in order."""
        return [name for name, _ in self.calls]

    @property
    def updates(self) -> list[TrainBatch]:
        """The batches of all updates."""
        return [argument for name, argument in self.calls if name == "update"]

    @property
    def pushes(self) -> list[WeightVersion]:
        """The versions of all pushes."""
        return [argument for name, argument in self.calls if name == "push_weights"]

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """-(updates so far + 1) on response tokens: tells when it was called."""
        self.calls.append(("log_probs", batch))
        return batch.response_mask * -(len(self.updates) + 1.0)

    def step(self, batch: TrainBatch, objective: Any, apply: bool = True) -> StepStats[Any]:
        """Sums of `fake_sums`; the n-th update has gradient norm n and learning rate n / 10."""
        self.calls.append(("update" if apply else "evaluate", batch))
        sums = fake_sums(batch, objective)
        if not apply:
            return StepStats(2.0, sums)
        self.objectives.append(objective)
        number = len(self.updates)
        self.during_update(number)
        return StepStats(2.0, sums, number, number / 10, applied=True)

    def push_weights(self, version: WeightVersion) -> None:
        """Only recorded."""
        self.calls.append(("push_weights", version))

    def save(self, folder: Path) -> None:
        """An empty folder."""
        folder.mkdir()

    def export(self, folder: Path) -> None:
        """A folder with a file, which no rename replaces."""
        folder.mkdir()
        (folder / "num_updates").write_text(f"{len(self.updates)}")

    def is_written(self) -> bool:
        """At once."""
        return True

    def load(self, folder: Path) -> None:
        """Only recorded."""
        self.calls.append(("load", folder))


def fake_sums(batch: TrainBatch, objective: Any) -> Any:
    """TOKEN_SUMS times the tokens that train; 6 nats in all for SFT; pair sums 1, 2, 3, ... for DPO."""
    if isinstance(objective, PolicyObjective):
        tokens = batch.num_response_tokens
        return PolicySums(tokens=tokens, **{name: value * tokens for name, value in TOKEN_SUMS.items()})
    if isinstance(objective, SftObjective):
        return SftSums(nll=6.0)
    return objective.sums_type(*range(1, 1 + len(objective.sums_type._fields)))


@dataclass
class FakeCritic:
    """Values every state at 1/4; writes its calls into the policy's list, if it is given that one."""

    calls: list[tuple[str, Any]] = field(default_factory=list)
    objectives: list[ValueObjective] = field(default_factory=list)
    """Objective of every step."""

    def values(self, batch: TrainBatch) -> torch.Tensor:
        """1/4 on response tokens."""
        self.calls.append(("values", batch))
        return batch.response_mask * 0.25

    def begin_step(self, batch: TrainBatch, objective: Any, apply: bool = True) -> Callable[[], StepStats[Any]]:
        """The n-th step has loss n and gradient norm 10 n; ("collected", n) when its numbers are asked for."""
        self.calls.append(("update_critic" if apply else "evaluate_critic", batch))
        self.objectives.append(objective)
        number = len(self.objectives)

        def finish() -> StepStats[Any]:
            self.calls.append(("collected", number))
            return StepStats(number, ValueSums(batch.num_response_tokens), 10 * number, 0.5, applied=apply)

        return finish

    def step(self, batch: TrainBatch, objective: Any, apply: bool = True) -> StepStats[Any]:
        """See `begin_step`."""
        return self.begin_step(batch, objective, apply)()

    def save(self, folder: Path) -> None:
        """An empty folder."""
        self.calls.append(("save", folder))
        folder.mkdir()

    def is_written(self) -> bool:
        """At once."""
        return True

    def load(self, folder: Path) -> None:
        """Only recorded."""
        self.calls.append(("load", folder))


@dataclass
class FakeMemory:
    """Writes whose turn it is into the policy's list of calls, if it is given that one."""

    calls: list[tuple[str, Any]] = field(default_factory=list)

    def for_training(self) -> None:
        """Only recorded."""
        self.calls.append(("for_training", None))

    def for_generation(self) -> None:
        """Only recorded."""
        self.calls.append(("for_generation", None))


def make_stages(config: TrainConfig, **stages: Any) -> Stages:
    """Fakes of all stages, with a reference only if the config has one; keyword arguments replace single ones."""
    critic = stages.pop("critic", None)
    given = {
        "rollout": FakeRollout(),
        "per_engine_rollouts": [],
        "rewards": FakeRewards(),
        "reference": FakeReference() if config.has_reference else None,
        "policy": FakePolicy(),
        "estimate_advantages": AdvantageEstimation(config.algorithm, critic),
        "interrupts": Interrupts(),
    } | stages
    return Stages(critic=critic, **given)


class FakeLoggers(Loggers):
    """Keeps what loggers would be handed."""

    def __init__(self, config: TrainConfig | SftConfig) -> None:
        super().__init__(config.tracking, config.run, {})
        self.rows: list[dict[str, float]] = []
        self.num_rollouts: list[int] = []

    def log(self, step: int, metrics: Mapping[str, float], rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """Only recorded."""
        self.rows.append({"step": step, **metrics})
        self.num_rollouts.append(len(list(rows)))
