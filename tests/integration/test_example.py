"""The example that shows the algorithm on one page."""

import os
import re
import subprocess
import sys
from statistics import fmean

from tests.running import ROOT

NUM_STEPS, COMPARED_STEPS = 10, 3
MARGIN = 0.08


def test_the_example_is_one_page() -> None:
    """Catches an example that has outgrown a slide."""
    assert len((ROOT / "examples/grpo_loop.py").read_text(encoding="utf-8").splitlines()) < 120


def test_the_example_learns() -> None:
    """Catches an example that no longer runs, and a change of openr1's pieces after which its policy does not learn.

    Measured over ten steps.
    """
    command = [sys.executable, "-m", "examples.grpo_loop", "--num_steps", str(NUM_STEPS), "--seed", "0"]
    # Waiting threads must not spin: other processes may need the cores.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"step {step}" for step in range(1, NUM_STEPS + 1)]
    accuracies = [float(number) for number in re.findall(r"accuracy ([01]\.\d+)", done.stdout)]
    assert fmean(accuracies[-COMPARED_STEPS:]) > fmean(accuracies[:COMPARED_STEPS]) + MARGIN, done.stdout
