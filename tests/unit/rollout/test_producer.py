"""Sampling ahead of the policy, driven with fakes: what overlaps, what is bounded, what waits, and how it ends."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from openr1.config.train import TrainConfig
from openr1.data.prompts import PromptStream
from openr1.errors import RewardServerUnavailable
from openr1.rollout.producer import ExperienceProducer
from openr1.runtime.interrupts import Interrupted, Interrupts
from openr1.training.trainer import Trainer
from openr1.types import Group, Prompt, SamplingParams, TrainerState
from tests.fakes import FakePolicy, FakeRewards, FakeRollout, make_config, make_group, make_prompt, make_stages
from tests.unit.training.test_trainer import make_trainer

PROMPTS = [make_prompt(number) for number in range(6)]
SECONDS = 20.0
"""Longest wait for another thread; nothing waits so long unless it is broken."""


@dataclass
class WatchedRollout(FakeRollout):
    """A rollout that a test can hold up: `before[n]` runs in the n-th call, from 1 on, before its groups are made."""

    before: dict[int, Callable[[], object]] = field(default_factory=dict)
    version: Callable[[], int] = lambda: 0
    threads: list[threading.Thread] = field(default_factory=list)

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> Iterator[Group]:
        """Yield groups stamped with the version that was in service when they were begun."""
        self.threads.append(threading.current_thread())
        version = self.version()
        self.before.get(len(self.requests) + 1, lambda: None)()
        for group in super().generate(prompts, sampling):
            stamped = [replace(one, weight_version=version, newest_weight_version=version) for one in group.responses]
            yield replace(group, responses=tuple(stamped))


def passed(event: threading.Event) -> None:
    """Wait for what another thread does."""
    assert event.wait(SECONDS)


def generate_endlessly(interrupts: Interrupts, asked: threading.Event) -> None:
    """What an engine that never finishes looks like: its waits notice interrupts alone."""
    asked.set()
    while True:
        interrupts.check()
        time.sleep(0.01)


def ahead(folder: Path, max_staleness: int, **rollout: Any) -> TrainConfig:
    """A config of four steps that samples ahead."""
    return make_config(folder, rollout={"max_staleness": max_staleness, **rollout}, num_steps=4)


@pytest.fixture
def started() -> Iterator[Callable[..., Trainer]]:
    """Makes trainers, and closes them."""
    trainers = []

    def start(config: TrainConfig, **stages: Any) -> Trainer:
        trainers.append(make_trainer(config, **stages))
        return trainers[-1]

    yield start
    for trainer in trainers:
        trainer.close()


def test_the_next_step_is_sampled_during_the_update(tmp_path: Path, started: Callable[..., Trainer]) -> None:
    """Catches a pipeline in which one still waits for the other."""
    second_begun = threading.Event()
    rollout = WatchedRollout(before={2: second_begun.set})
    policy = FakePolicy(during_update=lambda number: passed(second_begun))
    started(ahead(tmp_path, 1), rollout=rollout, policy=policy).step()
    assert policy.names == ["update", "push_weights"]


def test_without_staleness_nothing_runs_ahead(tmp_path: Path, started: Callable[..., Trainer]) -> None:
    """Catches a thread where there must be none, and samples of older weights."""
    policy = FakePolicy()
    rollout = WatchedRollout(version=lambda: len(policy.pushes))
    trainer = started(ahead(tmp_path, 0), rollout=rollout, policy=policy)
    results = [trainer.step() for _ in range(4)]
    assert set(rollout.threads) == {threading.current_thread()}
    assert [result.metrics["rollout/staleness_max"] for result in results] == [0, 0, 0, 0]


@pytest.mark.parametrize("bound", [1, 2])
def test_staleness_is_bounded(bound: int, tmp_path: Path, started: Callable[..., Trainer]) -> None:
    """Catches a queue that grows while the policy is slow: responses older than the bound.

    Every update but the last waits until all that may be sampled ahead is: step n then trains on version n - 1 - bound,
    or on 0 where there is no such one.
    """
    policy = FakePolicy()
    begun = [threading.Event() for _ in range(5)]
    rollout = WatchedRollout(
        before={number: begun[number].set for number in range(1, 5)}, version=lambda: len(policy.pushes)
    )
    policy.during_update = lambda number: passed(begun[min(number + bound, 4)])
    trainer = started(ahead(tmp_path, bound), rollout=rollout, policy=policy)
    results = [trainer.step() for _ in range(4)]
    versions = [
        {response.weight_version for group in result.experience.groups for response in group.responses}
        for result in results
    ]
    expected = [max(0, number - 1 - bound) for number in (1, 2, 3, 4)]
    assert versions == [{version} for version in expected]
    staleness = [number - 1 - version for number, version in zip((1, 2, 3, 4), expected, strict=True)]
    assert [result.metrics["rollout/staleness_max"] for result in results] == staleness
    assert [result.metrics["rollout/staleness_mean"] for result in results] == staleness
    assert len(rollout.requests) == 4


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_order_and_seeds_do_not_depend_on_staleness(
    bound: int, tmp_path: Path, started: Callable[..., Trainer]
) -> None:
    """Catches other data, or other seeds, for a run that samples ahead."""
    config = ahead(tmp_path, bound)
    rollout = WatchedRollout()
    trainer = started(config, rollout=rollout)
    stream = PromptStream(PROMPTS, config.run.seed)
    for step in range(1, 5):
        asked = [prompt.id for prompt in stream.take(2)]
        result = trainer.step()
        assert [group.prompt.id for group in result.experience.groups] == asked
        assert trainer.state.prompts == stream.state()
        assert (rollout.requests[step - 1][0], rollout.requests[step - 1][1].seed_stream) == (
            asked,
            f"train/{step - 1}",
        )


def test_resuming_goes_on_behind_what_was_trained(tmp_path: Path, started: Callable[..., Trainer]) -> None:
    """Catches prompts that were sampled ahead when the run was killed, and are never trained on."""
    first = started(ahead(tmp_path, 2))
    first.step()
    rollout = WatchedRollout()
    resumed = started(ahead(tmp_path, 2), rollout=rollout)
    resumed.restore(TrainerState(1, 1, first.state.prompts))
    second, other = first.step(), resumed.step()
    assert [group.prompt.id for group in second.experience.groups] == [
        group.prompt.id for group in other.experience.groups
    ]
    assert rollout.requests[0][1].seed_stream == "train/1"


def push_order(folder: Path, started: Callable[..., Trainer], in_flight: str) -> list[str]:
    """Whether the first push came before the end of the second step's sampling, which the update finds begun."""
    log: list[str] = []
    begun, pushed = threading.Event(), threading.Event()

    def second() -> None:
        begun.set()
        # Drained, the push waits for this: it gives it every chance to come first.
        pushed.wait(SECONDS if in_flight == "keep" else 0.5)
        log.append("sampled")

    class Policy(FakePolicy):
        def push_weights(self, version: int) -> None:
            log.append("pushed")
            pushed.set()

    policy = Policy(during_update=lambda number: passed(begun))
    started(ahead(folder, 1, in_flight=in_flight), rollout=WatchedRollout(before={2: second}), policy=policy).step()
    assert begun.is_set()
    return log


def test_weights_come_between_or_into_steps(tmp_path: Path, started: Callable[..., Trainer]) -> None:
    """Catches `keep` that waits for the longest response, and `drain` that changes weights under one."""
    assert push_order(tmp_path, started, "drain") == ["sampled", "pushed"]
    assert push_order(tmp_path, started, "keep")[0] == "pushed"


def test_what_fails_ahead_fails_the_step_that_needs_it(tmp_path: Path, started: Callable[..., Trainer]) -> None:
    """Catches an error in the thread that nobody hears of, and one that takes a sound step with it."""
    config = ahead(tmp_path, 1)
    stream = PromptStream(PROMPTS, config.run.seed)
    stream.take(2)
    broken = stream.take(2)[0].id

    def score(group: Group) -> Any:
        if group.prompt.id == broken:
            raise RewardServerUnavailable("it is gone")
        return FakeRewards().score(group)

    trainer = started(config, rewards=FakeRewards(score))
    trainer.step()
    with pytest.raises(RewardServerUnavailable, match="it is gone"):
        trainer.step()
    assert trainer.state.step == 1


def producer_of(config: TrainConfig, rollout: FakeRollout, interrupts: Interrupts) -> ExperienceProducer:
    """A producer over these parts, and fakes."""
    stages = make_stages(config, rollout=rollout, interrupts=interrupts)
    prompts = PromptStream(PROMPTS, config.run.seed)
    return ExperienceProducer(config, prompts, rollout, stages.rewards, stages.reference, interrupts)


def test_an_interrupt_ends_the_wait(tmp_path: Path) -> None:
    """Catches Ctrl-C that must wait for a whole step of sampling, and a thread that outlives its run."""
    interrupts, asked = Interrupts(), threading.Event()
    rollout = WatchedRollout(before={1: lambda: generate_endlessly(interrupts, asked)})
    producer = producer_of(ahead(tmp_path, 1), rollout, interrupts)

    def interrupt() -> None:
        passed(asked)
        os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=interrupt)
    other.start()
    # Polled, as while Ray runs: the handler itself raises nothing.
    with interrupts.installed(), pytest.raises(Interrupted), interrupts.polled():
        producer.next(1)
    other.join()
    producer.close()
    assert not rollout.threads[0].is_alive()


def test_closing_ends_what_still_samples(tmp_path: Path) -> None:
    """Catches a run that failed, and then waits, or asks engines that are gone, because its thread samples on."""
    interrupts, asked = Interrupts(), threading.Event()
    rollout = WatchedRollout(before={2: lambda: generate_endlessly(interrupts, asked)})
    producer = producer_of(ahead(tmp_path, 1), rollout, interrupts)
    producer.next(1)
    passed(asked)
    producer.close()
    assert not rollout.threads[0].is_alive()
    # The main thread may still wait: for a checkpoint, say.
    interrupts.check()


def test_a_drained_push_comes_before_the_next_step(tmp_path: Path) -> None:
    """Catches a push that waits for all that was ordered ahead: two steps here, of which the second then is older."""
    log: list[str] = []
    begun, pushing = threading.Event(), threading.Event()

    def second() -> None:
        begun.set()
        passed(pushing)
        # Until the push, which is all that the other thread has left to do, waits.
        time.sleep(0.3)

    rollout = WatchedRollout(before={2: second, 3: lambda: log.append("third")})
    producer = producer_of(ahead(tmp_path, 2, in_flight="drain"), rollout, Interrupts())
    producer.next(1)
    passed(begun)
    pushing.set()
    with producer.paused():
        log.append("pushed")
    for step in (2, 3):
        producer.next(step)
    producer.close()
    assert log == ["pushed", "third"]


def test_groups_say_which_weights_made_them(tmp_path: Path) -> None:
    """Catches staleness counted from the weights that finished a response instead of those that began it."""
    old = replace(make_group(PROMPTS[0]).responses[0], weight_version=3, newest_weight_version=5)
    new = replace(old, weight_version=5)
    rollout = FakeRollout(make=lambda prompt: Group(prompt, (old, new)))
    trainer = make_trainer(make_config(tmp_path), rollout=rollout)
    trainer.restore(TrainerState(0, 5, PromptStream(PROMPTS, 7).state()))
    metrics = trainer.step().metrics
    assert (metrics["rollout/staleness_mean"], metrics["rollout/staleness_max"]) == (1.0, 2.0)
