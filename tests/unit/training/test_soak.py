"""A thousand steps leave nothing behind in the process: no threads, and no descriptors."""

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from openr1.inputs.datasets import Datasets
from openr1.rewards.client import RewardClient
from openr1.tracking.loggers.client import Loggers
from openr1.training.rl import RLJob
from openr1.training.run import Run
from openr1.types import Group, Prompt, SamplingParams
from tests.fakes import FakeRollout, make_config, make_prompt, make_stages

NUM_STEPS = 1000
WARM_UP = 100
"""Steps after which all that is made once has been made: threads of pools, connections that are kept."""
PROMPTS = [make_prompt(number, label='{"numbers": [1, 2], "target": 3}') for number in range(6)]


class WatchedRollout(FakeRollout):
    """Counts the threads and descriptors of this process at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.descriptors: list[int] = []

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> Iterator[Group]:
        """As the fake."""
        self.threads.append(threading.active_count())
        self.descriptors.append(len(os.listdir("/proc/self/fd")))
        return super().generate(prompts, sampling)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_steps_leave_nothing_behind(reward_url: str, tmp_path: Path) -> None:
    """Catches a connection, a file, a lock or a thread that each step opens and none closes, which ends a run of days
    with "too many open files": steps sampled ahead, graded by a real server, recorded and saved.
    """
    config = make_config(tmp_path, rollout={"max_staleness": 1}, checkpoint={"save_steps": 1}, num_steps=NUM_STEPS)
    rollout = WatchedRollout()
    with RewardClient(reward_url) as rewards:
        stages = make_stages(config, rollout=rollout, rewards=rewards)
        Run(
            config,
            RLJob(config, Datasets(PROMPTS, []), stages),
            Loggers(config.tracking, config.run, {}),
            stages.interrupts,
        ).go(resume=False)
    assert len(rollout.threads) == NUM_STEPS
    for counts in (rollout.threads, rollout.descriptors):
        early, late = max(counts[WARM_UP : NUM_STEPS // 2]), max(counts[NUM_STEPS // 2 :])
        # What one step has open for a moment may be seen or not; what each step leaves would be hundreds.
        assert late <= early + 10, (early, late)
