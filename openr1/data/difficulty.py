"""Which prompts are visited when their turn comes, by their most recent pass rates."""

import random
from collections.abc import Callable
from typing import Literal

from openr1.config.train import DataConfig
from openr1.data.pass_rates import PassRates

Verdict = Literal["take", "easy", "hard", "off_target"]
"""Take the prompt; or skip it as solved too often, too rarely, or for now, since others are nearer to the target."""
Judge = Callable[[str, int], Verdict]
"""From a prompt's id and the epoch."""
LEAST_CHANCE = 0.1
"""Chance of a prompt far from the target: its pass rate may be old, and only a visit can tell."""


def make_judge(data: DataConfig, rates: PassRates, seed: int) -> Judge | None:
    """The judge of a run's prompts by `data.min_pass_rate`, `max_pass_rate` and `target_pass_rate`; None without any.

    Prompts that were never visited are taken. The draws for the target are a function of seed, epoch and id.
    """
    low, high, target = data.min_pass_rate, data.max_pass_rate, data.target_pass_rate
    if low is None and high is None and target is None:
        return None

    def judge(prompt_id: str, epoch: int) -> Verdict:
        newest = rates.newest(prompt_id)
        if newest is None:
            return "take"
        if high is not None and newest > high:
            return "easy"
        if low is not None and newest < low:
            return "hard"
        if target is not None and random.Random(f"{seed}/{epoch}/{prompt_id}").random() >= chance(newest, target):
            return "off_target"
        return "take"

    return judge


def chance(pass_rate: float, target: float) -> float:
    """Chance that a prompt is taken when its turn comes: 1 at the target, falling linearly on both sides.

    It would be 0 at the end of [0, 1] that is farther from the target, but is never below `LEAST_CHANCE`. At the target
    0.5 it is 1 - |2 p - 1|: as p (1 - p), highest where a group's rewards differ most.

    Example:
        >>> [chance(rate, 0.5) for rate in (0.0, 0.25, 0.5, 1.0)]
        [0.1, 0.5, 1.0, 0.1]
    """
    return max(LEAST_CHANCE, 1 - abs(pass_rate - target) / max(target, 1 - target))
