"""Prompts dealt to several engines, by hand and with a real Ray and engines that a test holds back."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from openr1.errors import ActorLost
from openr1.rollout.pool import RolloutPool, deal
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

    async def generate(self, prompts: list[Prompt], sampling: SamplingParams) -> AsyncIterator[Group]:
        """One response each."""
        for prompt in prompts:
            self._asked.append(prompt.id)
            await self._free.wait()
            yield Group(prompt, (make_response(1),))

    async def release(self) -> None:
        """Answer from now on."""
        self._free.set()

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
    """Answers two prompts in its first life and dies at the third; answers all in its second."""

    def __init__(self) -> None:
        self._lives = 2 if ray.get_runtime_context().was_current_actor_reconstructed else 1

    async def lives(self) -> int:
        """The life it is in."""
        return self._lives

    async def generate(self, prompts: list[Prompt], sampling: SamplingParams) -> AsyncIterator[Group]:
        """One response each, whose token is the number of the life."""
        for count, prompt in enumerate(prompts):
            if self._lives == 1 and count == 2:
                os._exit(1)
            yield Group(prompt, (make_response(self._lives),))
            await asyncio.sleep(0)


def wait_for_second_life(engine: ActorHandle) -> None:
    """As the policy's `reconnect_engines`: until the engine that Ray starts again answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(RayActorError):
            assert ray.get(engine.lives.remote(), timeout=60) == 2
            return
        time.sleep(0.1)
    raise TimeoutError


@pytest.mark.timeout(180)
def test_what_a_lost_engine_owes_is_sampled_again(ray_cluster: None) -> None:
    """Catches a step that ends with its engine, a group that is lost with it, and one that comes twice."""
    engine, other = MortalEngine.remote(), HeldEngine.remote(False)
    recoveries: list[None] = []

    def recover() -> None:
        recoveries.append(wait_for_second_life(engine))

    pool = RolloutPool([engine, other], timeout_seconds=120, recover=recover)
    groups = list(pool.generate(prompts_of(*range(1, 13)), SAMPLING))
    assert sorted(names([group.prompt for group in groups])) == sorted(f"p{number}" for number in range(12))
    assert len(recoveries) == 1
    # In its second life the engine answers whatever it had not delivered: some of what it made in its first is lost.
    assert 2 in {int(group.responses[0].token_ids[0]) for group in groups}
    for actor in (engine, other):
        ray.kill(actor)


@pytest.mark.timeout(180)
def test_without_recovery_a_lost_engine_is_an_error(ray_cluster: None) -> None:
    """Catches an evaluation that waits for an engine that nobody gives its weights again."""
    engine = MortalEngine.remote()
    pool = RolloutPool([engine], timeout_seconds=120)
    with pytest.raises(ActorLost, match="actor"):
        list(pool.generate(prompts_of(1, 2, 3, 4), SAMPLING))
    ray.kill(engine)
