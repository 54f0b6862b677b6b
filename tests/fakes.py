"""Stand-ins for the trainer's stages and for trackers, and short ways to make records; nothing else is faked."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from openr1.algorithms.batch import TrainBatch
from openr1.config.fixed_data import SftConfig
from openr1.config.load import validate
from openr1.config.train import TrainConfig
from openr1.errors import OpenR1Error
from openr1.rollout.sampling_params import Sampling
from openr1.runtime.interrupts import Interrupted
from openr1.tracking.loggers.client import Trackers
from openr1.types import Group, Prompt, Response, Score, WeightVersion
from openr1.workers.update import LossSettings

# Sums for each response token that FakePolicy.update answers; the effective sample fraction is 0.5 ** 2 / 0.5 = 0.5.
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


def make_response(*token_ids: int, log_prob: float = -1.0, truncated: bool = False) -> Response:
    """A response of weight version 0 with the same log-prob for every token."""
    text = " ".join(map(str, token_ids))
    return Response(text, token_ids, (log_prob,) * len(token_ids), "length" if truncated else "stop", 0, 0)


def make_group(prompt: Prompt, lengths: Sequence[int] = (2, 1)) -> Group:
    """One response for each length; its tokens are all ten times the prompt's first one, plus the response's index."""
    first = 10 * prompt.token_ids[0]
    responses = [make_response(*[first + index] * length) for index, length in enumerate(lengths)]
    return Group(prompt, tuple(responses))


def make_score(reward: float | None) -> Score:
    """A score with accuracy equal to the reward; None makes one that could not be graded."""
    if reward is None:
        return Score(None, None, {}, "error", "grader_error: it broke")
    return Score(reward, reward, {"equation": reward}, "correct" if reward == 1 else "wrong")


@dataclass
class FakeRollout:
    """Makes each prompt's group with `make`, and finishes them in the order that `order` puts the prompts in."""

    make: Callable[[Prompt], Group] = make_group
    order: Callable[[Sequence[Prompt]], Sequence[Prompt]] = list
    interrupt_after: int | None = None
    """Groups after which `Interrupted` is raised, as a signal handler would."""
    requests: list[tuple[list[str], Sampling]] = field(default_factory=list)
    """Prompt ids and sampling of each call."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        """Yield the groups."""
        self.requests.append(([prompt.id for prompt in prompts], sampling))
        for done, prompt in enumerate(self.order(prompts)):
            if done == self.interrupt_after:
                raise Interrupted(2)
            yield self.make(prompt)


def graded(
    rewards: dict[str, list[float | None]] | None = None, default: Sequence[float | None] = (1.0, 0.0)
) -> Callable[[Group], list[Score]]:
    """Scores by prompt id: one number a response, None for what could not be graded."""
    return lambda group: [make_score(reward) for reward in (rewards or {}).get(group.prompt.id, default)]


@dataclass
class FakeRewards:
    """Answers with `score`; an error that it raises becomes the future's, as with the real client."""

    score: Callable[[Group], list[Score]] = field(default_factory=graded)
    submitted: list[str] = field(default_factory=list)
    """Prompt ids in the order in which they came."""

    def submit(self, group: Group) -> "Future[list[Score]]":
        """The scores, at once."""
        self.submitted.append(group.prompt.id)
        future: Future[list[Score]] = Future()
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
        """All tokens in one row."""
        assert all(group in self.submitted for group in groups)
        tokens = [token for group in groups for response in group.responses for token in response.token_ids]
        return torch.tensor(tokens) / -1000


@dataclass
class FakePolicy:
    """Records calls as (name, argument); `during_update` runs inside every update, with its number, from 1 on."""

    during_update: Callable[[int], object] = lambda number: None
    calls: list[tuple[str, Any]] = field(default_factory=list)
    losses: list[LossSettings] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The names of all calls, in order."""
        return [name for name, _ in self.calls]

    @property
    def updates(self) -> list[TrainBatch]:
        """The batches of all updates, supervised or not."""
        return [argument for name, argument in self.calls if name in ("update", "supervised_update")]

    @property
    def pushes(self) -> list[WeightVersion]:
        """The versions of all pushes."""
        return [argument for name, argument in self.calls if name == "push_weights"]

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """-(updates so far + 1) on response tokens: tells when it was called."""
        self.calls.append(("log_probs", batch))
        return batch.response_mask * -(len(self.updates) + 1.0)

    def update(self, batch: TrainBatch, loss: LossSettings) -> dict[str, float]:
        """Sums of TOKEN_SUMS; the n-th update has gradient norm n and learning rate n / 10."""
        self.calls.append(("update", batch))
        self.losses.append(loss)
        number = len(self.updates)
        self.during_update(number)
        tokens = batch.num_response_tokens
        sums = {name: value * tokens for name, value in TOKEN_SUMS.items()}
        return sums | {"loss": 2.0, "tokens": tokens, "grad_norm": number, "learning_rate": number / 10}

    def measure(self, batch: TrainBatch, loss: LossSettings) -> dict[str, float]:
        """As `update`, but not counted as one; no gradient norm."""
        self.calls.append(("measure", batch))
        tokens = batch.num_response_tokens
        sums = {name: value * tokens for name, value in TOKEN_SUMS.items()}
        return sums | {"loss": 2.0, "tokens": tokens, "grad_norm": 0.0, "learning_rate": 0.0}

    def supervised_update(self, batch: TrainBatch, z_loss_coef: float) -> dict[str, float]:
        """A loss of 6 nats in all."""
        self.calls.append(("supervised_update", batch))
        return {"loss": 6.0, "grad_norm": 1.5, "learning_rate": z_loss_coef}

    def push_weights(self, version: WeightVersion) -> None:
        """Only recorded."""
        self.calls.append(("push_weights", version))

    def save(self, folder: Path) -> None:
        """An empty folder."""
        folder.mkdir()

    def export(self, folder: Path) -> None:
        """An empty folder."""
        folder.mkdir()

    def load(self, folder: Path) -> None:
        """Only recorded."""
        self.calls.append(("load", folder))


@dataclass
class FakeCritic:
    """Values every state at 1/4; writes its calls into the policy's list too, if it shares one."""

    calls: list[tuple[str, Any]] = field(default_factory=list)
    clips: list[float | None] = field(default_factory=list)

    def values(self, batch: TrainBatch) -> torch.Tensor:
        """1/4 on response tokens."""
        self.calls.append(("values", batch))
        return batch.response_mask * 0.25

    def update(self, batch: TrainBatch, clip: float | None) -> Callable[[], dict[str, float]]:
        """The n-th update has loss n and gradient norm 10 n; ("collected", n) when its numbers are asked for."""
        self.calls.append(("update_critic", batch))
        self.clips.append(clip)
        number = len(self.clips)

        def finish() -> dict[str, float]:
            self.calls.append(("collected", number))
            return {"loss": number, "grad_norm": 10 * number, "learning_rate": 0.5}

        return finish

    def save(self, folder: Path) -> None:
        """An empty folder."""
        self.calls.append(("save", folder))
        folder.mkdir()

    def load(self, folder: Path) -> None:
        """Only recorded."""
        self.calls.append(("load", folder))


@dataclass
class FakeStages:
    """The stages of a whole run."""

    rollout: FakeRollout = field(default_factory=FakeRollout)
    reference: FakeReference = field(default_factory=FakeReference)
    policy: FakePolicy = field(default_factory=FakePolicy)
    critic: FakeCritic | None = None
    single_engines: list[FakeRollout] = field(default_factory=list)


class FakeTrackers(Trackers):
    """Keeps what trackers would be handed."""

    def __init__(self, config: TrainConfig | SftConfig) -> None:
        super().__init__(config.tracking, config.run, {})
        self.rows: list[dict[str, float]] = []
        self.num_rollouts: list[int] = []

    def log(self, step: int, metrics: Mapping[str, float], rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """Only recorded."""
        self.rows.append({"step": step, **metrics})
        self.num_rollouts.append(len(list(rows)))
