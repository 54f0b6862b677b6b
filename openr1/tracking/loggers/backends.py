"""The experiment loggers (wandb, SwanLab, TensorBoard) behind one interface. Each runs in a separate process."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from openr1.config.sections import TrackingConfig

TEXT_CHARS = 4000
"""Longest text in a table, in characters. rollouts/*.jsonl contain the full texts."""
COLUMNS: dict[str, type] = {
    "step": int,
    "id": str,
    "prompt": str,
    "response": str,
    "label": str,
    "verdict": str,
    "error": str,
    "reward": float,
    "score": float,
    "components": str,
    "advantage": float,
    "num_tokens": int,
    "finish_reason": str,
}
"""Columns of a table of rollouts and their types, the same for every table. Only floats may be None."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What a backend needs to know about the run."""

    backend: str
    tracking: TrackingConfig
    name: str
    folder: Path
    settings: Mapping[str, object]
    run_id: str
    step: int
    """The last completed step: 0 for a new run, more for a resumed one."""


class Backend(Protocol):
    """An experiment logger. Calls may block or raise, since they run outside the trainer's process."""

    def start(self, setup: Setup) -> str:
        """Create or continue the run with id `setup.run_id`; returns its URL or folder, for the user."""

    def log(self, step: int, metrics: Mapping[str, float], table: list[Row]) -> None:
        """Log a step. Steps are strictly increasing. `table` has rows of `COLUMNS`, or is empty."""

    def finish(self, succeeded: bool) -> None:
        """Flush what is buffered, and close."""


def table_rows(step: int, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Convert rows of rollouts/*.jsonl to rows of `COLUMNS`, with fixed types and long texts truncated."""

    def cell(name: str, value: Any) -> Any:
        kind = COLUMNS[name]
        if kind is str:
            text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            cut = len(text) - TEXT_CHARS
            return text if cut <= 0 else f"{text[:TEXT_CHARS]} ... ({cut} more characters)"
        return None if value is None else kind(value)

    return [{name: cell(name, {**row, "step": step}[name]) for name in COLUMNS} for row in rows]


class Wandb:
    """Weights & Biases. In offline mode the run is stored in `wandb/` of the run folder, for `wandb sync`."""

    def start(self, setup: Setup) -> str:
        """Create or continue the run."""
        import wandb

        self._table = wandb.Table
        self._run = wandb.init(
            project=setup.tracking.project,
            entity=setup.tracking.workspace,
            name=setup.name,
            id=setup.run_id,
            resume="allow",
            mode=setup.tracking.mode,
            dir=setup.folder,
            config=dict(setup.settings),
            settings=wandb.Settings(console="off"),
        )
        return str(self._run.url if setup.tracking.mode == "online" else self._run.settings.sync_dir)

    def log(self, step: int, metrics: Mapping[str, float], table: list[Row]) -> None:
        """Log a step, the table last: it is the only call that waits for wandb's service, and it may fail."""
        self._run.log(dict(metrics), step=step, commit=not table)
        if table:
            # Types are declared: inferred from a first row with a None, they would reject numbers in the other rows.
            rollouts = self._table(
                columns=list(COLUMNS),
                data=[list(row.values()) for row in table],
                dtype=list(COLUMNS.values()),
                optional=[kind is float for kind in COLUMNS.values()],
            )
            self._run.log({"rollouts": rollouts}, step=step, commit=True)

    def finish(self, succeeded: bool) -> None:
        """Wait until everything is uploaded."""
        self._run.finish(exit_code=0 if succeeded else 1)


class SwanLab:
    """SwanLab. The run is also stored in `swanlab/` of the run folder; in offline mode for `swanlab sync`."""

    def start(self, setup: Setup) -> str:
        """Create or continue the run."""
        import swanlab

        self._table = swanlab.echarts.Table
        self._run = swanlab.init(
            project=setup.tracking.project,
            workspace=setup.tracking.workspace,
            name=setup.name,
            id=setup.run_id,
            resume="allow",
            mode=setup.tracking.mode,
            log_dir=str(setup.folder / "swanlab"),
            config=dict(setup.settings),
            # The git probe uploads the URL of the remote unredacted, including any token in it.
            settings=swanlab.Settings(interactive=False, terminal={"proxy_type": "none"}, probe={"git": False}),
        )
        return str(self._run.url if setup.tracking.mode == "online" else self._run.dir)

    def log(self, step: int, metrics: Mapping[str, float], table: list[Row]) -> None:
        """Log a step."""
        values: dict[str, Any] = dict(metrics)
        if table:
            values["rollouts"] = self._table().add(list(COLUMNS), [list(row.values()) for row in table])
        self._run.log(values, step=step)

    def finish(self, succeeded: bool) -> None:
        """Wait until everything is uploaded."""
        if succeeded:
            self._run.finish()
        else:
            self._run.finish(state="crashed", error="the run did not complete")


class TensorBoard:
    """TensorBoard event files in `tensorboard/` of the run folder, written without TensorFlow or torch."""

    def start(self, setup: Setup) -> str:
        """Open a new event file. Its START event makes TensorBoard discard earlier data of steps after `setup.step`."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        def text(name: str, markdown: str) -> Any:
            tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()])
            return Summary.Value(tag=name, metadata=create_summary_metadata(name, ""), tensor=tensor)

        self._event, self._summary, self._text = Event, Summary, text
        folder = setup.folder / "tensorboard"
        self._writer = EventFileWriter(str(folder))
        self._add(setup.step + 1, session_log=SessionLog(status=SessionLog.START))
        lines = [f"    {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in setup.settings.items()]
        self._add(setup.step, summary=Summary(value=[text("config", "\n".join(lines))]))
        return f"tensorboard --logdir {folder}"

    def log(self, step: int, metrics: Mapping[str, float], table: list[Row]) -> None:
        """Write a step and flush it."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        if table:
            values.append(self._text("rollouts", "\n\n".join(map(markdown, table))))
        self._add(step, summary=self._summary(value=values))

    def finish(self, succeeded: bool) -> None:
        """Close the file."""
        self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, **content))
        self._writer.flush()


def markdown(row: Row) -> str:
    """Format a row for TensorBoard: numbers on one line, texts as indented code blocks, which are shown verbatim."""
    numbers = ", ".join(f"{name} {row[name]}" for name, kind in COLUMNS.items() if kind is not str)
    texts = [f"{name}:\n{row[name]}" for name, kind in COLUMNS.items() if kind is str and name != "id"]
    code = "\n".join(f"    {line}" for line in "\n".join(texts).splitlines())
    return f"**{row['id']}** {numbers}\n\n{code}"
