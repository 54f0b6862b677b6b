"""What grading one response gives, whichever kind of task graded it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reward_server.schema import Verdict


@dataclass(frozen=True)
class GradingResult:
    """The result of grading one response.

    `reward` is the weighted sum of the components; `score` is the component that measures the task's accuracy, in
    [0, 1]. If the item could not be graded, both are None, `components` is empty, and `error` has the form
    "code: explanation". `reason` says why a wrong answer could not be read; None if it was read, and is different.
    """

    verdict: Verdict
    reward: float | None = None
    score: float | None = None
    components: Mapping[str, float] = field(default_factory=dict)
    extracted: str | None = None
    error: str | None = None
    reason: str | None = None
