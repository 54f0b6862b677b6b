"""Running the real thing from tests: `scripts/grpo.sh` in a process of its own, and what it leaves behind."""

import json
import os
import signal
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
MARK = "OPENR1_TEST_MARK"


@dataclass
class Job:
    """A started script, found again by a mark in the environment that all its descendants inherit."""

    process: "subprocess.Popen[str]"
    mark: str

    def wait(self, seconds: float) -> tuple[int, str]:
        """Exit code and everything it printed."""
        try:
            output, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for process in marked(self.mark):
                process.kill()
            raise
        return self.process.returncode, output

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the script, as `kill` would."""
        self.process.send_signal(number)

    def leftovers(self) -> list[str]:
        """Command lines of processes that carry the mark and still live a moment after the script has ended."""
        _, alive = psutil.wait_procs(marked(self.mark), timeout=20)
        return [" ".join(process.cmdline()) for process in alive]


def marked(mark: str) -> list[psutil.Process]:
    """Living processes that inherited the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def start_grpo(config: Path, *overrides: str) -> Job:
    """Start `scripts/grpo.sh CONFIG overrides`."""
    mark = uuid.uuid4().hex
    environment = os.environ | {MARK: mark, "COLUMNS": "200"}
    environment.pop("OMP_NUM_THREADS", None)
    process = subprocess.Popen(
        ["bash", str(ROOT / "scripts/grpo.sh"), str(config), *overrides],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell cannot trap what was ignored when it started, as SIGINT is under `nohup ... &`.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    return Job(process, mark)


def run_grpo(config: Path, *overrides: str, seconds: float = 170) -> str:
    """Run the script to its end; returns its output after checking that it succeeded and left no process."""
    job = start_grpo(config, *overrides)
    code, output = job.wait(seconds)
    assert code == 0, output
    assert job.leftovers() == []
    return output


def write_config(path: Path, model: Path, data: Path, /, **sections: Any) -> Path:
    """A small float32 run in `path.parent / "runs"`; sections are merged over the defaults here."""
    config: dict[str, Any] = {
        "run": {"name": "small", "output_dir": str(path.parent / "runs"), "seed": 3},
        "model": {"path": str(model), "dtype": "float32"},
        "data": {"train": str(data / "train.jsonl"), "held_out": str(data / "held_out.jsonl"), "prompt_max_len": 64},
        "rollout": {
            "rollout_batch_size": 8,
            "n_samples_per_prompt": 4,
            "generate_max_len": 48,
            "kv_cache_gib": 0.1,
            "timeout_seconds": 120,
        },
        "algorithm": {"init_kl_coef": 0.01},
        "optimizer": {"learning_rate": 1.0e-4},
        "policy": {"train_batch_size": 32, "micro_batch_tokens": 1024, "zero_stage": 1, "timeout_seconds": 120},
        "checkpoint": {"save_steps": 1},
        "evaluation": {"n_samples_per_prompt": 2},
        "num_steps": 2,
    }
    for section, values in sections.items():
        config[section] = {**config.get(section, {}), **values} if isinstance(values, dict) else values
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
