"""Runs with a fault (OPENR1_FAULT), all of them real: absorbed, or ended soon in one line and resumed.

Whatever happens, the final weights are those of a run without a fault. `make chaos` tries all rows and 20 random
faults; `make test-slow` a few.
"""

import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.machine import write_result
from openr1.runtime.faults import VARIABLE
from tests.integration.test_resume import BASE_MODEL
from tests.running import MARK, ROOT, Job, read_jsonl, write_config

NUM_STEPS = 4
ROLLOUT_TIMEOUT, POLICY_TIMEOUT = 90, 280
"""`timeout_seconds` of these runs. A seventh of the second must do for an engine to start again in a push."""
BOUND = 400
"""Longest run, start and one restart included; on an idle machine each takes less than a minute without a fault."""
CHAOS_DRAWS = 20


@dataclass(frozen=True)
class Case:
    """A fault, and what a run makes of it.

    Attributes:
        code: Exit code; 0: it is absorbed.
        told: What the last line must have.
        restarts: Metric that must count 1 at the end.
        flags: Overrides of the run with the fault.
        unrecorded: Step whose row is lost: it was saved, but there was no room for its record.
        quick: Part of `make test-slow`.
    """

    fault: str
    code: int = 0
    told: str = ""
    restarts: str | None = None
    flags: tuple[str, ...] = ()
    unrecorded: int | None = None
    quick: bool = False


CASES = [
    Case("engine_0/group:kill:11", restarts="engine/restarts", quick=True),
    Case("engine_0/group:stop:11", restarts="engine/restarts"),
    Case("engine_0/group:delay:11"),
    Case("engine/group:kill:9+", 4, "engine 0"),
    Case("engine_0/group:short:11", 4, "3 responses instead of 4"),
    Case("engine_0/group:raise:11", 4, "OPENR1_FAULT: raise at engine/group"),
    Case("engine_0/load:kill:2", restarts="engine/restarts"),
    Case("engine_0/load:raise:2"),
    Case("engine_0/load:raise:2+", 4, "weight version 1 did not reach all engines"),
    Case("engine_0/load:stop:2", restarts="engine/restarts"),
    Case("engine_0/finish:kill:3", restarts="engine/restarts"),
    Case("reference_0/log_probs:kill:2", restarts="reference/restarts"),
    Case("reference_0/log_probs:stop:2", restarts="reference/restarts"),
    Case("reference/log_probs:kill:1+", 4, "reference 0"),
    Case("reference_0/log_probs:raise:2", 4, "OPENR1_FAULT: raise at reference/log_probs"),
    Case("policy_1/forward:kill:4", 4, "policy rank 1"),
    Case("policy_0/backward:kill:3", 4, "policy rank 0"),
    Case("policy_1/optimizer:kill:2", 4, "policy rank 1"),
    Case("policy_0/optimizer:raise:3", 4, "OPENR1_FAULT: raise at policy/optimizer"),
    Case("policy_1/optimizer:stop:2", 4, "policy rank", flags=("--policy.timeout_seconds", "60")),
    Case("policy_0/push:kill:3", 4, "policy rank 0"),
    Case("policy_0/save:full:1", 4, "No space left"),
    Case("policy_0/write:full:1", 3, "No space left"),
    Case("policy_1/write:kill:2", 4, "policy rank 1"),
    Case("driver/experience:kill:3", -9),
    Case("driver/experience:term:3", 143, "stopped by SIGTERM"),
    Case("driver/update:kill:3", -9),
    Case("driver/update:term:3", 143, "stopped by SIGTERM"),
    Case("driver/push:kill:3", -9),
    Case("driver/record:kill:3", -9),
    Case("driver/record:full:3", 3, "No space left", unrecorded=3, quick=True),
    Case("driver/publish:kill:1", -9),
    Case("driver/publish:full:1", 3, "No space left"),
    Case("driver/published:kill:1", -9),
]


def drawn(seed: int) -> Case:
    """A random fault of the table's points, at a random passing; what becomes of it is not known beforehand."""
    rng = random.Random(seed)
    point, action, _ = rng.choice(CASES).fault.split(":")
    nth = rng.randint(1, 12)
    return Case(f"{point}:{action}:{nth}", unrecorded=nth if (point, action) == ("driver/record", "full") else None)


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    output: str
    seconds: float

    @property
    def last_line(self) -> str:
        """Of its output."""
        return (self.output.strip().splitlines() or [""])[-1]


@pytest.fixture(scope="module")
def config(countdown_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks, an engine and a reference; a checkpoint every second step."""
    return write_config(
        tmp_path_factory.mktemp("faults") / "config.yaml",
        BASE_MODEL,
        countdown_files,
        data={"held_out": None},
        rollout={"generate_max_len": 96, "timeout_seconds": ROLLOUT_TIMEOUT},
        optimizer={"learning_rate": 3.0e-4},
        policy={"train_batch_size": 32, "num_ranks": 2, "zero_stage": 2, "timeout_seconds": POLICY_TIMEOUT},
        checkpoint={"save_steps": 2},
        num_steps=NUM_STEPS,
    )


def run(config: Path, name: str, fault: str | None, *flags: str) -> Ended:
    """`python -m cli train` to its end, with a check that it leaves no process and no shared memory."""
    mark = uuid.uuid4().hex
    environment = os.environ | {MARK: mark} | ({} if fault is None else {VARIABLE: fault})
    command = [sys.executable, "-m", "cli", "train", "--config", str(config), "--run.name", name, *flags]
    start = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    job = Job(process, mark)
    code, output = job.wait(BOUND)
    seconds = time.monotonic() - start
    assert job.leftovers() == []
    if code != -9:  # what a killed run leaves, the next one removes
        assert not list(Path("/dev/shm").glob(f"openr1-{process.pid}-*"))
        assert not list(Path("/tmp").glob(f"openr1-ray-{process.pid}-*"))
    return Ended(code, output, seconds)


def weights(folder: Path, step: int = NUM_STEPS) -> dict[str, torch.Tensor]:
    """Of the exported model after a step, the last one."""
    return load_file(folder / f"checkpoints/step_{step:06d}/model/model.safetensors")


@pytest.fixture(scope="module")
def record() -> Iterator[list[dict[str, object]]]:
    """Rows of OPENR1_CHAOS_RESULTS, a file that is written at the end if the variable names one."""
    rows: list[dict[str, object]] = []
    yield rows
    if path := os.environ.get("OPENR1_CHAOS_RESULTS"):
        write_result(Path(path), {"num_steps": NUM_STEPS, "rows": rows})


@pytest.fixture(scope="module")
def expected(config: Path, record: list[dict[str, object]]) -> dict[str, torch.Tensor]:
    """Weights of a run without a fault."""
    ended = run(config, "whole", None)
    record.append({"fault": None, "code": ended.code, "seconds": round(ended.seconds, 1)})
    assert ended.code == 0, ended.output
    return weights(config.parent / "runs/whole")


def check_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal up to rounding: one update moves a weight by up to the learning rate, 3e-4."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).abs().max() < 3e-6, name


def check_resumes(config: Path, name: str, expected: dict[str, torch.Tensor], unrecorded: int | None = None) -> None:
    """A run that ended early goes on to the weights of a run without a fault, with one row for each recorded step."""
    folder = config.parent / "runs" / name
    resumed = run(config, name, None, *(["--resume"] if (folder / "config.yaml").exists() else []))
    assert resumed.code == 0, resumed.output
    steps = [step for step in range(1, NUM_STEPS + 1) if step != unrecorded]
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == steps
    check_same_weights(weights(folder), expected)


def check_one_line(ended: Ended) -> None:
    """The last line tells what happened, and is one: neither a traceback nor an essay."""
    assert ended.last_line.startswith("train: "), ended.output
    assert "Traceback" not in ended.output
    assert len(ended.last_line) < 700


@pytest.mark.slow
@pytest.mark.timeout(3 * BOUND)
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.fault, marks=[] if case.quick else pytest.mark.chaos) for case in CASES],
)
def test_a_fault(case: Case, config: Path, expected: dict[str, torch.Tensor], record: list[dict[str, object]]) -> None:
    """Catches a fault that hangs, ends without a reason, loses more than the step it hit, or changes the result."""
    name = case.fault.translate(str.maketrans("/:+", "___"))
    folder = config.parent / "runs" / name
    ended = run(config, name, case.fault, *case.flags)
    record.append({"fault": case.fault, "code": ended.code, "seconds": round(ended.seconds, 1)})
    assert ended.code == case.code, ended.output
    if case.code == 0:
        if case.restarts is not None:
            assert read_jsonl(folder / "metrics.jsonl")[-1][case.restarts] == 1
        check_same_weights(weights(folder), expected)
        return
    if case.code > 0:
        check_one_line(ended)
        assert case.told in ended.last_line
    check_resumes(config, name, expected, case.unrecorded)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(3 * BOUND)
@pytest.mark.parametrize("seed", range(CHAOS_DRAWS))
def test_chaos(seed: int, config: Path, expected: dict[str, torch.Tensor], record: list[dict[str, object]]) -> None:
    """Catches faults at moments that nobody has thought of."""
    case = drawn(seed)
    fault = case.fault
    ended = run(config, f"chaos-{seed}", fault)
    record.append({"seed": seed, "fault": fault, "code": ended.code, "seconds": round(ended.seconds, 1)})
    if ended.code == 0:
        check_same_weights(weights(config.parent / f"runs/chaos-{seed}"), expected)
        return
    if ended.code > 0:
        check_one_line(ended)
    check_resumes(config, f"chaos-{seed}", expected, case.unrecorded)
