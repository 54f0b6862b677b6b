"""Notices actors whose process lives and answers nothing: stopped by a signal, or stuck in a call."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

CHECK_SECONDS = 1.0
"""Shortest time between two looks at the answers: `watch` is called for every group of a step."""
ASK_SECONDS = 10.0
"""Interval between questions to one actor."""
SILENT_SECONDS = 60.0
"""Silence after which an actor is given up. Engines and references answer while they compute, too."""
LONGEST_PAUSE = 2.0
"""What the time between two looks adds to a silence at most: while this process was stopped or busy elsewhere, answers
may have come that it has not seen yet."""


@dataclass
class _Question:
    """What an actor was asked, and the seconds since then."""

    answer: ObjectRef
    seconds: float = 0.0


class Heartbeats:
    """Asks actors whether they are alive, without waiting for the answers."""

    def __init__(self, actors: Sequence[ActorHandle]) -> None:
        """Nobody is asked yet."""
        self._actors = actors
        self._asked: dict[int, _Question] = {}
        self._last = float("-inf")

    def watch(self, busy: Collection[int]) -> list[int]:
        """Go on asking these actors; call it at least every few seconds. Returns those to give up, each once.

        Args:
            busy: Numbers of the actors that should be working. Others are not asked: one that starts again cannot
                answer yet.
        """
        now = time.monotonic()
        passed = now - self._last
        if passed < CHECK_SECONDS:
            return []
        self._last = now
        self._asked = {actor: question for actor, question in self._asked.items() if actor in busy}
        calls = [question.answer for question in self._asked.values()]
        # An actor that is gone answers with an error, which whoever waits for its work is told, too.
        answered = set(ray.wait(calls, num_returns=len(calls), timeout=0)[0]) if calls else set()
        silent = []
        for actor, question in list(self._asked.items()):
            question.seconds += min(passed, LONGEST_PAUSE)
            if question.answer not in answered and question.seconds > SILENT_SECONDS:
                silent.append(actor)
            if actor in silent or (question.answer in answered and question.seconds > ASK_SECONDS):
                del self._asked[actor]
        for actor in set(busy) - self._asked.keys() - set(silent):
            self._asked[actor] = _Question(self._actors[actor].ready.remote())
        return silent
