"""Memory of a run's processes, by role."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.against_baseline import ratios
from benchmarks.process_memory import PeakMemory, memory_by_role, role

MIB = 2**20


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["ray::EngineActor.generate"], "engine"),
        (["ray::TrainWorker"], "policy"),
        (["ray::ReferenceWorker.log_probs"], "reference"),
        (["ray::IDLE"], "Ray"),
        (["/venv/site-packages/ray/core/src/ray/raylet/raylet", "--store_socket_name=x"], "Ray"),
        (["python", "-u", "/venv/site-packages/ray/dashboard/agent.py"], "Ray"),
        (["python", "-m", "openr1.rewards.serve_child", "serve", "--port", "0"], "reward server"),
        (["python", "-c", "from multiprocessing.spawn import spawn_main"], "other"),
    ],
)
def test_roles(command: list[str], expected: str) -> None:
    """Catches an actor that counts as Ray's own, and a reward server that counts as the driver."""
    assert role(command) == expected


HOLDS = "import subprocess, sys, time; kept = bytearray(b'x') * {size}\n"
SERVES = HOLDS + "subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(100)"


def test_a_worker_counts_for_who_started_it() -> None:
    """Catches workers of the reward server without a role, and memory of children that is left out.

    A server that holds 64 MiB, whose worker holds 128.
    """
    child = HOLDS.format(size=128 * MIB) + "time.sleep(100)"
    server = subprocess.Popen([sys.executable, "-c", SERVES.format(size=64 * MIB, child=child), "serve"])
    try:
        deadline = time.monotonic() + 60
        while (found := memory_by_role(psutil.Process(os.getpid()))["reward server"]) < 192 * MIB:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        assert found < 300 * MIB
    finally:
        for process in (*psutil.Process(server.pid).children(), server):
            process.kill()
        server.wait()


def test_the_peak_stays() -> None:
    """Catches the memory at the end in place of that at the peak: 128 MiB that are there for two seconds."""
    code = f"import time; kept = bytearray(b'x') * {128 * MIB}; time.sleep(2); del kept; time.sleep(1.5)"
    process = subprocess.Popen([sys.executable, "-c", code])
    with PeakMemory(process.pid) as memory:
        process.wait()
    assert 128 * MIB < memory.peak["driver"] < 200 * MIB


def test_ratios_are_those_of_rounds() -> None:
    """Catches a ratio of medians: rounds of a machine whose speed changes would mix."""
    now, baseline = [{"x": 1.0}, {"x": 4.0}, {"x": 3.0}], [{"x": 2.0}, {"x": 4.0}, {"x": 12.0}]
    assert ratios(now, baseline) == {"x": {"median": 0.5, "min": 0.25, "max": 1.0}}
