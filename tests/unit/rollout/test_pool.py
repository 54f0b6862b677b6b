"""Prompts dealt to several engines, by hand and with a real Ray and engines that a test holds back."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from openr1.errors import ActorLost, EngineError
from openr1.rollout.pool import RolloutPool, deal
from openr1.runtime import heartbeats
from openr1.runtime.heartbeats import ASK_SECONDS, LONGEST_PAUSE, SILENT_SECONDS, Heartbeats
from openr1.types import Group, Prompt, SamplingParams
from tests.fakes import make_prompt, make_response

SAMPLING = SamplingParams(1, 8, 1.0, 1.0, 0, "test")


def prompts_of(*lengths: int) -> list[Prompt]:
    """Prompts p0, p1, ... of so many tokens."""
    return [make_prompt(number, token_ids=(1,) * length) for number, length in enumerate(lengths)]


def names(prompts: list[Prompt]) -> list[str]:
    """Their ids."""
    return [prompt.id for prompt in prompts]


def test_deal_by_hand() -> None:
    """Catches the longest prompt that starts last, and an engine without a prompt while another has two."""
    shares, reserve = deal(prompts_of(1, 9, 3, 5, 7, 2, 4, 8), 2)
    # Longest first: p1 p7 p4 p3 p6 p2 p5 p0; a quarter is held back.
    assert [names(share) for share in shares] == [["p1", "p4", "p6"], ["p7", "p3", "p2"]]
    assert names(list(reserve)) == ["p5", "p0"]
    shares, reserve = deal(prompts_of(1, 2, 3), 3)
    assert [names(share) for share in shares] == [["p2"], ["p1"], ["p0"]]
    assert not reserve
    shares, reserve = deal(prompts_of(1, 9, 3), 1)
    assert [names(share) for share in shares] == [["p0", "p1", "p2"]]
    assert not reserve


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40), num_engines=st.integers(1, 6))
def test_every_prompt_is_dealt_once(lengths: list[int], num_engines: int) -> None:
    """Catches a prompt that is lost or sampled twice, and shares that differ by more than one."""
    prompts = prompts_of(*lengths)
    shares, reserve = deal(prompts, num_engines)
    dealt = [prompt for share in shares for prompt in share]
    assert sorted(names([*dealt, *reserve])) == sorted(names(prompts))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@ray.remote(num_cpus=0)
class HeldEngine:
    """Answers prompts at once, or only after `release`."""

    def __init__(self, held: bool) -> None:
        self._asked: list[str] = []
        self._free = asyncio.Event()
        if not held:
            self._free.set()

    async def ready(self) -> bool:
        """At once."""
        return True

    async def generate(self, prompts: list[Prompt], sampling: SamplingParams) -> AsyncIterator[Group]:
        """One response each."""
        for prompt in prompts:
            self._asked.append(prompt.id)
            await self._free.wait()
            yield Group(prompt, (make_response(1),))

    async def release(self) -> None:
        """Answer from now on."""
        self._free.set()

    async def pid(self) -> int:
        """The process."""
        return os.getpid()

    async def asked(self) -> list[str]:
        """Ids of the prompts that came."""
        return self._asked


@pytest.mark.timeout(120)
def test_the_engine_that_is_ahead_gets_the_reserve(ray_cluster: None, tmp_path: Path) -> None:
    """Catches prompts dealt out once and for all: with one engine stuck, the other does all that is left."""
    slow, fast = HeldEngine.remote(True), HeldEngine.remote(False)
    pool = RolloutPool([slow, fast], timeout_seconds=60)
    groups = pool.generate(prompts_of(1, 9, 3, 5, 7, 2, 4, 8), SAMPLING)
    # Its own three, and both of the reserve.
    done = [next(groups).prompt.id for _ in range(5)]
    assert set(done) == {"p7", "p3", "p2", "p5", "p0"}
    assert len(ray.get(fast.asked.remote())) == 5
    ray.get(slow.release.remote())
    assert {group.prompt.id for group in groups} == {"p1", "p4", "p6"}
    for actor in (slow, fast):
        ray.kill(actor)


@ray.remote(num_cpus=0, max_restarts=1)
class MortalEngine:
    """Answers two prompts in its first life and gets a signal at the third; answers all in its second."""

    def __init__(self, signal: int = signal.SIGKILL) -> None:
        self._signal = signal
        self._lives = 2 if ray.get_runtime_context().was_current_actor_reconstructed else 1

    async def ready(self) -> bool:
        """At once."""
        return True

    async def lives(self) -> int:
        """The life it is in."""
        return self._lives

    async def generate(self, prompts: list[Prompt], sampling: SamplingParams) -> AsyncIterator[Group]:
        """One response each, whose token is the number of the life."""
        for count, prompt in enumerate(prompts):
            if self._lives == 1 and count == 2:
                os.kill(os.getpid(), self._signal)
            yield Group(prompt, (make_response(self._lives),))
            await asyncio.sleep(0)


def wait_for_second_life(engine: ActorHandle) -> None:
    """As the policy's `reconnect_engines`: until the engine that Ray starts again answers."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with suppress(RayActorError):
            assert ray.get(engine.lives.remote(), timeout=60) == 2
            return
        time.sleep(0.1)
    raise TimeoutError


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_lost_engine_owes_is_sampled_again(
    ray_cluster: None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a step that ends with its engine, a group that is lost with it, and one that comes twice; and an engine
    that is stopped, not dead, for which a step waits until `rollout.timeout_seconds` are over.
    """
    monkeypatch.setattr(heartbeats, "SILENT_SECONDS", 15.0)
    engine, other = MortalEngine.remote(number), HeldEngine.remote(False)
    ray.get([engine.ready.remote(), other.ready.remote()])
    recoveries: list[None] = []

    def recover() -> None:
        recoveries.append(wait_for_second_life(engine))

    pool = RolloutPool([engine, other], timeout_seconds=240, recover=recover)
    groups = list(pool.generate(prompts_of(*range(1, 13)), SAMPLING))
    assert sorted(names([group.prompt for group in groups])) == sorted(f"p{number}" for number in range(12))
    assert len(recoveries) == 1
    # In its second life the engine answers whatever it had not delivered: some of what it made in its first is lost.
    assert 2 in {int(group.responses[0].token_ids[0]) for group in groups}
    for actor in (engine, other):
        ray.kill(actor)


@contextmanager
def stopped(engine: ActorHandle) -> Iterator[None]:
    """For the block, the engine's process is stopped; afterwards it is gone."""
    os.kill(pid := ray.get(engine.pid.remote()), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        ray.kill(engine)


@pytest.mark.timeout(180)
def test_a_pause_of_the_run_is_no_silence_of_its_engines(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches engines that are ended because the run itself was stopped, with its whole machine or by a debugger."""
    engine = HeldEngine.remote(True)
    ray.get(engine.ready.remote())
    watched = Heartbeats([engine])
    now = 0.0
    monkeypatch.setattr(heartbeats, "time", SimpleNamespace(monotonic=lambda: now))
    with stopped(engine):
        assert watched.watch({0}) == []
        now = 1000.0
        assert watched.watch({0}) == []
        silence = 0
        while not watched.watch({0}):
            now += 1.0
            silence += 1
        assert SILENT_SECONDS - LONGEST_PAUSE <= silence <= SILENT_SECONDS + 1


def test_engines_that_answer_are_asked_again(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an engine that is asked once and stops later, and one that is given up though it owes nothing."""
    engine = HeldEngine.remote(False)
    ray.get(engine.ready.remote())
    watched = Heartbeats([engine])
    now = 0.0
    monkeypatch.setattr(heartbeats, "time", SimpleNamespace(monotonic=lambda: now))

    def pass_by(seconds: int, busy: set[int]) -> list[int]:
        nonlocal now
        found = []
        for _ in range(seconds):
            now += 1.0
            found += watched.watch(busy)
        return found

    assert pass_by(1, {0}) == []
    time.sleep(1.0)  # for its answer
    assert pass_by(int(ASK_SECONDS) + 2, {0}) == []
    with stopped(engine):
        assert pass_by(3 * int(SILENT_SECONDS), set()) == []
        assert pass_by(2 * int(SILENT_SECONDS), {0}) == [0]


@pytest.mark.timeout(180)
def test_without_recovery_a_lost_engine_is_an_error(ray_cluster: None) -> None:
    """Catches an evaluation that waits for an engine that nobody gives its weights again."""
    engine = MortalEngine.remote()
    pool = RolloutPool([engine], timeout_seconds=120)
    with pytest.raises(ActorLost, match="actor"):
        list(pool.generate(prompts_of(1, 2, 3, 4), SAMPLING))
    ray.kill(engine)


@ray.remote(num_cpus=0)
class WrongEngine:
    """Answers two prompts with these groups: numbers of prompts, and how many responses each has."""

    def __init__(self, groups: list[tuple[int, int]]) -> None:
        self._groups = groups

    async def ready(self) -> bool:
        """At once."""
        return True

    async def generate(self, prompts: list[Prompt], sampling: SamplingParams) -> AsyncIterator[Group]:
        """Whatever was asked."""
        for number, size in self._groups:
            yield Group(make_prompt(number), (make_response(1),) * size)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([(0, 1), (7, 1)], "group for prompt p7, which was not requested or is a duplicate"),
        ([(0, 1), (0, 1)], "group for prompt p0, which was not requested or is a duplicate"),
        ([(0, 1), (1, 0)], "prompt p1: 0 responses instead of 1"),
        ([(0, 1), (1, 2)], "prompt p1: 2 responses instead of 1"),
        ([(0, 1)], "without groups for 1 prompts, such as p1; see logs/engine_"),
        ([], "without groups for 2 prompts, such as p0; see logs/engine_"),
    ],
    ids=["foreign", "duplicate", "empty", "too many", "fewer", "none"],
)
def test_groups_that_were_not_asked_for_are_refused(
    ray_cluster: None, groups: list[tuple[int, int]], told: str
) -> None:
    """Catches a batch that is smaller than its step, holds a response twice, or is put under another prompt."""
    engine = WrongEngine.remote(groups)
    with pytest.raises(EngineError, match=told):
        list(RolloutPool([engine], timeout_seconds=120).generate(prompts_of(1, 1), SAMPLING))
    ray.kill(engine)
