"""A comparison for tests of the limits: it misbehaves when told to, and else compares as the workers do.

No test needs an expression that makes other software hang or crash: an answer with one of these commands, which nothing
can read, goes to a worker, and the worker does what it says.
"""

import os
import time

from reward_server.grading import Outcome, Unread
from reward_server.workers import compare_symbolically

BURN, SLEEP, ALLOCATE, EXIT = r"\burn", r"\sleep", r"\allocate", r"\exit"
"""Answers that compute for ever, wait for ever, ask for all memory, and end their process."""


def is_equal(outcome: Outcome | None) -> bool | None:
    """The verdict of a comparison: an answer that cannot be read is as wrong as a different one."""
    return False if isinstance(outcome, Unread) else outcome


def misbehave(answer: str, gold: str, prose: bool) -> Outcome:
    """What the answer says; an ordinary comparison for all other answers."""
    if BURN in answer:
        while True:
            pass
    if SLEEP in answer:
        time.sleep(3600)
    if ALLOCATE in answer:
        return bool(bytearray(2**40))
    if EXIT in answer:
        os._exit(7)
    return compare_symbolically(answer, gold, prose)
