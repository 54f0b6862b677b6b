"""`data select`: learning impacts derived by hand, from rollouts as a run writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from data.prepare.learning_impact import Selection, compute_impacts, read_score_curves
from openr1.errors import ConfigError
from openr1.runtime.files import read_objects, write_objects

Scores = dict[str, list[float | None]]


def write_run(folder: Path, visits: dict[int, Scores]) -> Path:
    """A run's folder: for each step, the scores of each prompt's responses."""
    (folder / "rollouts").mkdir(parents=True)
    for step, groups in visits.items():
        rows = [
            {"id": f"{name}/{index}", "finish_reason": "stop", "score": score, "reward": 3.5}
            for name, scores in groups.items()
            for index, score in enumerate(scores)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"rollouts/step_{step:06d}.jsonl").write_text(lines)
    return folder


def write_train(path: Path, *names: str) -> Path:
    rows = [{"id": name, "prompt": name, "label": "1", "task": "math", "meta": {"level": 3}} for name in names]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Visit by visit, a: 0, 1/2; b: 1/2, 1; c: 1, 1. Means: 1/2, 5/6. The second sum: 1/4 + 1/36 = 10/36.
# a: 1/4 + 1/9 = 13/36, so 1 - 13/10; b: 0 + 1/36, so 1 - 1/10; c: 1/4 + 1/36 = 10/36, so 0.
VISITS: dict[int, Scores] = {
    2: {"a": [0.0, 0.0], "c": [1.0, 1.0]},
    3: {"b": [0.0, 1.0, None]},
    9: {"c": [1.0, 1.0]},
    10: {"b": [1.0, 1.0], "a": [1.0, 0.0]},
}
IMPACTS = {"a": -0.3, "b": 0.9, "c": 0.0}


def test_curves_follow_the_steps(tmp_path: Path) -> None:
    """Catches visits out of order, ungraded responses that count as misses, and rewards taken for scores."""
    curves = read_score_curves(write_run(tmp_path, VISITS))
    assert curves == {"a": [0.0, 0.5], "b": [0.5, 1.0], "c": [1.0, 1.0]}


def test_curves_of_compressed_rollouts(tmp_path: Path) -> None:
    """Catches compressed files that are passed over, or that come after all others in place of by step."""
    run = write_run(tmp_path, VISITS)
    curves = read_score_curves(run)
    for step in (2, 10):
        plain = run / f"rollouts/step_{step:06d}.jsonl"
        write_objects(plain.with_suffix(".jsonl.gz"), [row for _, row in read_objects(plain)])
        plain.unlink()
    assert read_score_curves(run) == curves


def test_a_visit_without_scores_does_not_count(tmp_path: Path) -> None:
    """Catches a division by zero where no response of a prompt was graded, and a visit that nobody saw."""
    assert read_score_curves(write_run(tmp_path, {1: {"a": [None, None], "b": [1.0]}, 2: {"a": [0.0]}})) == {
        "b": [1.0],
        "a": [0.0],
    }


def test_impacts_by_hand() -> None:
    """Catches a sum in place of a mean, a missing square, and a curve compared with 1 in place of the mean."""
    assert compute_impacts({"a": [0.0, 0.5], "b": [0.5, 1.0], "c": [1.0, 1.0]}) == pytest.approx(IMPACTS)


def test_prompts_with_fewer_visits() -> None:
    """Catches means over prompts that had no such visit: here 2/3 and 1, so a is at 1 - 4 and b at 1 - 1."""
    assert compute_impacts({"a": [0.0, 1.0], "b": [1.0, 1.0], "d": [1.0]}) == pytest.approx({"a": -3.0, "b": 0.0})


def test_all_solved() -> None:
    """Catches a division by zero where every prompt is always solved."""
    assert compute_impacts({"a": [1.0, 1.0], "b": [1.0, 1.0]}) == {"a": 1.0, "b": 1.0}
    assert compute_impacts({}) == {}


def test_choice() -> None:
    """Catches a threshold that keeps what stands on it, and ties broken otherwise than by order."""
    impacts = {"a": 0.5, "b": 0.75, "c": 0.75, "d": 0.9}
    assert Selection(0.75).choose(impacts) == {"d"}
    assert Selection(count=2).choose(impacts) == {"b", "d"}
    with pytest.raises(ConfigError, match=r"no prompt is above --threshold 0\.9; the highest impact is 0\.900"):
        Selection(0.9).choose(impacts)
    with pytest.raises(ConfigError, match="4 prompts have an impact, fewer than --count 5"):
        Selection(count=5).choose(impacts)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a config that names its training file, whose prompt z was never drawn."""
    train = write_train(tmp_path / "train.jsonl", "c", "z", "b", "a")
    folder = write_run(tmp_path / "run", VISITS)
    (folder / "config.yaml").write_text(f"data:\n  train: {train}\n")
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], ["b"]), (["--threshold", "-0.1"], ["c", "b"]), (["--count", "2"], ["c", "b"])],
)
def test_kept_rows(
    words: list[str], expected: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches rows in the order of their impacts, and columns of the training file that are lost."""
    output = tmp_path / "kept.jsonl"
    assert main(["data", "select", str(run), "--output", str(output), *words]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == expected
    for row in rows:
        assert row["meta"] == {"level": 3, "learning_impact": pytest.approx(IMPACTS[row["id"]])}
        assert (row["prompt"], row["label"], row["task"]) == (row["id"], "1", "math")
    printed = capsys.readouterr().out
    assert f"{len(expected)} of 4 rows; 1 prompts with fewer than 2 visits were excluded" in printed
    assert [text in printed for text in ("-0.300", "0.000", "0.900")] == [True] * 3


Spoil = Callable[[Path, Path], list[str]]


def once(run: Path, folder: Path) -> list[str]:
    for name in ("step_000009", "step_000010"):
        (run / f"rollouts/{name}.jsonl").unlink()
    return []


def no_rollouts(run: Path, folder: Path) -> list[str]:
    for path in (run / "rollouts").iterdir():
        path.unlink()
    return []


def no_config(run: Path, folder: Path) -> list[str]:
    (run / "config.yaml").unlink()
    return []


def odd_config(run: Path, folder: Path) -> list[str]:
    (run / "config.yaml").write_text("data: x\n")
    return []


def bad_score(run: Path, folder: Path) -> list[str]:
    row: dict[str, Any] = {"id": "a/0", "finish_reason": "stop", "score": 2.5}
    (run / "rollouts/step_000009.jsonl").write_text(json.dumps(row) + "\n")
    return []


def other_file(run: Path, folder: Path) -> list[str]:
    return ["--data", str(write_train(folder / "other.jsonl", "a", "b"))]


def same_file(run: Path, folder: Path) -> list[str]:
    return ["--output", str(folder / "train.jsonl")]


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (once, 2, "run: 3 of 3 prompts were visited fewer than 2 times; train for more epochs"),
        (no_rollouts, 3, "run: contains no rollouts/step_*.jsonl; expected the folder of a run"),
        (no_config, 3, "config.yaml: No such file or directory; name the training file with --data"),
        (odd_config, 2, "config.yaml: has no data.train; name the training file with --data"),
        (bad_score, 2, "step_000009.jsonl:1: `score` must be a number from 0 to 1, or null"),
        (
            other_file,
            2,
            "other.jsonl: does not contain prompt 'c' of the run; name the run's training file with --data",
        ),
        (same_file, 2, "train.jsonl: would be overwritten; choose another --output"),
    ],
)
def test_bad_input_is_one_line(
    spoil: Spoil, code: int, message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a selection from a run that cannot tell, and a training file that is lost."""
    before = (tmp_path / "train.jsonl").read_bytes()
    words = ["data", "select", str(run), "--output", str(tmp_path / "kept.jsonl"), *spoil(run, tmp_path)]
    assert main(words) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "kept.jsonl").exists()
    assert (tmp_path / "train.jsonl").read_bytes() == before
