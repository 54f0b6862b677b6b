"""`compare`: its arithmetic by hand, what it refuses, and the files that it writes."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from cli.__main__ import main
from eval.compare import accuracy_table, benchmark_table, read_runs, to_json, to_markdown, training_table
from eval.plots import COLOURS, KIND_COLOURS, PLOTS, draw
from eval.result import Result, summarize
from eval.runs import EvaluatedRun, HeldOut, RunPath, Training, parse_run_path, read_training
from eval.samples import Sample, SampleFile
from eval.series import Point, bars, difference, held_out_curves, kind_fractions, length_points, training_curves
from openr1.errors import ConfigError, MissingError
from openr1.runtime.files import write_objects
from openr1.training.evaluation import EvalResult, write_eval_results

ROOT = Path(__file__).resolve().parents[3]
Answers = dict[str, str]
"""Verdicts of a problem's samples, a letter each: c correct, w wrong, n no answer, t truncated, f timeout."""

VERDICTS = {"c": "correct", "w": "wrong", "n": "no_answer", "t": "truncated", "f": "timeout"}


def samples_of(problem: str, letters: str, tokens: int) -> list[Sample]:
    return [
        Sample(
            id=problem,
            index=index,
            prompt="q",
            label=f"label of {problem}",
            response="r",
            num_tokens=tokens,
            truncated=letter == "t",
            extracted="4" if letter in "cw" else None,
            verdict=VERDICTS[letter],
            score=None if letter == "f" else float(letter == "c"),
            error="timeout: 5 s" if letter == "f" else None,
        )
        for index, letter in enumerate(letters)
    ]


def write_evaluation(folder: Path, model: str, tokens: int = 10, **benchmarks: Answers) -> Path:
    """The folder of an evaluation, as `eval` leaves it."""
    (folder / "samples").mkdir(parents=True)
    results = {}
    for name, answers in benchmarks.items():
        groups = [samples_of(problem, letters, tokens) for problem, letters in answers.items()]
        for group in groups:
            SampleFile(folder / f"samples/{name}.jsonl", len(group)).add(group)
        results[name] = asdict(summarize(groups))
        size = len(groups[0])
    content = {"settings": {"model": model, "n_samples_per_prompt": size, "temperature": 0.7}, "results": results}
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def write_training(folder: Path, steps: int = 3) -> Path:
    """A `train` run: step i makes 10 * i tokens a second for i seconds."""
    rows = [
        {"step": i, "throughput/tokens_per_second": 10.0 * i, "time/step_seconds": float(i)}
        for i in range(1, steps + 1)
    ]
    write_objects(folder / "metrics.jsonl", rows)
    for step, accuracy in ((0, 0.25), (2, 0.5), (9, 0.75)):
        measured = EvalResult(accuracy, (accuracy - 0.1, accuracy + 0.1), 0.9, 8, 4, 1.0, 20.0, 0.0)
        write_eval_results(folder / f"eval/step_{step:06d}.json", {"sampled": measured, "greedy": measured})
    return folder


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Three runs: the base, its trained model at step 2, and one with a benchmark fewer."""
    write_evaluation(tmp_path / "base", "models/base", 20, held={"a": "wwww", "b": "ccww"}, hard={"p": "nntf"})
    # The order of problems differs: they are told apart by id.
    write_evaluation(
        tmp_path / "grpo",
        "runs/demo/checkpoints/step_000002/model",
        30,
        held={"b": "cccc", "a": "ccww"},
        hard={"p": "cwww"},
    )
    write_evaluation(tmp_path / "short", "models/other", 40, held={"a": "cc", "b": "wt"})
    write_training(tmp_path / "demo")
    return [str(tmp_path / "base"), f"trained={tmp_path}/grpo:{tmp_path}/demo", f"other={tmp_path}/short"]


@pytest.mark.parametrize(
    ("word", "run_path"),
    [
        ("runs/eval/base", RunPath("base", Path("runs/eval/base"), None)),
        ("a=runs/eval/base", RunPath("a", Path("runs/eval/base"), None)),
        ("a=x/y=z:runs/demo", RunPath("a", Path("x/y=z"), Path("runs/demo"))),
        ("runs/eval/base:runs/demo", RunPath("base", Path("runs/eval/base"), Path("runs/demo"))),
    ],
)
def test_run_is_read(word: str, run_path: RunPath) -> None:
    """Catches a label that takes part of a folder, and a training run that is lost without a label."""
    assert parse_run_path(word) == run_path


@pytest.mark.parametrize("word", ["", "=x", "a=", "a=x:", "a=:x"])
def test_run_without_a_part_is_refused(word: str) -> None:
    """Catches an empty folder, which would be the current one."""
    with pytest.raises(ConfigError, match="give FOLDER, label=FOLDER or label=FOLDER:TRAINING_FOLDER"):
        parse_run_path(word)


def test_difference_is_paired(words: list[str]) -> None:
    """Catches a difference of two independent means, and problems paired by their place in the file."""
    base, trained, other = read_runs(words)
    # Shares of a and b: 0 and 1/2, then 1/2 and 1: each problem gains 1/2, so nothing is uncertain.
    estimate = difference(trained, base, "held")
    assert (estimate.mean, estimate.ci95) == (0.5, (0.5, 0.5))
    # 1 and 0: gains of 1 and -1/2. Resamples of two have means -1/2, 1/4 or 1.
    estimate = difference(other, base, "held")
    assert (estimate.mean, estimate.ci95) == (0.25, (-0.5, 1.0))


def test_kinds_sum_to_one(words: list[str]) -> None:
    """Catches a failure that is dropped or called wrong."""
    base, trained, _ = read_runs(words)
    none = {"correct": 0.0, "wrong": 0.0, "no_answer": 0.0, "truncated": 0.0, "failed": 0.0}
    assert kind_fractions(base.results["hard"]) == none | {"no_answer": 0.5, "truncated": 0.25, "failed": 0.25}
    assert kind_fractions(trained.results["hard"]) == none | {"correct": 0.25, "wrong": 0.75}
    failures = {"correct": 1, "timeout": 1, "error": 1, "gold_unparseable": 1}
    result = Result(1, 4, 0.25, (0.25, 0.25), {1: 0.25}, {1: 0.0}, 1.0, 0.0, failures, 3)
    assert kind_fractions(result)["failed"] == 0.75


def test_training_up_to_the_model(tmp_path: Path) -> None:
    """Catches tokens of later steps, rates that are added up as tokens, and measurements of steps that are gone."""
    folder = write_training(tmp_path)
    # Tokens: 10 * 1, then 20 * 2, then 30 * 3.
    held_out = [HeldOut(0, 0.0, 0.0, 0.25, (0.15, 0.35)), HeldOut(2, 50.0, 3.0, 0.5, (0.4, 0.6))]
    assert read_training(folder, "runs/x/checkpoints/step_000002/model") == Training(
        str(folder), 2, 50.0, 3.0, held_out
    )
    whole = read_training(folder, "models/final")
    assert (whole.steps, whole.tokens, whole.seconds) == (3, 140.0, 6.0)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "thro')
    assert read_training(folder, "models/final") == whole


@pytest.mark.parametrize("name", ["sft/tokens", "dpo/tokens"])
def test_training_on_a_file_has_no_times(name: str, tmp_path: Path) -> None:
    """Catches a time of 0 for runs that write none."""
    write_objects(tmp_path / "metrics.jsonl", [{"step": 1, name: 7}, {"step": 2, name: 5}])
    assert read_training(tmp_path, "runs/sft/model") == Training(str(tmp_path), 2, 12.0, None, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no step is complete"),
        ('{"step": 1}\n', "not the metrics of `train`, `sft` or `dpo`: KeyError"),
        ("[1]\n", "not the metrics of `train`, `sft` or `dpo`: TypeError"),
        ("{\n", "not the metrics of `train`, `sft` or `dpo`: JSONDecodeError"),
        ('{"step": 1, "sft/tokens": 5}\n', "no step 2, at which the model m/step_000002 was saved; give its own"),
    ],
)
def test_unusable_training_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """Catches a traceback, and tokens of another run than the model's."""
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_training(tmp_path, "m/step_000002")
    with pytest.raises(MissingError, match=r"metrics.jsonl: no such file"):
        read_training(tmp_path / "none", "m")


def evaluated(label: str, accuracy: float, training: Training | None, *benchmarks: str) -> EvaluatedRun:
    """A run without samples; responses are 100 * accuracy tokens long."""
    result = Result(1, 1, accuracy, (accuracy, accuracy), {1: 0.0}, {1: 0.0}, 100 * accuracy, 0.0, {"wrong": 1}, 0)
    return EvaluatedRun(label, label, {"model": label}, dict.fromkeys(benchmarks, result), {}, training)


def test_series() -> None:
    """Catches a bar in another run's place, models of two training runs on one line, and lines that run backwards."""
    measured = [HeldOut(0, 0.0, 0.0, 0.1, (0.0, 0.2)), HeldOut(9, 90.0, 9.0, 0.3, (0.2, 0.4))]
    runs = [
        evaluated("base", 0.25, None, "x", "y"),
        evaluated("late", 0.75, Training("grpo", 9, 90.0, 9.0, measured), "x"),
        evaluated("early", 0.5, Training("grpo", 2, 20.0, 2.0, measured), "x", "y"),
        evaluated("sft", 0.5, Training("sft", 5, 50.0, None, []), "x"),
    ]

    def point(label: str, x: float, accuracy: float) -> Point:
        return Point(label, x, accuracy, (accuracy, accuracy))

    assert bars(runs)["y"] == [point("base", 0, 0.25), None, point("early", 2, 0.5), None]
    assert length_points(runs, "y") == [point("base", 25.0, 0.25), point("early", 50.0, 0.5)]
    grpo = [point("early", 20.0, 0.5), point("late", 90.0, 0.75)]
    assert training_curves(runs, "x", seconds=False) == [grpo, [point("sft", 50.0, 0.5)]]
    assert training_curves(runs, "x", seconds=True) == [[point("early", 2.0, 0.5), point("late", 9.0, 0.75)]]
    assert held_out_curves(runs, seconds=False) == [
        [Point("late", 0.0, 0.1, (0.0, 0.2)), Point("late", 90.0, 0.3, (0.2, 0.4))]
    ]
    assert set(draw(runs)) == set(PLOTS)
    assert set(draw(runs[:1])) == {"accuracy.png", "length_accuracy.png", "errors.png"}
    assert set(draw([runs[0], runs[3]])) == set(PLOTS) - {"accuracy_seconds.png"}


def count_pixels(image: bytes, colour: str) -> int:
    pixels = imread(io.BytesIO(image))[:, :, :3]
    return int(np.all(np.abs(pixels - np.array(to_rgb(colour))) < 0.01, axis=2).sum())


def test_plots_show_the_numbers(words: list[str]) -> None:
    """Catches an empty image, bars and shares of other sizes than their numbers, and images that differ by chance."""
    runs = read_runs(words)
    images = draw(runs)
    assert draw(runs) == images
    for name, image in images.items():
        height, width, _ = imread(io.BytesIO(image)).shape
        assert (height >= 400, width >= 800) == (True, True), name
    for name in ("accuracy.png", "accuracy_tokens.png", "accuracy_seconds.png", "length_accuracy.png"):
        assert all(count_pixels(images[name], COLOURS[index]) > 100 for index in range(3)), name
    # Accuracies of held and hard: 1/4 and 0; 3/4 and 1/4. What interval and legend take or add is little.
    base, trained = (count_pixels(images["accuracy.png"], COLOURS[index]) for index in range(2))
    assert trained / base == pytest.approx(4.0, rel=0.2)
    # Shares of the two runs' samples, held and hard: correct 1/4 + 3/4 + 0 + 1/4; wrong 3/4 + 1/4 + 0 + 3/4; no answer
    # 1/2 and truncated 1/4, both of the first run's hard problem.
    shown = draw(runs[:2])["errors.png"]
    correct, wrong, no_answer, truncated, failed = (count_pixels(shown, colour) for colour in KIND_COLOURS.values())
    assert correct / truncated == pytest.approx(5, rel=0.2)
    assert wrong / no_answer == pytest.approx(3.5, rel=0.2)
    assert failed / truncated == pytest.approx(1, rel=0.2)


def test_names_are_no_formulas() -> None:
    """Catches a label that is typeset, fails to parse, or is left out of the legend."""
    images = [draw([evaluated(label, 0.5, None, "$x")])["accuracy.png"] for label in ("_a", "_b", r"$\undefined$")]
    assert len(set(images)) == 3


def test_tables(words: list[str]) -> None:
    """Catches pass@k of different k in one column, a difference for the first run, and cells in another column."""
    runs = read_runs(words)
    header, rows = accuracy_table(runs)
    assert header == ["run", "held", "hard"]
    assert rows[2] == ["other", "0.500 [0.000, 1.000]", ""]
    assert [row[2] for row in rows[:2]] == ["0.000 [0.000, 0.000]", "0.250 [0.250, 0.250]"]
    header, rows = benchmark_table(runs, "held")
    assert header[4:8] == ["minus base [95 %]", "pass@2", "maj@2", "tokens"]
    # pass@2 of a and b: base 0 and 1 - C(2,2)/C(4,2) = 5/6; trained 5/6 and 1; other 1 and 0.
    assert [row[4:8] for row in rows] == [
        ["", "0.417", "0.500", "20.0"],
        ["+0.500 [+0.500, +0.500]", "0.917", "1.000", "30.0"],
        ["+0.250 [-0.500, +1.000]", "0.500", "0.500", "40.0"],
    ]
    assert rows[2][8:] == ["50.0%", "25.0%", "0.0%", "25.0%", "0.0%"]
    assert [row[0] for row in benchmark_table(runs, "hard")[1]] == ["base", "trained"]
    assert training_table(runs)[1] == [["trained", words[1].rpartition(":")[2], "2", "50", "3"]]
    page = to_markdown(runs, ["accuracy.png"])
    assert "Accuracy [95 % interval]; empty: not evaluated on it." in page
    assert "The runs differ in n_samples_per_prompt:" in page


def test_numbers_are_all_in_the_json(words: list[str]) -> None:
    """Catches a number of the tables that a script could not read."""
    content = json.loads(to_json(read_runs(words)))
    assert content["first"] == "base"
    assert content["differences_to_first"] == {
        "held": {"trained": {"mean": 0.5, "ci95": [0.5, 0.5]}, "other": {"mean": 0.25, "ci95": [-0.5, 1.0]}},
        "hard": {"trained": {"mean": 0.25, "ci95": [0.25, 0.25]}},
    }
    assert list(content["runs"]) == ["base", "trained", "other"]
    trained = content["runs"]["trained"]
    assert trained["results"]["held"]["accuracy"] == 0.75
    assert (trained["training"]["tokens"], content["runs"]["base"]["training"]) == (50.0, None)
    assert trained["kinds"]["hard"]["wrong"] == 0.75


def test_command_writes_everything(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a file that is missing or left from an earlier comparison, and a table that hides what is missing."""
    folder = tmp_path / "out"
    assert main(["compare", *words, "--output", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "accuracy, 95 % interval; empty: not evaluated on it" in shown
    assert "the runs differ in n_samples_per_prompt" in shown
    names = {path.name for path in folder.iterdir()}
    assert names == {"compare.md", "compare.json", *PLOTS}
    (folder / "mine.txt").write_text("kept")
    assert main(["compare", words[0], "--output", str(folder)]) == 0
    assert "empty" not in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == names - {"accuracy_tokens.png", "accuracy_seconds.png"} | {
        "mine.txt"
    }
    assert "accuracy_tokens.png" not in (folder / "compare.md").read_text()


def remove_results(base: Path) -> None:
    (base / "results.json").unlink()


def break_results(base: Path) -> None:
    (base / "results.json").write_text('{"settings": {')


def forget_accuracy(base: Path) -> None:
    content = json.loads((base / "results.json").read_text())
    del content["results"]["held"]["accuracy"]
    (base / "results.json").write_text(json.dumps(content))


def forget_model(base: Path) -> None:
    content = json.loads((base / "results.json").read_text())
    (base / "results.json").write_text(json.dumps({**content, "settings": {}}))


def remove_samples(base: Path) -> None:
    (base / "samples/hard.jsonl").unlink()


def cut_samples(base: Path) -> None:
    lines = (base / "samples/held.jsonl").read_text().splitlines(keepends=True)
    (base / "samples/held.jsonl").write_text("".join(lines[:-1]))


def break_sample(base: Path) -> None:
    (base / "samples/held.jsonl").write_text('{"id": "a"}\n')


def change_label(base: Path) -> None:
    path = base / "samples/held.jsonl"
    path.write_text(path.read_text().replace("label of a", "another label of a"))


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (remove_results, 3, "results.json: no such file; `python -m cli eval` writes it"),
        (break_results, 2, "results.json: Invalid JSON"),
        (forget_accuracy, 2, "results.json: results.held.accuracy: Field required"),
        (forget_model, 2, "results.json: names no benchmark or no model"),
        (remove_samples, 3, "hard.jsonl: no such file, but results.json has its result"),
        (cut_samples, 2, "held.jsonl: not the 2 problems x 4 samples of results.json"),
        (break_sample, 2, "held.jsonl:1: index: Field required"),
        (change_label, 2, "have different problems or labels; compare evaluations of the same file"),
    ],
)
def test_broken_folder_is_one_line(
    spoil: Callable[[Path], None],
    code: int,
    message: str,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a traceback, a comparison of different problems, and files that are written before all is read."""
    spoil(tmp_path / "base")
    assert main(["compare", *words, "--output", str(tmp_path / "out")]) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.startswith("compare: ")
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_labels_must_differ(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run that hides another of the same name."""
    assert main(["compare", words[0], f"base={tmp_path}/grpo", "--output", str(tmp_path / "out")]) == 2
    assert "two runs have the label 'base'; give distinct labels: label=FOLDER" in capsys.readouterr().err


def test_output_that_is_a_file(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback after all the work."""
    (tmp_path / "out").write_text("")
    assert main(["compare", words[0], "--output", str(tmp_path / "out")]) == 2
    assert "out: cannot be written to: File exists; choose another --output" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    """Catches an import at the top of the command, with which asking for help takes seconds."""
    code = (
        "import sys, cli.compare\n"
        "try: cli.compare.run(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'matplotlib', 'scipy', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
