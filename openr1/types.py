"""Plain records that flow between the stages. They hold numbers and strings, never tensors or handles."""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

WeightVersion = int
"""Counts the weight pushes to the engines. 0 is the untrained model."""


@dataclass(frozen=True)
class Prompt:
    """One input of the policy.

    `id` is unique within its dataset; groups are identified by it, never by text.
    `prefix` is assistant text that the prompt has already opened (`<think>`), empty if there is none.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    label: str
    task: str
    prefix: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


LARGEST_SEED = 2**31


@dataclass(frozen=True)
class SamplingParams:
    """How a prompt is sampled: `n_samples_per_prompt` responses of at most `generate_max_len` tokens.

    `temperature` 0 is greedy. `seed_stream` names the purpose ("train/12", "eval/before"). Together with the run's
    `seed` and the prompt's id it determines every response up to rounding, whatever else the engine is doing.
    """

    n_samples_per_prompt: int
    generate_max_len: int
    temperature: float
    top_p: float
    seed: int
    seed_stream: str
    single_turn: bool = False
    """Sample once after the prompt, whatever `rollout.env` says: for checks of the weights."""

    def seed_of(self, prompt: Prompt, index: int, offset: int = 0) -> int:
        """The seed of response `index` of a prompt, from its token `offset` on (above 0: a later turn).

        Seeds of a prompt's responses are consecutive, and those of different prompts at least G apart.
        """
        text = f"{self.seed}/{self.seed_stream}/{prompt.id}" + (f"/{offset}" if offset else "")
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        spacing = self.n_samples_per_prompt
        return number % (LARGEST_SEED // spacing) * spacing + index


@dataclass(frozen=True)
class Response:
    """The tokens that followed a prompt: sampled by the policy, or, in a multi-turn environment, inserted between.

    `log_probs[i]` is the log-probability (nats) under which the engine sampled `token_ids[i]`, after temperature and
    nucleus truncation; 0 for tokens that were not sampled. `loss_mask[i]` is True for sampled tokens: only these are
    trained on and counted. At least one token is sampled. Environments make tuples; the engine packs them (`packed`).
    `weight_version` produced the first token, `newest_weight_version` the last one; they differ if weights were pushed
    in between. `finish_reason` is "stop" (an end token, which is the last of `token_ids`) or "length" (truncated).
    """

    text: str
    token_ids: Sequence[int]
    log_probs: Sequence[float]
    loss_mask: Sequence[bool]
    finish_reason: Literal["stop", "length"]
    weight_version: WeightVersion
    newest_weight_version: WeightVersion

    @property
    def truncated(self) -> bool:
        """True if the length limit, not an end token, ended the response."""
        return self.finish_reason == "length"

    @property
    def num_tokens(self) -> int:
        """Sampled tokens."""
        return self.loss_mask.count(True)

    def packed(self) -> "Response":
        """The same with arrays (int32, float32, int8) in place of tuples.

        They are pickled, and become tensors, as one block of memory. Tuples of a large step take seconds, since each
        token is an object of its own.
        """
        return replace(
            self,
            token_ids=array("i", self.token_ids),
            log_probs=array("f", self.log_probs),
            loss_mask=cast("Sequence[bool]", array("b", self.loss_mask)),
        )


@dataclass(frozen=True)
class Group:
    """The G responses sampled for one prompt."""

    prompt: Prompt
    responses: tuple[Response, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """One id per response, unique within a step: the prompt's id and the response's index."""
        return tuple(f"{self.prompt.id}/{index}" for index in range(len(self.responses)))

    @property
    def num_response_tokens(self) -> int:
        """Sampled tokens of all responses."""
        return sum(response.num_tokens for response in self.responses)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences, prompts and inserted tokens included: what a forward pass reads."""
        responses = sum(len(response.token_ids) for response in self.responses)
        return len(self.responses) * len(self.prompt.token_ids) + responses


@dataclass(frozen=True)
class Grade:
    """The reward server's verdict on one response, unmodified.

    `reward` is the weighted sum of the components, `score` the correctness in [0, 1]. Both are None if the server could
    not grade the response: it is then invalid, which is not the same as a reward of 0.
    """

    reward: float | None
    score: float | None
    components: dict[str, float]
    verdict: str
    error: str | None = None

    @property
    def valid(self) -> bool:
        """True if the response was graded."""
        return self.reward is not None


@dataclass(frozen=True)
class ScoredGroup:
    """A group with the grades of its responses, in their order."""

    group: Group
    grades: tuple[Grade, ...]


@dataclass(frozen=True)
class RunningReward:
    """Exponential moving mean and standard deviation of the rewards of past steps."""

    mean: float
    std: float


@dataclass(frozen=True)
class TrainerState:
    """The trainer between two steps; everything else follows from it, the config and the policy's own state.

    `prompts` is the position in the data. `kl_coef` is the KL coefficient as adapted to `algorithm.kl_target`; None
    before the first step, or without a target.
    """

    step: int
    version: WeightVersion
    prompts: dict[str, int]
    running_reward: RunningReward | None = None
    kl_coef: float | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainerState":
        """Rebuild a state from the JSON form of its `asdict`."""
        running = values["running_reward"]
        return cls(**{**values, "running_reward": running and RunningReward(**running)})
