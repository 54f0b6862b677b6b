"""Prompts dealt to several engines, by hand and with a real Ray and engines that a test holds back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

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
