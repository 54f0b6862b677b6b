"""Plain records that flow between the stages. They hold numbers and strings, never tensors or handles."""

from dataclasses import dataclass, field
from typing import Any, Literal

WeightVersion = int
"""Counts the policy's steps as the engines see them. 0 is the untrained model."""


@dataclass(frozen=True)
class Prompt:
    """One input of the policy.

    `id` is unique within its dataset; groups are formed by it, never by text.
    `prefix` is assistant text that the prompt already opened (`<think>`), empty if none.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    label: str
    task: str
    prefix: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """Tokens that the policy produced for a prompt.

    `log_probs[i]` is the log-probability (nats) under which the engine sampled `token_ids[i]`, after
    temperature and truncation of the distribution. `weight_version` made the first token, `newest_weight_version` the
    last one: the same, unless weights were pushed in between.
    `finish_reason` is "stop" (an end token, which is the last of `token_ids`) or "length" (truncated).
    """

    text: str
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
    weight_version: WeightVersion
    newest_weight_version: WeightVersion

    @property
    def truncated(self) -> bool:
        """True where the length limit, not an end token, ended the response."""
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Group:
    """The G responses sampled for one prompt."""

    prompt: Prompt
    responses: tuple[Response, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """One id a response, unique within a step: the prompt's id and the response's index."""
        return tuple(f"{self.prompt.id}/{index}" for index in range(len(self.responses)))

    @property
    def num_response_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(len(response.token_ids) for response in self.responses)

    @property
    def num_tokens(self) -> int:
        """Tokens of all responses, each with its prompt."""
        return len(self.responses) * len(self.prompt.token_ids) + self.num_response_tokens


@dataclass(frozen=True)
class Score:
    """What the reward server said of one response, untouched.

    `reward` is the weighted sum of the components, `accuracy` the binary or graded correctness in [0, 1]
    (`score` on the wire). Both are None where the server could not grade the item: such a response is
    invalid, which is not the same as a reward of 0.
    """

    reward: float | None
    accuracy: float | None
    components: dict[str, float]
    verdict: str
    error: str | None = None

    @property
    def valid(self) -> bool:
        """True where the item was really graded."""
        return self.reward is not None
