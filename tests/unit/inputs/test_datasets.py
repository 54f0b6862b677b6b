"""The datasets of a run: what they are made of, and that a run which is resumed has those that it began with."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openr1.config.load import validate
from openr1.config.sft import SftConfig
from openr1.config.train import RewardConfig, TrainConfig
from openr1.data.columns import RowSchema
from openr1.data.fingerprint import fingerprint
from openr1.data.mixture import MixedStream
from openr1.data.prompts import PromptStream
from openr1.errors import ConfigError
from openr1.inputs.datasets import load_datasets, prompt_stream
from openr1.inputs.reward_tasks import default_task, with_reward_task
from openr1.offline.sft import run_sft
from openr1.runtime.files import write_objects
from openr1.tracking.data_record import DATA_FILE, check_data, record_data
from openr1.training.rl import run_training

QUESTIONS = [{"question": f"{number}+1?", "answer": f"#### {number + 1}"} for number in range(40)]
ROWS = [
    {"id": str(number), "prompt": f"{number}-1?", "label": str(number - 1), "task": "math_any"} for number in range(40)
]
COLUMNS = {"prompt": "question", "label": "answer"}


@pytest.fixture
def make(tmp_path: Path, tiny_model: Callable[[bool], Path]) -> Callable[..., TrainConfig]:
    """A run in `tmp_path` with two files: `a.jsonl` of questions, `b.jsonl` of rows."""
    write_objects(tmp_path / "a.jsonl", QUESTIONS)
    write_objects(tmp_path / "b.jsonl", ROWS)

    def build(**data: Any) -> TrainConfig:
        sections = {
            "run": {"name": "run", "output_dir": str(tmp_path)},
            "model": {"path": str(tiny_model(True))},
            "data": data,
            "rollout": {"rollout_batch_size": 8, "n_samples_per_prompt": 2},
            "policy": {"train_batch_size": 16},
            "num_steps": 2,
        }
        return validate(TrainConfig, sections, "test")

    return build


def test_files_with_columns_of_their_own(make: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """Catches columns and a task that are taken for all files, or for none, and a weight that is ignored."""
    questions = {"path": str(tmp_path / "a.jsonl"), "weight": 3, "columns": COLUMNS, "task": "math"}
    config = make(train=[questions, {"path": str(tmp_path / "b.jsonl")}])
    stream = prompt_stream(config, load_datasets(config))
    assert isinstance(stream, MixedStream)
    prompts = stream.take(8)
    assert Counter(prompt.task for prompt in prompts) == {"math": 6, "math_any": 2}
    assert {prompt.id.partition(":")[0] for prompt in prompts if prompt.task == "math"} == {"a"}
    assert all(prompt.label.startswith("#### ") for prompt in prompts if prompt.task == "math")


def test_a_list_of_one_file_is_that_file(make: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """Catches another order of prompts, or another form of the position, where there is nothing to mix."""
    path = str(tmp_path / "b.jsonl")
    streams = []
    for train in (path, [{"path": path, "weight": 7}]):
        config = make(train=train)
        streams.append(prompt_stream(config, load_datasets(config)))
    one, other = streams
    assert one.take(8) == other.take(8)
    assert one.state() == other.state() == {"epoch": 0, "cursor": 8}
    # As ever: the order of a run that began before there were mixtures.
    assert one.take(8) == PromptStream(load_datasets(make(train=path)).train, 0).take(16)[8:]


def test_a_file_that_is_too_small_for_its_weight(make: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """Catches a mixture that fails at the first step, when everything runs."""
    write_objects(tmp_path / "few.jsonl", [row | {"id": f"few{row['id']}"} for row in ROWS[:5]])
    config = make(train=[{"path": str(tmp_path / "few.jsonl"), "weight": 3}, {"path": str(tmp_path / "b.jsonl")}])
    with pytest.raises(ConfigError, match=r"few\.jsonl: 5 prompts, fewer than .* 8, of which its weight gives it 6"):
        load_datasets(config)


# Resuming


def change(rows: list[dict[str, Any]], how: str) -> list[dict[str, Any]]:
    """The rows, changed."""
    changed = {
        "shorter": rows[:20],
        "longer": [*rows, {**rows[0], "id": "new"}],
        "in another order": [rows[1], rows[0], *rows[2:]],
        "with another answer": [{**rows[0], "label": "7", "answer": "7", "response": "7"}, *rows[1:]],
    }
    return changed[how]


CHANGES = ["shorter", "longer", "in another order", "with another answer"]


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl"])
def test_changed_prompts_end_a_resume(make: Callable[..., TrainConfig], tmp_path: Path, how: str, name: str) -> None:
    """Catches an IndexError, and a run that silently goes on with other prompts or in another order."""
    held_out = str(tmp_path / "b.jsonl")
    config = make(train=str(tmp_path / "a.jsonl"), held_out=held_out, columns=None, task="math")
    # Only the training file has columns of its own.
    train = [{"path": str(tmp_path / "a.jsonl"), "columns": COLUMNS}]
    config = make(train=train, held_out=held_out, task="math")
    config.run.folder.mkdir()
    (config.run.folder / "config.yaml").write_text("run: {name: run}\n")
    record_data(config.run.folder, load_datasets(config).fingerprints)
    rows = {"a.jsonl": QUESTIONS, "b.jsonl": ROWS}[name]
    write_objects(tmp_path / name, change(rows, how))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError) as caught:
        run_training(config, resume=True)
    begun, now = len(rows), len(change(rows, how))
    assert f"{name}: not the rows that the run in {config.run.folder} began with" in str(caught.value)
    assert f"({begun} then, {now} now, " in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before, "something was written"


@pytest.mark.parametrize("how", CHANGES)
def test_changed_examples_end_a_resume(tmp_path: Path, tiny_model: Callable[[bool], Path], how: str) -> None:
    """Catches supervised training that goes on with rows that it has seen, or that come twice."""
    rows = [row | {"response": row["label"]} for row in ROWS]
    path = tmp_path / "train.jsonl"
    write_objects(path, rows)
    sections = {
        "run": {"name": "run", "output_dir": str(tmp_path)},
        "model": {"path": str(tiny_model(True))},
        "data": {"train": str(path), "max_len": 100},
        "policy": {"train_batch_size": 4},
    }
    config = validate(SftConfig, sections, "test")
    config.run.folder.mkdir()
    (config.run.folder / "config.yaml").write_text("run: {name: run}\n")
    record_data(config.run.folder, {str(path): fingerprint(path, RowSchema(("response",)))})
    write_objects(path, change(rows, how))
    with pytest.raises(ConfigError, match=r"train\.jsonl: not the rows that the run in"):
        run_sft(config, resume=True)


def test_what_a_fingerprint_depends_on(tmp_path: Path) -> None:
    """Catches a run that cannot be resumed since a file was written anew with the same rows."""
    path = tmp_path / "set.jsonl"
    schema = RowSchema()
    write_objects(path, ROWS)
    began = {str(path): fingerprint(path, schema)}
    record_data(tmp_path, began)
    path.write_text("".join(json.dumps({"other": 1} | dict(reversed(row.items()))) + "\r\n" for row in ROWS))
    check_data(tmp_path, {str(path): fingerprint(path, schema)})
    (tmp_path / DATA_FILE).unlink()
    # A run of a version without such records.
    check_data(tmp_path, {str(path): fingerprint(path, RowSchema(task="math"))})


@pytest.mark.parametrize("task", ["only", None])
def test_a_reward_of_ones_own_grades_mixtures_and_rows_without_a_task(
    make: Callable[..., TrainConfig], tmp_path: Path, task: str | None
) -> None:
    """Catches datasets of a mixture that keep their own tasks, a record of data that is lost on the way, and questions
    that need a task although only one can be meant.
    """
    module = tmp_path / "mine.py"
    module.write_text("def only(response): return 1.0\n")
    reward = RewardConfig(module=str(module), task=task)
    rows = {"path": str(tmp_path / "b.jsonl"), "columns": {}}
    config = make(train=[{"path": str(tmp_path / "a.jsonl")}, rows], columns=COLUMNS)
    loaded = load_datasets(config, default_task(reward))
    datasets = with_reward_task(loaded, reward)
    assert datasets.fingerprints == loaded.fingerprints != {}
    # Rows that name a task keep it, unless the config names one for all.
    expected = {"only"} if task else {"only", "math_any"}
    assert {prompt.task for prompt in prompt_stream(config, datasets).take(8)} == expected
