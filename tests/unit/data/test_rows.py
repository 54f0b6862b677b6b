"""Rows of files in every format, under openr1's column names or the file's own."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow.parquet import write_table

from data.prepare.readers import BadRowHandler
from data.prepare.readers import read_file as read_for_prepare
from openr1.data.columns import RowSchema
from openr1.data.rows import read_rows
from openr1.errors import ConfigError, MissingError

Row = dict[str, Any]
QUESTION: Row = {"question": "1+1?", "answer": "Two.\n#### 2"}
VERL: Row = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "user", "content": "1+1?"}],
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"index": 7},
}


def write(folder: Path, suffix: str, *rows: Row) -> Path:
    """A file of rows in the format of its suffix."""
    path = folder / f"set{suffix}"
    if suffix == ".parquet":
        write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if suffix == ".jsonl" else f"[{', '.join(lines)}]")
    return path


def read(path: Path, task: str | None = "math", **columns: str) -> list[Row]:
    """The rows of a file of prompts whose columns have the given names."""
    return [row for _, row in read_rows(path, RowSchema(columns=columns, task=task, settable=True))]  # type: ignore[arg-type]


def refused(path: Path, task: str | None = "math", **columns: str) -> str:
    """The message with which a file is refused."""
    with pytest.raises(ConfigError) as caught:
        read(path, task, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_question_and_answer_in_every_format(tmp_path: Path, suffix: str) -> None:
    """Catches a format that is read otherwise than the others, and rows without ids that get none, or the same one."""
    path = write(tmp_path, suffix, QUESTION, {"question": "2+2?", "answer": "#### 4"})
    expected = [
        {"id": "set:1", "prompt": "1+1?", "label": "Two.\n#### 2", "task": "math"},
        {"id": "set:2", "prompt": "2+2?", "label": "#### 4", "task": "math"},
    ]
    assert read(path, prompt="question", label="answer") == expected
    assert [where for where, _ in read_rows(path, RowSchema((), {"prompt": "question"}))] == [f"{path}:1", f"{path}:2"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_columns_inside_of_others_and_lists_of_messages(tmp_path: Path, suffix: str) -> None:
    """Catches a file as verl writes it that cannot be read: nested columns, a number as id, messages as the prompt."""
    named = {"role": "user", "content": "2+2?", "name": "x"}
    path = write(tmp_path, suffix, VERL, VERL | {"prompt": [named], "extra_info": {"index": 8}})
    first, second = read(path, label="reward_model.ground_truth", id="extra_info.index")
    # Parquet fills the first row's `name` with null, which a chat template would print.
    assert first == {"id": "7", "messages": VERL["prompt"], "label": "2", "task": "math"}
    assert second["messages"] == [named]


def test_a_column_whose_name_has_a_dot(tmp_path: Path) -> None:
    """Catches a dot that always means a column inside of another."""
    path = write(tmp_path, ".jsonl", {"q.en": "1+1?", "q": {"en": "other"}, "label": "2"})
    assert read(path, prompt="q.en")[0]["prompt"] == "1+1?"


def test_own_columns_of_a_file_that_names_another(tmp_path: Path) -> None:
    """Catches a prompt that is taken although the config names the messages, and a task that overrides the row's."""
    row = {"prompt": "old", "chat": [{"role": "user", "content": "new"}], "label": "2", "task": "math_any"}
    (found,) = read(write(tmp_path, ".jsonl", row), messages="chat")
    assert found == {"id": "set:1", "messages": row["chat"], "label": "2", "task": "math_any"}


@pytest.mark.parametrize(
    ("label", "text"),
    [("2024-03-01", "2024-03-01"), ("1.10", "1.10"), (18, "18"), (0.5, "0.5"), (2**70, str(2**70)), ("0018", "0018")],
)
def test_labels_stay_what_they_are(tmp_path: Path, label: Any, text: str) -> None:
    """Catches a reader that makes dates or numbers of texts, or loses digits of a number."""
    row = {"prompt": "?", "label": label}
    assert read(write(tmp_path, ".jsonl", row))[0]["label"] == text
    if label != 2**70:  # Parquet has no such integers.
        assert read(write(tmp_path, ".parquet", row))[0]["label"] == text


def test_messages_tell_the_setting_that_reads_a_file(tmp_path: Path) -> None:
    """Catches advice that does not work: what the message says to set is set, and the file is read."""
    path = write(tmp_path, ".jsonl", QUESTION)
    message = refused(path, task=None)
    assert message.startswith(f"{path}:1: no column `prompt`, `label`, `task`; the file has question, answer. ")
    assert "--data.columns '{prompt: question, label: answer}' --data.task math" in message
    assert read(path, prompt="question", label="answer")
    verl = write(tmp_path, ".parquet", VERL)
    assert "--data.columns '{label: reward_model.ground_truth}'" in refused(verl)
    assert "reward_model.style, reward_model.ground_truth, extra_info.index" in refused(verl)
    assert read(verl, label="reward_model.ground_truth")
    strange = write(tmp_path, ".jsonl", {"q": "1+1?", "answer": "2"})
    assert "{label: answer}'; nothing looks like `prompt`: add it to data.columns" in refused(strange)


@pytest.mark.parametrize("column", ["id", "prompt", "label", "prefix"])
def test_a_column_that_is_named_wrongly(tmp_path: Path, column: str) -> None:
    """Catches a misspelt name that is ignored where the column is optional: ids would silently be others."""
    path = write(tmp_path, ".jsonl", {"id": "a", "prompt": "?", "label": "2"})
    assert refused(path, **{column: "indx"}).startswith(
        f"{path}:1: no column `indx` (data.columns.{column}); the file has id, prompt, label"
    )


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"label": True}, "`label` must be a string or a number, found true"),
        ({"label": {"a": 1}}, "`label` must be a string or a number"),
        ({"label": float("nan")}, "`label` must be a string or a number"),
        ({"id": 1.5}, "`id` must be a string or an integer"),
        ({"prompt": 3}, "`prompt` must be a string or a list of {role, content} strings, found 3"),
        ({"prompt": []}, "`prompt` must be a string or a list"),
        ({"prompt": None, "messages": "x"}, "`messages` must be a list of {role, content} strings"),
        ({"messages": [{"role": "user", "content": "?"}]}, "exactly one of `prompt` and `messages`"),
        ({"meta": {"x": float("inf")}}, "`meta` cannot be written as JSON"),
    ],
)
def test_values_of_the_wrong_type(tmp_path: Path, columns: Row, told: str) -> None:
    """Catches a traceback, or a value that fails in a step, long after the start."""
    path = write(tmp_path, ".jsonl", {"id": "a", "prompt": "?", "label": "2"} | columns)
    assert told in refused(path)


def test_dates_in_the_meta_of_a_parquet_file(tmp_path: Path) -> None:
    """Catches a date that first fails when it is sent to the reward server."""
    import datetime

    path = write(tmp_path, ".parquet", {"prompt": "?", "label": "2", "meta": {"day": datetime.date(2026, 1, 2)}})
    assert "set.parquet:1: `meta` cannot be written as JSON" in refused(path)


@pytest.mark.parametrize("column", ["prompt", "label", "other"])
def test_half_a_surrogate_pair(tmp_path: Path, column: str) -> None:
    """Catches a traceback of the tokenizer, or an error at the first step; in the tools for preparing data, too."""
    whole, half = (
        '{"prompt": "\\ud83d\\ude00", "label": "2"}',
        f'{{"prompt": "?", "label": "2", "{column}": "\\ud83d"}}',
    )
    path = tmp_path / "set.jsonl"
    path.write_text(f"{whole}\n{half}\n")
    assert refused(path).startswith(f"{path}:2: \\ud83d is half of a surrogate pair")
    with pytest.raises(ConfigError, match=r"set\.jsonl:2: \\ud83d is half"):
        list(read_for_prepare(path, BadRowHandler(skip=False)))
    path.write_text(whole)
    assert read(path)[0]["prompt"] == "\U0001f600"
    path = tmp_path / "set.json"
    path.write_text(f"[{whole}, {half}]")
    assert "half of a surrogate pair" in refused(path)


def test_files_that_are_no_datasets(tmp_path: Path) -> None:
    """Catches a traceback of pyarrow, a CSV file whose header is called bad JSON, and a message without the file."""
    for name, told in (
        (".csv", "unsupported file type; expected .jsonl, .json, .parquet"),
        (".parquet", "not a compl"),
    ):
        path = tmp_path / f"set{name}"
        path.write_text("question,answer\n")
        assert refused(path).startswith(f"{path}: {told}")
    path = tmp_path / "set.json"
    path.write_text('{"a": 1}\n{"b": 2}')
    assert refused(path).startswith(f"{path}: not JSON in UTF-8")
    path.write_text('{"a": 1}')
    assert "use the suffix .jsonl" in refused(path)
    path.write_text("[1]")
    assert refused(path) == f"{path}:1: expected an object, found int"
    for missing in ("absent.json", "absent.parquet", "absent.jsonl"):
        with pytest.raises(MissingError, match=rf"{missing}: .*No such file"):
            read(tmp_path / missing)


def test_text_of_a_parquet_file_that_is_not_utf8(tmp_path: Path) -> None:
    """Catches a traceback without the row."""
    texts = pyarrow.Array.from_buffers(
        pyarrow.string(), 2, [None, pyarrow.array([0, 1, 2], pyarrow.int32()).buffers()[1], pyarrow.py_buffer(b"a\xff")]
    )
    write_table(pyarrow.table({"prompt": texts, "label": ["1", "2"]}), tmp_path / "set.parquet")
    assert refused(tmp_path / "set.parquet").endswith("set.parquet:2: not UTF-8 at byte 0 of a text")
