"""The example that shows the algorithm on one page."""

import os
import re
import subprocess
import sys
from statistics import fmean

from tests.running import ROOT

NUM_STEPS, COMPARED_STEPS, MARGIN = 10, 3, 0.1


def test_the_example_is_one_page() -> None:
    """Catches an example that has outgrown one page."""
    assert len((ROOT / "examples/grpo_loop.py").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_example_learns() -> None:
    """Catches an example that no longer runs, and a loss, mask or advantage with which its policy does not learn.

    Accuracy of the last three of ten steps minus that of the first three was 0.26, 0.20, 0.24, 0.20 and 0.15 for seeds
    0 to 4; the margin is less than half of the mean. At a learning rate of 1e-12 it was 0.06 and -0.02 (seeds 0 and 1).
    """
    command = [sys.executable, "-m", "examples.grpo_loop", "--num_steps", str(NUM_STEPS), "--seed", "0"]
    # Waiting threads must not spin: other processes may need the cores.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"^step (\d+): accuracy ([01]\.\d+), ", done.stdout, re.MULTILINE)
    assert [int(step) for step, _ in steps] == list(range(1, NUM_STEPS + 1)), done.stdout
    accuracies = [float(accuracy) for _, accuracy in steps]
    assert fmean(accuracies[-COMPARED_STEPS:]) > fmean(accuracies[:COMPARED_STEPS]) + MARGIN, done.stdout
