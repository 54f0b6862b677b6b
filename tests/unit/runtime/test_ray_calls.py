"""Waits for Ray actors: what the messages say."""

import re
import time

import pytest
import ray
from ray.exceptions import RayActorError

from openr1.errors import ActorLost, EngineError, StageTimeout, TrainingError
from openr1.runtime import ray_calls
from openr1.runtime.ray_calls import MOST_NAMES, gather, last_line, numbered, one_line


class Answering:
    """An actor that answers, is late, fails or dies."""

    def __init__(self, settings: None) -> None: ...

    def answer(self, seconds: float = 0.0) -> float:
        time.sleep(seconds)
        return seconds

    def fail(self, error: Exception) -> None:
        raise error

    def die(self, seconds: float = 0.0) -> None:
        import os

        time.sleep(seconds)
        os._exit(1)


@pytest.fixture(scope="module")
def actors(ray_cluster: None) -> list[ray.actor.ActorHandle]:
    return [ray.remote(Answering).options(num_cpus=0).remote(None) for _ in range(3)]


def test_whoever_lags_is_named(actors: list[ray.actor.ActorHandle]) -> None:
    """Catches a message that counts actors where one of a hundred hangs, and one that names those that have answered.

    Actors 0 and 1 have answered before the wait begins; 2 takes longer than it lasts.
    """
    calls = [actor.answer.remote(seconds) for actor, seconds in zip(actors, (0.0, 0.0, 5.0), strict=True)]
    ray.get(calls[:2])
    with pytest.raises(StageTimeout) as raised:
        gather(calls, 0.5, "the test waits for 3 actor(s)", numbered("actor", 3))
    assert str(raised.value) == "the test waits for 3 actor(s): actor 2: not done within 0.5 s"
    with pytest.raises(StageTimeout, match=re.escape("the test waits: not done within 0.1 s")):
        gather([calls[2]], 0.1, "the test waits")
    assert gather(calls, 60, "the test waits", numbered("actor", 3)) == [0.0, 0.0, 5.0]


def test_whoever_fails_is_named(actors: list[ray.actor.ActorHandle]) -> None:
    """Catches an error without its actor, or without the line that has the cause, and one of ours that is hidden."""
    calls = [actors[0].answer.remote(), actors[1].fail.remote(ValueError("the cause\nsome advice"))]
    with pytest.raises(TrainingError, match=r"^the test waits: actor 1: ValueError: the cause some advice$"):
        gather(calls, 60, "the test waits", numbered("actor", 2))
    with pytest.raises(EngineError, match=r"^ours$"):
        gather([actors[0].fail.remote(EngineError("ours"))], 60, "the test waits", ["actor 0"])
    with pytest.raises(TrainingError, match=r"^the test waits: actor 2: an actor died: .*logs folder$"):
        gather([actors[0].answer.remote(), actors[2].die.remote()], 60, "the test waits", ["actor 0", "actor 2"])
    # Ray tells its list of possible reasons again whenever a dead actor is called.
    with pytest.raises(RayActorError, match="Some common causes") as raised:
        ray.get(actors[2].answer.remote())
    assert last_line(raised.value).endswith("connection error code 2. End of file")


def test_long_causes_keep_their_ends() -> None:
    """Catches an essay on the screen, and a message that is cut where its cause is."""
    text = one_line(ValueError("first cause\n" + "word " * 500 + "\n  last cause"))
    assert text.startswith("first cause word")
    assert text.endswith("word last cause")
    assert len(text) < 500
    assert one_line(ValueError()) == "ValueError"


def test_the_one_that_died_is_named_not_the_one_that_noticed(ray_cluster: None) -> None:
    """Catches a message about a closed connection of rank 0, where rank 1 is the one to look at."""
    kept, lost = (ray.remote(Answering).options(num_cpus=0).remote(None) for _ in range(2))
    ray.get([kept.answer.remote(), lost.answer.remote()])
    calls = [kept.fail.remote(RuntimeError("Connection closed by peer")), lost.die.remote(1.0)]
    with pytest.raises(ActorLost, match=r"^the test waits: rank 1: an actor died: "):
        gather(calls, 60, "the test waits", numbered("rank", 2))


def test_news_of_a_death_is_awaited_once(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error of one rank that takes the wait of every other rank, one after the other, to be told."""
    monkeypatch.setattr(ray_calls, "DEATH_SECONDS", 2.0)
    actors = [ray.remote(Answering).options(num_cpus=0).remote(None) for _ in range(5)]
    ray.get([actor.answer.remote() for actor in actors])
    calls = [actors[0].fail.remote(ValueError("the cause")), *(actor.answer.remote(30.0) for actor in actors[1:])]
    start = time.monotonic()
    with pytest.raises(TrainingError, match=r"^the test waits: rank 0: ValueError: the cause$"):
        gather(calls, 60, "the test waits", numbered("rank", 5))
    assert time.monotonic() - start < 6.0  # four waits are 8 s
    for actor in actors:
        ray.kill(actor)


def test_many_names_are_cut(actors: list[ray.actor.ActorHandle]) -> None:
    """Catches a message of a thousand names, and a count that is off: 10 wait, 8 are named."""
    late = actors[0].answer.remote(2.0)
    calls = [actors[0].answer.remote() for _ in range(MOST_NAMES + 2)]
    with pytest.raises(StageTimeout, match=r"actor 0, actor 1, .*, actor 7 and 2 more: not done"):
        gather(calls, 0.3, "the test waits", numbered("actor", len(calls)))
    ray.get([late, *calls])
