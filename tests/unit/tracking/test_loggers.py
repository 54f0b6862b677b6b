"""Loggers: what wandb, SwanLab and TensorBoard really have on disk, and that none of them can hold a run."""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from openr1.config.sections import RunConfig, TrackingConfig
from openr1.errors import ConfigError
from openr1.rollout.experience import StepResult
from openr1.tracking.eval_results import EvalResult, eval_path, write_eval_results
from openr1.tracking.loggers import client
from openr1.tracking.loggers.backends import COLUMNS, TEXT_CHARS, table_rows
from openr1.tracking.loggers.client import Loggers, check_tracking, public_settings
from openr1.tracking.recorder import RunRecorder, rollout_rows
from tests.fakes import make_config
from tests.running import MARK, ROOT, marked
from tests.unit.tracking.fake_backends import (
    Dying,
    Recorder,
    Refusing,
    StuckAtEnd,
    StuckAtStart,
    WaitsForOther,
)
from tests.unit.tracking.steps import make_scored, make_step

KEY = "k3y" + "0" * 37
"""An API key of the right length."""


def make_result(step: int) -> StepResult:
    """A step whose first response could not be graded."""
    metrics = {"reward/mean": step / 8, "reward/my_component": 0.25, "time/step_seconds": 2.0}
    return make_step(step, make_scored(3, "题目 <b>|\n", [None, 1.0]), [0.0, 0.5], metrics)


@dataclass
class Runs:
    """Runs one after another in the same folder, as an interrupted run and its resumption."""

    folder: Path
    said: list[str]
    tracking: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)

    def loggers(self) -> Loggers:
        """Those of a run in the folder."""
        values: dict[str, Any] = {"mode": "offline", "rollout_table_steps": 2}
        run = RunConfig(name="small", output_dir=self.folder.parent)
        return Loggers(TrackingConfig(**values | self.tracking), run, self.settings)

    def go(self, after: int, *steps: int) -> None:
        """One process's part of a run: steps after `after`."""
        with self.loggers() as loggers:
            loggers.start(after)
            for step in steps:
                result = make_result(step)
                loggers.log(step, result.metrics, rollout_rows(result.experience))

    @property
    def notes(self) -> dict[str, Any]:
        """What tracking.json says."""
        notes: dict[str, Any] = json.loads((self.folder / "tracking.json").read_text())
        return notes


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    """Runs in a folder of their own, with no key; afterwards no process may be left."""
    said: list[str] = []
    monkeypatch.setattr(client, "say", said.append)
    for name in ("WANDB_API_KEY", "SWANLAB_API_KEY", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(MARK, str(tmp_path))
    yield Runs(tmp_path / "small", said)
    # This process has the mark too; wandb's service may take a moment to see that its client is gone.
    others = [process for process in marked(str(tmp_path)) if process.pid != os.getpid()]
    _, alive = psutil.wait_procs(others, timeout=30)
    assert alive == []


def read_log(path: Path) -> list[bytes]:
    """Records of a log in LevelDB's format: 7 bytes of header, then blocks of 32 KiB with whole or split records."""
    data, records, pieces = path.read_bytes(), [], b""
    place = 7
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        pieces += data[place + 7 : place + 7 + length]
        # 1 is a whole record, 2 the first piece of one, 3 a middle one, 4 the last.
        if kind in (1, 4):
            records.append(pieces)
            pieces = b""
        place += 7 + length
    return records


# wandb


def read_wandb(folder: Path) -> list[tuple[Any, dict[int, dict[str, Any]]]]:
    """The run record and the history, by step, of each of wandb's offline folders."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        run: Any = None
        history: dict[int, dict[str, Any]] = {}
        for data in read_log(path):
            record = Record.FromString(data)
            if record.HasField("run"):
                run = record.run
            if record.HasField("history"):
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                assert record.history.step.num not in history
                history[record.history.step.num] = items
        found.append((run, history))
    return found


def test_wandb_run_on_disk(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches metrics at the wrong step, a missing component, a lost last step, and a config that is not there."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    runs.tracking = {"backends": ["wandb"], "project": "mine", "workspace": "us", "experiment_name": "shown"}
    runs.settings = {"rollout.temperature": 0.5, "reward.url": ["http://a:1"], "data.held_out": None}
    runs.go(0, 1, 2, 3)
    [(run, history)] = read_wandb(runs.folder)
    assert (run.run_id, run.project, run.entity, run.display_name) == (runs.notes["wandb"]["id"], "mine", "us", "shown")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {name: config[name] for name in runs.settings} == runs.settings
    assert sorted(history) == [1, 2, 3]
    for step in (1, 2, 3):
        assert {name: history[step][name] for name in make_result(step).metrics} == make_result(step).metrics
    assert [step for step in history if "rollouts/path" in history[step]] == [2]
    assert runs.said == [f"wandb: {next(runs.folder.glob('wandb/offline-run-*'))}"]
    written = b"".join(path.read_bytes() for path in runs.folder.rglob("*") if path.is_file())
    assert b"my_component" in written
    assert KEY.encode() not in written


def test_wandb_table_on_disk(runs: Runs) -> None:
    """Catches a table refused because its first reward is None, and columns whose type depends on what came first."""
    runs.tracking = {"backends": ["wandb"], "rollout_table_steps": 1}
    runs.go(0, 1, 2)
    paths = sorted(runs.folder.glob("wandb/offline-run-*/files/media/table/rollouts_*.json"))
    assert len(paths) == 2
    for step, path in enumerate(paths, 1):
        table = json.loads(path.read_text())
        assert table["columns"] == list(COLUMNS)
        first, second = (dict(zip(COLUMNS, row, strict=True)) for row in table["data"])
        assert (first["step"], first["id"], first["prompt"]) == (step, "p3/0", "题目 <b>|\n")
        assert (first["reward"], first["score"], first["error"]) == (None, None, "grader_error: it broke")
        assert (second["reward"], second["advantage"], second["components"]) == (1.0, 0.5, '{"equation": 1.0}')


def test_metrics_survive_a_failed_table(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the metrics of a step that are lost because its table cannot be sent."""
    monkeypatch.setitem(client.BACKENDS, "wandb", "tests.unit.tracking.fake_backends:WandbWithoutTables")
    runs.tracking = {"backends": ["wandb"]}
    runs.go(0, 1, 2, 3)
    [(_, history)] = read_wandb(runs.folder)
    assert {step: row["reward/mean"] for step, row in history.items()} == {1: 0.125, 2: 0.25, 3: 0.375}
    assert runs.said[1].startswith("wandb: step 2 failed: TypeError: ")


def test_wandb_resumed(runs: Runs) -> None:
    """Catches another id after a resume, and a step that stands twice because it was made again."""
    runs.tracking = {"backends": ["wandb"]}
    runs.go(0, 1, 2, 3, 4)
    [(before, first)] = read_wandb(runs.folder)
    # Its folders are named by id and second: here the second run might begin within the same one.
    (runs.folder / "wandb").rename(runs.folder / "earlier")
    runs.go(2, 3, 4, 5)
    [(after, second)] = read_wandb(runs.folder)
    assert before.run_id == after.run_id == runs.notes["wandb"]["id"]
    assert (sorted(first), sorted(second)) == ([1, 2, 3, 4], [5])
    assert runs.notes["wandb"]["step"] == 5


def test_wandb_gets_what_a_killed_run_did_not_hand_over(runs: Runs) -> None:
    """Catches a step that is in metrics.jsonl and a checkpoint, and never again in wandb; and one that stands twice."""
    runs.tracking = {"backends": ["wandb"], "rollout_table_steps": 3}
    recorder = RunRecorder(runs.folder, TrackingConfig())
    recorder.forget_after(0)
    for step in (1, 2, 3):
        result = make_result(step)
        recorder.record_metrics(step, result.metrics)
        recorder.record_rollouts(step, rollout_rows(result.experience))
    accuracy = EvalResult(0.25, (0.2, 0.3), 0.5, 8, 1, 1.0, 3.0, 0.0)
    write_eval_results(eval_path(runs.folder, 3), {"sampled": accuracy})
    runs.go(0, 1)
    (runs.folder / "wandb").rename(runs.folder / "earlier")
    with runs.loggers() as loggers:
        loggers.start(3)
        loggers.catch_up()
    [(_, history)] = read_wandb(runs.folder)
    assert sorted(history) == [2, 3]
    assert history[2]["reward/mean"] == 0.25
    assert "eval/accuracy" not in history[2]
    assert history[3]["eval/accuracy"] == 0.25
    [table] = runs.folder.glob("wandb/offline-run-*/files/media/table/rollouts_*.json")
    assert len(json.loads(table.read_text())["data"]) == 2


def test_rollouts_that_a_resumed_run_would_send(runs: Runs, use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file removed by `tracking.keep_rollouts` of which a logger lacks the table, and files kept for ever for
    a logger that has failed, or that TensorBoard is never sent."""
    monkeypatch.setattr(client, "CATCH_UP_STEPS", 4)
    use(Recorder)
    with runs.loggers() as loggers:
        loggers.start(0)
        # A table every two steps.
        assert [step for step in range(1, 9) if loggers.needs_rollouts(step, newest=8)] == [6, 8]
        loggers.log(6, {})
    assert [step for step in range(1, 9) if loggers.needs_rollouts(step, newest=8)] == [8]
    runs.tracking = {"backends": ["tensorboard"]}
    with runs.loggers() as loggers:
        loggers.start(0)
        assert not any(loggers.needs_rollouts(step, newest=8) for step in range(1, 9))


def test_wandb_without_its_service(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that waits for ever, or ends, because wandb's server cannot be reached."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(client, "START_SECONDS", 3.0)
    runs.tracking = {"backends": ["wandb"], "mode": "online"}
    runs.go(0, 1, 2)
    output = runs.folder / "logs/wandb.log"
    assert runs.said == [f"wandb: no answer in 3 s, see {output}; the run goes on without this logger"]
    assert runs.notes["wandb"]["step"] == 0


# SwanLab


def test_swanlab_run_on_disk(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches metrics at the wrong step, a missing table, a step that stands twice, and a key that is written down."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record

    monkeypatch.setenv("SWANLAB_API_KEY", KEY)
    runs.tracking = {"backends": ["swanlab"], "project": "mine", "experiment_name": "shown"}
    runs.settings = {"rollout.temperature": 0.5}
    runs.go(0, 1, 2, 3)
    runs.go(2, 3, 4)
    folders = sorted(runs.folder.glob("swanlab/run-*"), key=lambda folder: folder.stat().st_mtime_ns)
    assert runs.said == [f"swanlab: {folder}" for folder in folders]
    found: list[tuple[str, int, float]] = []
    tables: list[tuple[str, int]] = []
    for path in (next(folder.glob("*.swanlab")) for folder in folders):
        for record in map(Record.FromString, read_log(path)):
            if record.HasField("start"):
                start = record.start
                assert (start.id, start.project, start.name) == (runs.notes["swanlab"]["id"], "mine", "shown")
            if record.HasField("scalar"):
                found.append((record.scalar.key, record.scalar.step, record.scalar.value.number))
            if record.HasField("media"):
                tables.append((record.media.key, record.media.step))
    wanted = [(name, step, value) for step in (1, 2, 3, 4) for name, value in make_result(step).metrics.items()]
    assert sorted(found) == sorted(wanted)
    assert tables == [("rollouts", 2), ("rollouts", 4)]
    [table] = map(json.loads, (path.read_text() for path in folders[0].glob("media/echarts/002-*.json")))
    assert [row["reward"] for row in table["rowData"]] == [None, 1.0]
    assert [set(row) for row in table["rowData"]] == [set(COLUMNS)] * 2
    assert "rollout.temperature" in (folders[0] / "files/config.yaml").read_text()
    # The address of the remote may have a token in it.
    assert json.loads((folders[0] / "files/swanlab-metadata.json").read_text())["git"] is None
    written = b"".join(path.read_bytes() for path in runs.folder.rglob("*") if path.is_file())
    assert KEY.encode() not in written


# TensorBoard


def test_tensorboard_run_on_disk(runs: Runs) -> None:
    """Catches two points for a step that was made again, a file without its last step, and markup in a response."""
    from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator

    runs.tracking = {"backends": ["tensorboard"], "mode": "disabled"}
    runs.settings = {"rollout.temperature": 0.5}
    runs.go(0, 1, 2, 3, 4)
    runs.go(2, 3)
    events = event_accumulator.EventAccumulator(str(runs.folder / "tensorboard"), purge_orphaned_data=True)
    events.Reload()
    for name in make_result(1).metrics:
        expected = [(step, make_result(step).metrics[name]) for step in (1, 2, 3)]
        assert [(event.step, event.value) for event in events.Scalars(name)] == expected
    # As TensorBoard itself reads; the other reader never drops a text.
    texts = plugin_event_accumulator.EventAccumulator(str(runs.folder / "tensorboard"))
    texts.Reload()
    [table] = texts.Tensors("rollouts")
    text = table.tensor_proto.string_val[0].decode()
    assert table.step == 2
    assert text.startswith("**p3/0** step 2, reward None, score None, advantage 0.0, num_tokens 2\n\n    prompt:\n")
    # Indented, so that it is shown as it is.
    assert "\n    题目 <b>|\n" in text
    assert texts.Tensors("config")[0].tensor_proto.string_val[0] == b"    rollout.temperature: 0.5"


def test_tensorboard_shows_a_step_at_once(runs: Runs) -> None:
    """Catches charts that stay empty until the run ends, and steps that a killed run loses."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs.tracking = {"backends": ["tensorboard"]}
    with runs.loggers() as loggers:
        loggers.start(0)
        loggers.log(1, {"reward/mean": 0.5})
        while runs.notes["tensorboard"]["step"] < 1:
            time.sleep(0.05)
        events = EventAccumulator(str(runs.folder / "tensorboard"))
        events.Reload()
        assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(1, 0.5)]


# Loggers that are slow, fail, or die


@pytest.fixture
def use(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a fake backend in the place of wandb."""
    runs.tracking = {"backends": ["wandb"]}
    return lambda kind: monkeypatch.setitem(client.BACKENDS, "wandb", f"{kind.__module__}:{kind.__name__}")


def calls(runs: Runs) -> list[str]:
    """What a `Recorder` was called with."""
    return (runs.folder / "calls.txt").read_text().splitlines()


def test_stuck_logger_costs_no_step(runs: Runs, use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a step that waits for a logger, a queue without bound, unsaid drops, and an endless end."""
    use(StuckAtStart)
    monkeypatch.setattr(client, "QUEUE_SIZE", 4)
    monkeypatch.setattr(client, "FINISH_SECONDS", 0.1)
    # Nothing is taken from the queue before the start is over, which is never: step 5 is the first to be dropped.
    runs.go(0, *range(1, 8))
    assert runs.said == [
        "wandb: too slow: 4 steps are queued; steps from 5 on are dropped until it catches up",
        f"wandb: not finished after 0.1 s, killed; see {runs.folder / 'logs/wandb.log'}",
        "wandb: dropped 3 step(s) because it was too slow; metrics.jsonl has all steps",
    ]


def test_logger_that_does_not_finish(runs: Runs, use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that hangs at its end, and a step whose number is kept before the logger has it."""
    use(StuckAtEnd)
    monkeypatch.setattr(client, "FINISH_SECONDS", 0.1)
    with runs.loggers() as loggers:
        loggers.start(0)
        loggers.log(1, {})
        while runs.notes["wandb"]["step"] < 1:
            time.sleep(0.05)
    assert calls(runs) == ["start", "1 0"]
    output = runs.folder / "logs/wandb.log"
    assert runs.said == ["wandb: here", f"wandb: not finished after 0.1 s, killed; see {output}"]


def test_logger_that_refuses(runs: Runs, use: Any) -> None:
    """Catches a line for every failure, a logger given up for scattered failures, and one that is asked for ever."""
    use(Refusing)
    runs.go(0, *range(1, 30))
    assert runs.said == [
        "wandb: here",
        "wandb: step 1 failed: ValueError: not 1",
        "wandb: 5 consecutive steps failed, the last with ValueError: not 14; the run goes on without this logger",
    ]
    assert calls(runs)[-1] == "14 2"
    assert runs.notes["wandb"]["step"] == 9


def test_logger_that_dies(runs: Runs, use: Any) -> None:
    """Catches a run that ends, or waits, because the logger's process is gone."""
    use(Dying)
    runs.go(0, 1, 2, 3)
    assert runs.said == [
        "wandb: here",
        f"wandb: its process ended, see {runs.folder / 'logs/wandb.log'}; the run goes on without this logger",
    ]
    assert (calls(runs), runs.notes["wandb"]["step"]) == (["start", "1 0", "2 2"], 1)


def test_several_loggers_are_apart(runs: Runs, use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a logger that gets nothing while another one, before it, is stuck."""
    use(WaitsForOther)
    monkeypatch.setitem(client.BACKENDS, "swanlab", "tests.unit.tracking.fake_backends:Recorder")
    runs.tracking["backends"] = ["wandb", "swanlab"]
    runs.go(0)
    assert (calls(runs), runs.said) == (["start", "succeeded"], ["swanlab: here", "wandb: there"])


def test_failed_run_is_shown_as_failed(runs: Runs, use: Any) -> None:
    """Catches a crashed run that loggers show as finished, and steps that are lost with it."""
    use(Recorder)

    def crash() -> None:
        with runs.loggers() as loggers:
            loggers.start(0)
            loggers.log(1, {})
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        crash()
    assert calls(runs) == ["start", "1 0", "failed"]


def started() -> list[psutil.Process]:
    """The loggers' process; for a moment after its start, a process has no environment to be known by."""
    deadline = time.monotonic() + 60
    while True:
        found = [process for process in marked(os.environ[MARK]) if process.pid != os.getpid()]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def test_interrupt_is_not_the_loggers(runs: Runs, use: Any) -> None:
    """Catches Ctrl-C at a terminal, which goes to every process of the session, ending a logger before the run."""
    use(Recorder)
    with runs.loggers() as loggers:
        loggers.start(0)
        [process] = started()
        assert os.getsid(process.pid) == process.pid
        loggers.log(1, {})
    assert calls(runs) == ["start", "1 0", "succeeded"]


def test_killed_run(runs: Runs) -> None:
    """Catches steps of a killed run that its logger never wrote, and processes that live on for ever."""
    script = """
import os, sys, time
from pathlib import Path
from openr1.config.sections import RunConfig, TrackingConfig
from openr1.tracking.loggers.client import Loggers
run = RunConfig(name="small", output_dir=sys.argv[1])
loggers = Loggers(TrackingConfig(backends=["wandb"], mode="offline"), run, {})
loggers.start(0)
loggers.log(1, {"reward/mean": 0.5})
notes = Path(sys.argv[1]) / "small/tracking.json"
while '"step": 1' not in notes.read_text():
    time.sleep(0.05)
os._exit(9)
"""
    command = [sys.executable, "-c", script, str(runs.folder.parent)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == 9, killed.stderr
    # Its logger sees that, and ends by itself.
    _, alive = psutil.wait_procs(
        [process for process in marked(str(runs.folder.parent)) if process.pid != os.getpid()], timeout=30
    )
    assert alive == []
    [(_, history)] = read_wandb(runs.folder)
    assert history[1]["reward/mean"] == 0.5


# Before a run


def test_missing_key_is_refused(runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches a prompt that waits for a key in a job without a terminal, and a key that is not found."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    for name, host in (("wandb", "api.wandb.ai"), ("swanlab", "api.swanlab.cn")):
        online = TrackingConfig(backends=[name])
        with pytest.raises(ConfigError, match=f"no API key for {name}; set {name.upper()}_API_KEY, or run `{name} lo"):
            check_tracking(online)
        check_tracking(TrackingConfig(backends=[name], mode="offline"))
        check_tracking(TrackingConfig(backends=[name], mode="disabled"))
        file = tmp_path / "home" / (".netrc" if name == "wandb" else ".swanlab/.netrc")
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"machine {host}\nlogin user\npassword {KEY}\n")
        check_tracking(online)
        file.unlink()
        monkeypatch.setenv(f"{name.upper()}_API_KEY", KEY)
        check_tracking(online)
    check_tracking(TrackingConfig(backends=["tensorboard"]))


def test_no_loggers(runs: Runs) -> None:
    """Catches a process, or a question about rollouts, where nothing is tracked."""
    for tracking in ({}, {"backends": ["wandb", "swanlab"], "mode": "disabled"}):
        with Loggers(TrackingConfig(**tracking), RunConfig(name="small", output_dir=runs.folder.parent), {}) as loggers:
            loggers.start(0)
            loggers.log(10, {"reward/mean": 1.0}, (pytest.fail("read") for _ in range(1)))
    assert runs.said == []
    assert not (runs.folder / "logs").exists()


def test_rows_of_a_table() -> None:
    """Catches None among texts, whole numbers among fractions, and a long response that makes a table unusable."""
    [row, _] = rollout_rows(make_result(7).experience)
    [cells] = table_rows(7, [{**row, "score": 1, "label": {"target": 3}, "response": "x" * (TEXT_CHARS + 5)}])
    assert list(cells) == list(COLUMNS)
    for name, kind in COLUMNS.items():
        assert type(cells[name]) is kind or (kind is float and cells[name] is None)
    assert (cells["reward"], cells["score"], cells["label"]) == (None, 1.0, '{"target": 3}')
    assert cells["response"] == "x" * TEXT_CHARS + " ... (5 more characters)"


def test_rows_of_a_table_at_most(runs: Runs, use: Any) -> None:
    """Catches a table with all responses of a large step, and one at every step."""
    use(Recorder)
    runs.tracking |= {"rollout_table_steps": 3, "rollout_table_rows": 1}
    runs.go(0, 1, 2, 3, 4, 5, 6)
    runs.tracking |= {"rollout_table_steps": 0}
    runs.go(6, 7, 8, 9)
    lines = ["start", "1 0", "2 0", "3 1", "4 0", "5 0", "6 1", "succeeded", "start", "7 0", "8 0", "9 0", "succeeded"]
    assert calls(runs) == lines


def test_settings_have_no_passwords(tmp_path: Path) -> None:
    """Catches a password of the reward server's address that is sent to a logger, and nested sections."""
    config = make_config(tmp_path, reward={"url": ["http://me:secret@host:5000/x", "http://host:5001"]})
    settings = public_settings(config)
    assert settings["reward.url"] == ["http://host:5000/x", "http://host:5001"]
    assert (settings["run.name"], settings["num_steps"]) == ("test", 3)
    assert "secret" not in json.dumps(settings)
