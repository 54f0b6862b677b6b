"""Signals, sent for real to this process: where they are raised, and what they wait for."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from openr1.runtime.interrupts import Interrupted, Interrupts
from tests.running import ROOT


def send(number: signal.Signals = signal.SIGTERM) -> None:
    """What `kill` does."""
    os.kill(os.getpid(), number)


def interrupted(interrupts: Interrupts, run: Callable[[], None]) -> Interrupted:
    """What comes out of `run`, which is interrupted; the handlers of before are back afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    with interrupts.installed(), pytest.raises(Interrupted) as caught:
        run()
    assert signal.getsignal(signal.SIGTERM) == before
    return caught.value


def test_a_section_defers_from_a_point_on() -> None:
    """Catches a signal that cuts a step between its update and its row."""
    interrupts, reached = Interrupts(), []

    def run() -> None:
        with interrupts.section():
            interrupts.defer()
            send(signal.SIGINT)
            interrupts.check()
            reached.append("end of the section")
        reached.append("after it")

    assert interrupted(interrupts, run).exit_code == 130
    assert reached == ["end of the section"]


def test_a_section_alone_defers_nothing() -> None:
    """Catches a generation of minutes that cannot be stopped, because its step is a section."""
    interrupts, reached = Interrupts(), []

    def run() -> None:
        with interrupts.section():
            send()
            reached.append("after the signal")

    assert interrupted(interrupts, run).exit_code == 143
    assert reached == []


def test_of_nested_sections_the_outermost_counts() -> None:
    """Catches a trainer's own section that raises at its end, before the run has recorded the step."""
    interrupts, reached = Interrupts(), []

    def run() -> None:
        with interrupts.section():
            with interrupts.section():
                interrupts.defer()
                send()
            reached.append("end of the inner one")
            with interrupts.held_back():
                reached.append("held back inside")
            reached.append("end of the outer one")
        reached.append("after it")

    interrupted(interrupts, run)
    assert reached == ["end of the inner one", "held back inside", "end of the outer one"]


def test_a_section_ends_its_deferral() -> None:
    """Catches a step after which no signal is heard any more, and one that begins deferred because the last one was."""
    interrupts, reached = Interrupts(), []

    def run() -> None:
        with interrupts.section():
            interrupts.defer()
        with interrupts.section():
            send()
            reached.append("deferred without being told")

    interrupted(interrupts, run)
    assert reached == []


def test_an_error_ends_a_section() -> None:
    """Catches a failed step that leaves signals deferred, and a section's own error replaced by a signal's."""
    interrupts, reached = Interrupts(), []

    def fail() -> None:
        with interrupts.section():
            interrupts.defer()
            send()
            raise OSError("disk full")

    def run() -> None:
        with pytest.raises(OSError, match="disk full"):
            fail()
        reached.append("the error came out")
        interrupts.check()
        reached.append("the signal was lost")

    interrupted(interrupts, run)
    assert reached == ["the error came out"]


def test_what_holds_back_a_section_holds_to_its_end() -> None:
    """Catches a section that ends what a block around it holds back: a checkpoint could be cut in half after it."""
    interrupts, reached = Interrupts(), []

    def run() -> None:
        with interrupts.held_back():
            with interrupts.section():
                interrupts.defer()
                send()
            reached.append("end of the section")
            interrupts.check()
            reached.append("end of the block")
        reached.append("after it")

    interrupted(interrupts, run)
    assert reached == ["end of the section", "end of the block"]


def test_a_signal_while_polled_waits_for_a_check() -> None:
    """Catches an exception thrown into compiled code, and a deferred section that a polled signal cuts."""
    interrupts, reached = Interrupts(), []

    def run() -> None:
        with interrupts.polled():
            send()
            reached.append("after the signal")
            with interrupts.section():
                interrupts.defer()
                interrupts.check()
                reached.append("end of the section")
            reached.append("after it")

    interrupted(interrupts, run)
    assert reached == ["after the signal", "end of the section"]


SECOND = """
import os, signal, sys
from openr1.runtime.interrupts import Interrupts
interrupts = Interrupts()
with interrupts.installed(), interrupts.section():
    interrupts.defer()
    os.kill(os.getpid(), signal.SIGINT)
    print("deferred", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still there", flush=True)
"""


def test_a_second_signal_is_final() -> None:
    """Catches a run that cannot be ended while it waits for something that never comes."""
    done = subprocess.run(
        [sys.executable, "-c", SECOND], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "deferred\n")
