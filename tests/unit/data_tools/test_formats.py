"""Rows of public datasets become ours; what cannot be used is named by its place."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from data.prepare.formats import ReadOptions, SourceRow, convert_file, detect_format, question_key, read_source_rows
from data.prepare.readers import BadRowError, BadRowHandler
from openr1.errors import ConfigError, MissingError
from reward_server.tasks import find_task

REAL = os.environ.get("OPENR1_DATA_DIR")


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow.parquet import write_table

    names = dict.fromkeys(name for row in rows for name in row)
    write_table(pyarrow.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), path)
    return path


def read(path: Path, **options: Any) -> list[SourceRow]:
    return list(read_source_rows(path, ReadOptions(**options), BadRowHandler(skip=False)))


MATH_ROW = {"problem": "Double 2.", "level": "Level 3", "type": "Algebra", "solution": r"It is \boxed{4}."}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "openr1",
        {"id": "a", "prompt": "1+1?", "label": "2", "task": "math", "meta": {"x": 1}, "prefix": "<think>"},
        {"id": "a", "prompt": "1+1?", "label": "2", "task": "math", "meta": {"x": 1}, "prefix": "<think>"},
    ),
    (
        "question",
        {"question": "How much?", "answer": "9 + 9 = 18\n#### 18"},
        {"prompt": "How much?", "label": "9 + 9 = 18\n#### 18", "task": "math", "meta": {}},
    ),
    (
        "question",
        {"id": 0, "problem": "How far?", "answer": 27.0, "url": "u", "question": "How far?"},
        {"prompt": "How far?", "label": "27.0", "task": "math", "meta": {}},
    ),
    (
        "question",
        {"question": "Which?", "solution": ["So."], "final_answer": ["1", "2"], "context": None},
        {"prompt": "Which?", "label": "1, 2", "task": "math", "meta": {}},
    ),
    (
        "question",
        {"question": "And the area?", "context": "A square of side 3.", "final_answer": ["9"]},
        {"prompt": "A square of side 3.\n\nAnd the area?", "label": "9", "task": "math", "meta": {}},
    ),
    (
        "problem",
        MATH_ROW,
        {
            "prompt": "Double 2.",
            "meta": {"level": 3, "difficulty": "medium", "subject": "Algebra"},
            "response": r"It is \boxed{4}.",
            "label": r"It is \boxed{4}.",
            "task": "math",
        },
    ),
    (
        "problem",
        {"problem": "Double 2.", "solution": "Four.", "answer": "4", "subject": "Algebra", "level": 2},
        {
            "prompt": "Double 2.",
            "meta": {"level": 2, "difficulty": "easy", "subject": "Algebra"},
            "response": "Four.",
            "label": "4",
            "task": "math",
        },
    ),
    (
        "prompt",
        {"prompt": "5x=10?", "solution": "Halve.", "answer": "2", "meta": {"difficulty": "hard"}},
        {"prompt": "5x=10?", "label": "2", "meta": {"difficulty": "hard"}, "response": "Halve.", "task": "math"},
    ),
    (
        "gsm8k-zh",
        {"question": "?", "answer": "#### 7", "question_zh-cn": "三加四等于几？", "answer_only": "7"},
        {"prompt": "三加四等于几？", "label": "7", "meta": {}, "task": "gsm8k_zh"},
    ),
    (
        "countdown",
        {"target": 22, "nums": [7, 3, 5]},
        {
            "id": "countdown-3-5-7=22",
            "prompt": "Make 22 from 7, 3, 5.",
            "label": '{"numbers": [7, 3, 5], "target": 22}',
            "task": "countdown",
            "meta": {"count": 3, "wording": "short"},
        },
    ),
]


@pytest.mark.parametrize(("name", "raw", "expected"), CASES)
def test_each_format(name: str, raw: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    """Catches columns read into the wrong key, a format taken for another, and an answer that no task reads."""
    assert detect_format(raw, "x:1") == name
    row = read(write_lines(tmp_path / "x.jsonl", raw), wording="short")[0]
    assert {key: value for key, value in row.columns.items() if key in expected} == expected
    assert row.columns.keys() - expected.keys() <= {"id"}
    find_task(row.columns["task"]).parse_label(row.columns["label"])


def test_countdown_is_asked_in_chinese(tmp_path: Path) -> None:
    """Catches a wording that is accepted and dropped."""
    path = write_lines(tmp_path / "x.jsonl", {"target": 22, "nums": [7, 3, 5]})
    prompt = read(path, wording="zh")[0].columns["prompt"]
    assert prompt.startswith("请用数字 7, 3, 5 和 + - * / 以及括号组成一个结果等于 22 ")


def test_all_kinds_of_file_say_the_same(tmp_path: Path) -> None:
    """Catches a kind of file whose rows come out of order, renamed, or with columns that hold nothing."""
    rows = [MATH_ROW, {**MATH_ROW, "problem": "Double 3.", "solution": r"\boxed{6}"}]
    lines = write_lines(tmp_path / "x.jsonl", *rows)
    listed = tmp_path / "x.json"
    listed.write_text(json.dumps(rows))
    table = write_parquet(tmp_path / "x.parquet", rows)
    expected = [row.columns for row in read(lines)]
    assert [row.columns for row in read(listed)] == expected == [row.columns for row in read(table)]
    assert [row.location for row in read(listed)] == [f"{listed}:1", f"{listed}:2"]
    assert [row.location for row in read(table)] == [f"{table}:1", f"{table}:2"]


def test_own_rows_survive_parquet(tmp_path: Path) -> None:
    """Catches columns that one row lacks and parquet fills with nulls, with which a row has prompt and messages."""
    talk = [{"role": "user", "content": "1+1?"}]
    rows = [
        {"id": "a", "prompt": "2+2?", "label": "4", "task": "math"},
        {"id": "b", "messages": talk, "label": "2", "task": "math"},
    ]
    found = [row.columns for row in read(write_parquet(tmp_path / "x.parquet", rows))]
    assert found == rows


def test_ids_are_made_of_the_question(tmp_path: Path) -> None:
    """Catches ids by line number, which change when a file is cut, and which two files share."""
    first = write_lines(tmp_path / "a.jsonl", {"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"})
    second = write_lines(tmp_path / "b.jsonl", {"question": "2+2?", "answer": "4"})
    ids = [row.columns["id"] for row in read(first)]
    assert ids[0] != ids[1]
    assert read(second)[0].columns["id"] == ids[1]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What  is\n2+3?", " What is 2+3? ", True),
        ("Caf\u00e9?", "Cafe\u0301?", True),
        ("What is 2+3?", "What is 2-3?", False),
        ("Find a of A.", "Find A of a.", False),
    ],
)
def test_same_question(one: str, other: str, same: bool) -> None:
    """Catches signs or case thrown away, with which different questions are one, and spaces that make one two."""
    keys = [question_key({"task": "math", "prompt": text}) for text in (one, other)]
    assert (keys[0] == keys[1]) is same


def test_same_countdown_problem(tmp_path: Path) -> None:
    """Catches a problem that counts as new when its numbers change places."""
    path = write_lines(tmp_path / "x.jsonl", {"nums": [3, 5, 7], "target": 22}, {"nums": [7, 5, 3], "target": 22})
    first, second = read(path)
    assert first.key == second.key
    assert first.same_answer(second)


BAD: list[tuple[bytes, str, str]] = [
    (b'{"question": "1?", "answer": "\xff"}', "not UTF-8", "not UTF-8 at byte 30"),
    (b'{"question": "1?", ', "not JSON", "not JSON: "),
    (b"[1]", "no object", "expected an object, found list"),
    (b'{"question": "1?"}', "missing column", "no `answer`"),
    (b'{"question": "1?", "final_answer": "2"}', "wrong type", "`final_answer` must be a list of strings"),
    (b'{"answer": "1"}', "missing column", "no `question`"),
    (b'{"question": 5, "answer": "1"}', "wrong type", "`question` must be a string, found int"),
    (b'{"question": "1?", "answer": true}', "wrong type", "`answer` must be a string, found bool"),
    (b'{"question": "1?", "answer": NaN}', "wrong type", "`answer` must be a string, found float"),
    (b'{"question": " ", "answer": "1"}', "blank text", "`question` is blank"),
    (b'{"question": "1?", "answer": "#### "}', "no answer", "cannot parse the label: the label is blank"),
    *(
        (f'{{"question": "1?", "answer": "{gold}"}}'.encode(), "no answer", f"the gold '{gold}' holds no answer")
        for gold in ("proof", "notfound", "None", "nan", "See solution", "The answer is 4")
    ),
]


@pytest.mark.parametrize(("line", "kind", "message"), BAD)
def test_bad_rows_are_named_or_counted(line: bytes, kind: str, message: str, tmp_path: Path) -> None:
    """Catches a bad row that is used, that is reported without its place, or that stops a run told to skip it."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"question": "0?", "answer": "0"}\n' + line + b'\n{"question": "2?", "answer": "2"}\n')
    with pytest.raises(BadRowError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}:2: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    bad = BadRowHandler(skip=True)
    assert [row.columns["prompt"] for row in read_source_rows(path, ReadOptions(), bad)] == ["0?", "2?"]
    assert bad.counts == {kind: 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"nums": [3], "target": 3}, "`nums` must be two or more positive integers"),
        ({"nums": [3, 0], "target": 3}, "`nums` must be two or more positive integers"),
        ({"nums": [3, True], "target": 3}, "`nums` must be two or more positive integers"),
        ({"nums": [3, 4], "target": "7"}, "`target` an integer"),
        ({"problem": "p", "solution": "so it is 4"}, "no `answer`, and no \\boxed"),
        ({"id": 3, "prompt": "p", "label": "1", "task": "math"}, "`id` must be a string"),
        ({"id": "a", "prompt": "p", "messages": [], "label": "1", "task": "math"}, "exactly one of"),
        ({"id": "a", "messages": ["p"], "label": "1", "task": "math"}, "`messages` must be a list"),
        ({"id": "a", "prompt": "p", "label": "1", "task": "maths"}, "unknown task 'maths'"),
        ({"id": "a", "prompt": "p", "label": "1", "task": "math", "meta": 1}, "`meta` must be an object"),
        ({"text": "p"}, "columns text match no known format (openr1: id, label, task, prompt/messages; "),
    ],
)
def test_bad_values_are_one_line(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Catches a value of the wrong kind that goes through, or ends in a traceback."""
    path = write_lines(tmp_path / "x.jsonl", row)
    with pytest.raises(ConfigError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}:1: ")
    assert message in str(raised.value)


def test_a_forced_format_is_used(tmp_path: Path) -> None:
    """Catches a forced format that is overruled by the columns."""
    path = write_lines(tmp_path / "x.jsonl", {"problem": "p", "question": "q", "answer": "4"})
    assert read(path)[0].columns["prompt"] == "q"
    assert read(path, format="problem")[0].columns["prompt"] == "p"


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    """Catches a traceback for a file that is cut, empty, missing, of another kind, or no list."""
    cut = write_parquet(tmp_path / "cut.parquet", [{"question": "1?", "answer": "1"}])
    cut.write_bytes(cut.read_bytes()[:-9])
    single = tmp_path / "single.json"
    single.write_text('{"question": "1?"}')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "notes.txt").write_text("x")
    for name, message in [
        ("cut.parquet", "not a complete Parquet file"),
        ("single.json", "expected a list of objects, found dict"),
        ("empty.jsonl", "no rows"),
        ("notes.txt", "unsupported file type; expected .jsonl, .json, .parquet"),
    ]:
        with pytest.raises(ConfigError, match=message) as raised:
            read(tmp_path / name)
        assert str(raised.value).startswith(str(tmp_path / name))
        assert "\n" not in str(raised.value)
    for name in ("gone.jsonl", "gone.json", "gone.parquet"):
        with pytest.raises(MissingError, match=f"{name}: "):
            read(tmp_path / name)


def test_text_in_parquet_that_is_not_utf8(tmp_path: Path) -> None:
    """Catches one broken text that takes the whole table with it, or is cut to fit."""
    import pyarrow
    from pyarrow.parquet import write_table

    questions = pyarrow.array([b"0?", b"\xff?", b"2?"], pyarrow.binary()).view(pyarrow.string())
    path = tmp_path / "x.parquet"
    write_table(pyarrow.table({"question": questions, "answer": ["0", "1", "2"]}), path)
    with pytest.raises(BadRowError, match=r"x\.parquet:2: not UTF-8"):
        read(path)
    bad = BadRowHandler(skip=True)
    assert [row["prompt"] for _, row in convert_file(path, ReadOptions(), bad)] == ["0?", "2?"]
    assert bad.counts == {"not UTF-8": 1}


@pytest.mark.skipif(REAL is None, reason="OPENR1_DATA_DIR names no folder of real files")
@pytest.mark.parametrize(
    ("name", "rows", "with_response"),
    [
        ("benchmarks/AMC23.jsonl", 40, 0),
        ("benchmarks/GSM8k.jsonl", 1319, 0),
        ("benchmarks/MATH500.jsonl", 500, 0),
        ("benchmarks/OlympiadBench.jsonl", 675, 0),
        ("train/math3k_cot.jsonl", 3052, 3052),
        ("train/math3k_rl_prompt.jsonl", 2923, 0),
    ],
)
def test_real_files(name: str, rows: int, with_response: int) -> None:
    """Catches a real file with a column or a value that the formats do not expect."""
    converted = read(Path(str(REAL)) / name)
    assert len(converted) == rows
    assert sum("response" in row.columns for row in converted) == with_response
