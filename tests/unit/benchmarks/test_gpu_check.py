"""The GPU check on a machine without one: it says what is missing, and a crash ends one row."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_rows import compare_heads
from tests.running import ROOT


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="says what is missing on a machine without GPUs; this one has some"
)
def test_rows_without_a_gpu_are_not_run(tmp_path: Path) -> None:
    """Catches a check that is green because it did nothing, and a result file without the machine."""
    result = tmp_path / "result.json"
    command = ["bash", "scripts/gpu_check.sh", "--only", "machine,head,half", "--output", str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(result.read_text())["rows"]
    assert {name: row["status"] for name, row in rows.items()} == {
        "machine": "ok",
        "head": "not run",
        "half": "not run",
    }
    assert rows["machine"]["found"]["gpus"] == 0
    assert "OPENR1_STACK=cuda" in rows["head"]["reason"]
    assert "head       not run" in done.stdout


def test_a_row_that_fails_is_one_line() -> None:
    """Catches a crash that ends the whole check, and a result that is taken for one although the row failed."""
    fails = [sys.executable, "-c", "import sys; print('{}'); sys.exit('ValueError: no such kernel')"]
    assert gpu_check.run_command(fails, 30) == {"status": "failed", "error": "ValueError: no such kernel"}
    silent = gpu_check.run_command([sys.executable, "-c", ""], 30)
    assert silent == {"status": "failed", "error": "exit code 0"}


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie, which nobody may have reaped."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_late_row_ends_with_the_run_it_started(tmp_path: Path) -> None:
    """Catches a row that nobody waits out, and a child that goes on and keeps the GPU's memory."""
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    row = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert gpu_check.run_command([sys.executable, "-c", row], 10) == {"status": "failed", "error": "not done in 10 s"}
    pid = int((tmp_path / "pid").read_text())
    # Killed, a process is gone only a moment later; left alone, it would run for ten minutes.
    deadline = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < deadline, "the child goes on"
        time.sleep(0.05)


def test_unknown_rows_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a misspelt row that is silently left out."""
    with pytest.raises(SystemExit) as caught:
        gpu_check.main(["--only", "heat"])
    assert caught.value.code == 2
    assert "no such row; there are machine, head" in capsys.readouterr().err


def test_an_engine_sleeps_and_wakes() -> None:
    """Catches a row that fails in its own code: a push in another form than a run's, or a wrong order of waking up.

    On the CPU, where vLLM sleeps without releasing memory, the numbers of bytes are counted up here: 1, 3 and 6 GiB.
    """
    program = (
        "import json; from benchmarks.gpu_sleep import sleep_and_wake; "
        "free = iter([2**30, 3 * 2**30, 6 * 2**30]); "
        "print(json.dumps(sleep_and_wake(on_gpu=False, free_memory=lambda: next(free))))"
    )
    found = gpu_check.run_command([sys.executable, "-c", program], 120)
    assert found.pop("log_probs_apart") < 1e-5
    assert found == {"same_responses": "16 of 16", "freed_gib": 2.0, "taken_back_gib": -3.0}


def test_heads_are_compared() -> None:
    """Catches a comparison of a head with itself: in bfloat16 only gradients differ, by their rounding."""
    errors = compare_heads("cpu", vocabulary=500, hidden=64, tokens=40)
    assert errors["logits"] < 1e-6
    assert 1e-5 < errors["weight_gradient"] < 2**-7
    assert 1e-5 < errors["hidden_gradient"] < 2**-7
