"""The shadow grader: a second task grades a share of the responses, to see whether the first one is being fooled.

Nothing trains on it. Where the two disagree more and more, the policy may have found out how to be paid without being
right.
"""

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from openr1.config.train import ShadowConfig
from openr1.errors import OpenR1Error
from openr1.interfaces import RewardSource
from openr1.rollout.experience import Experience
from openr1.runtime.console import say
from openr1.runtime.files import write_objects
from openr1.types import Grade, Group, ScoredGroup

WINDOW_STEPS = 20
"""Steps over which the rate of disagreement is estimated for the alarm."""
RIGHT = 0.5
"""A score above this counts as right."""
_Z = 1.96


@dataclass(frozen=True)
class Pair:
    """A response with both grades."""

    row: str
    prompt: str
    label: str
    response: str
    advantage: float | None
    first: Grade
    shadow: Grade

    @property
    def is_graded(self) -> bool:
        """Whether both could grade it."""
        return self.first.valid and self.shadow.valid

    @property
    def disagrees(self) -> bool:
        """Whether one calls right what the other calls wrong."""
        return self.is_graded and _is_right(self.first) != _is_right(self.shadow)


class ShadowGrading:
    """A source of rewards that passes groups on, and requests a second grade for a share of their responses."""

    def __init__(self, rewards: RewardSource, settings: ShadowConfig) -> None:
        """`rewards` grades both."""
        self._rewards = rewards
        self._settings = settings
        # By the identity of the group, since prompts come again; the group is kept, so that its identity stays its own.
        self._requested: dict[int, tuple[Group, list[int], Future[list[Grade]]]] = {}

    def submit(self, group: Group) -> "Future[list[Grade]]":
        """Request the grades of a group; the shadow's are requested, too, and not waited for."""
        ids = zip(group.ids, group.responses, strict=True)
        indices = [index for index, (row, one) in enumerate(ids) if is_chosen(row, one.text, self._settings.share)]
        first = self._rewards.submit(group)
        if indices:
            prompt = replace(group.prompt, task=self._settings.task)
            part = Group(prompt, tuple(group.responses[index] for index in indices))
            self._requested[id(group)] = (group, indices, self._rewards.submit(part))
        return first

    def pairs(self, experience: Experience) -> list[Pair]:
        """The responses of a step that have two grades; waits for the shadow's, which have deadlines."""
        advantages = [] if experience.advantages is None else experience.advantages.tolist()
        found: list[Pair] = []
        for number, scored in enumerate(experience.sampled):
            requested = self._requested.pop(id(scored.group), None)
            if requested is not None:
                _, indices, future = requested
                trained = advantages[number] if number < len(advantages) else [None] * len(scored.grades)
                found += _pairs(scored, indices, _grades(future, len(indices)), trained)
        return found


class ShadowReport:
    """Turns the pairs of each step into metrics, files in `shadow/`, and an alarm."""

    def __init__(self, folder: Path, settings: ShadowConfig) -> None:
        """Write into the run folder `folder`."""
        self._folder = folder / "shadow"
        self._settings = settings
        self._recent: deque[tuple[int, int]] = deque(maxlen=WINDOW_STEPS)
        self._alarmed = False

    def add(self, step: int, pairs: Sequence[Pair]) -> dict[str, float]:
        """Record a step; returns its metrics."""
        graded = [pair for pair in pairs if pair.is_graded]
        differing = [pair for pair in graded if pair.disagrees]
        path = self._folder / f"step_{step:06d}.jsonl"
        path.unlink(missing_ok=True)  # of the same step before a resume
        if differing:
            self._folder.mkdir(exist_ok=True)
            write_objects(path, _rows(differing))
        self._recent.append((len(differing), len(graded)))
        self._warn(step)
        compared = max(len(graded), 1)
        return {
            "shadow/compared": float(len(graded)),
            "shadow/failed": float(sum(not pair.shadow.valid for pair in pairs)),
            "shadow/disagreement": len(differing) / compared,
            "shadow/wrongly_paid": sum(_is_right(pair.first) for pair in differing) / compared,
        }

    def _warn(self, step: int) -> None:
        """Raise the alarm once, when the rate is above the limit beyond chance; again only after it has fallen."""
        differing, compared = (sum(counts) for counts in zip(*self._recent, strict=True))
        limit = self._settings.max_disagreement
        if lower_bound(differing, compared) <= limit:
            self._alarmed = False
        elif not self._alarmed:
            self._alarmed = True
            say(
                f"alarm: step {step}: the shadow grader {self._settings.task} disagrees on {differing} of {compared} "
                f"responses of the last {len(self._recent)} steps, more than reward.shadow.max_disagreement {limit:g}: "
                f"one of the two graders is wrong, or being fooled; read them in {self._folder}/"
            )


def is_chosen(row: str, response: str, share: float) -> bool:
    """Whether a response belongs to the share; depends on nothing but the arguments."""
    digest = hashlib.sha256(f"{row}\0{response}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def lower_bound(successes: int, trials: int) -> float:
    """Lower end of the 95 % interval (Wilson, 1927) of a rate; 0 without trials."""
    if trials == 0:
        return 0.0
    rate, z2 = successes / trials, _Z * _Z
    middle = rate + z2 / (2 * trials)
    width = _Z * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    return max(0.0, (middle - width) / (1 + z2 / trials))


def _is_right(grade: Grade) -> bool:
    return grade.score is not None and grade.score > RIGHT


def _grades(future: "Future[list[Grade]]", count: int) -> list[Grade]:
    """The shadow's grades; where it fails, training goes on without."""
    try:
        return future.result()
    except OpenR1Error as error:
        return [Grade(None, None, {}, "error", str(error))] * count


def _pairs(
    scored: ScoredGroup, indices: Sequence[int], shadow: Sequence[Grade], advantages: Sequence[float | None]
) -> Iterator[Pair]:
    prompt, ids = scored.group.prompt, scored.group.ids
    for index, grade in zip(indices, shadow, strict=True):
        text = scored.group.responses[index].text
        yield Pair(ids[index], prompt.text, prompt.label, text, advantages[index], scored.grades[index], grade)


def _rows(pairs: Sequence[Pair]) -> Iterator[dict[str, object]]:
    """One row per response, those that training rewards most first."""
    for pair in sorted(pairs, key=lambda pair: -(pair.advantage or 0.0)):
        yield {
            "id": pair.row,
            "prompt": pair.prompt,
            "label": pair.label,
            "response": pair.response,
            "advantage": pair.advantage,
            "reward": pair.first.reward,
            "score": pair.first.score,
            "verdict": pair.first.verdict,
            "shadow_score": pair.shadow.score,
            "shadow_verdict": pair.shadow.verdict,
        }
