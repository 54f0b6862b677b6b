"""`data prepare` as a user runs it: each step drops what it should, and the same arguments give the same bytes."""

import json
import os
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from data.prepare.decontaminate import BenchmarkIndex
from data.prepare.formats import FORMATS
from data.prepare.hub_datasets import HUB_DATASETS
from data.prepare.pipeline import quotas
from openr1.data.chat import PromptFormat
from openr1.data.prompts import load_prompts
from openr1.data.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parents[3]
REAL = os.environ.get("OPENR1_DATA_DIR")


def write_lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ours(name: str, prompt: str = "", **more: Any) -> dict[str, Any]:
    return {"id": name, "prompt": prompt or f"What is {name}?", "label": "1", "task": "math", **more}


def prompts(folder: Path, name: str = "train") -> list[str]:
    return [row["prompt"] for row in read_lines(folder / f"{name}.jsonl")]


def ids(folder: Path, name: str = "train") -> list[str]:
    return [row["id"] for row in read_lines(folder / f"{name}.jsonl")]


def dropped(folder: Path, step: str) -> dict[str, int]:
    """What prepare.json says of a step; rows must add up from step to step."""
    steps = json.loads((folder / "prepare.json").read_text(encoding="utf-8"))["steps"]
    for before, after in pairwise(steps):
        assert before["rows_out"] == after["rows_in"]
    for one in steps:
        assert one["rows_in"] - sum(one["dropped"].values()) == one["rows_out"]
    found: dict[str, int] = next(one["dropped"] for one in steps if one["step"] == step)
    return found


@pytest.fixture
def prepare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """Run `data prepare` into tmp_path/out; gives the folder back."""

    def run(*words: Any) -> Path:
        code = main(["data", "prepare", *map(str, words), "--output", str(tmp_path / "out")])
        assert code == 0, capsys.readouterr().err
        return tmp_path / "out"

    return run


@pytest.fixture
def refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Run `data prepare`, which must end with one line and nothing written."""

    def run(code: int, text: str, *words: Any) -> None:
        capsys.readouterr()
        assert main(["data", "prepare", *map(str, words), "--output", str(tmp_path / "out")]) == code
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert text in lines[0]
        assert not (tmp_path / "out").exists()

    return run


Prepare = Callable[..., Path]
Refuses = Callable[..., None]


def test_raw_rows_become_a_dataset(prepare: Prepare, tmp_path: Path) -> None:
    """Catches output that training refuses, and a report that leaves out what was asked."""
    file = write_lines(tmp_path / "x.jsonl", {"question": "1+1?", "answer": "#### 2"}, {"question": "2?", "answer": 2})
    out = prepare(file, "--task", "gsm8k_zh", "--prefix", "<think>", "--seed", "5")
    rows = read_lines(out / "train.jsonl")
    assert [(row["prompt"], row["label"], row["task"], row["prefix"]) for row in rows] == [
        ("1+1?", "#### 2", "gsm8k_zh", "<think>"),
        ("2?", "2", "gsm8k_zh", "<think>"),
    ]
    report = json.loads((out / "prepare.json").read_text())
    arguments = {name: value for name, value in report["arguments"].items() if value}
    assert arguments == {
        "files": [str(file)],
        "output": str(out),
        "task": "gsm8k_zh",
        "wording": "en",
        "prefix": "<think>",
        "pass_rate_max": 1.0,
        "ngram": 10,
        "seed": 5,
    }
    assert report["rows"] == {"train": 2, "held_out": 0}
    assert sorted(path.name for path in out.iterdir()) == ["prepare.json", "train.jsonl"]


def test_system_prompt_becomes_a_message(prepare: Prepare, refuses: Refuses, tmp_path: Path) -> None:
    """Catches a system prompt that is lost, that drops an earlier turn, or that stands beside another."""
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    other = {"id": "y", "messages": talk, "label": "1", "task": "math"}
    file = write_lines(tmp_path / "x.jsonl", ours("x", "1+1?"), other)
    own = [{"role": "system", "content": "Mine."}, *talk]
    refuses(
        2,
        "own.jsonl:1: already has a system message; remove --system-prompt",
        write_lines(tmp_path / "own.jsonl", {**other, "messages": own}),
        "--system-prompt",
        "Yours.",
    )
    rows = read_lines(prepare(file, "--system-prompt", "Think.") / "train.jsonl")
    system = {"role": "system", "content": "Think."}
    assert [row["messages"] for row in rows] == [[system, {"role": "user", "content": "1+1?"}], [system, *talk]]
    assert "prompt" not in rows[0]


def test_questions_asked_again_are_dropped(prepare: Prepare, tmp_path: Path) -> None:
    """Catches the same question trained on twice, in one file or in two, and other questions dropped for it."""
    first = write_lines(tmp_path / "a.jsonl", ours("a", "2+3?"), ours("b", " 2+3?\n"), ours("c", "2-3?"))
    second = write_lines(tmp_path / "b.jsonl", ours("d", "2+3?", label="1.0"), ours("e", "3+3?"), ours("a", "2+3?"))
    out = prepare(first, second)
    assert ids(out) == ["a", "c", "e"]
    assert dropped(out, "questions") == {"asked again": 3}


def test_one_question_with_two_answers(prepare: Prepare, refuses: Refuses, tmp_path: Path) -> None:
    """Catches a wrong label picked by the order of rows."""
    rows = [ours("a", "2+3?", label="5"), ours("b"), ours("c", "2+3?", label="6"), ours("d", "2+3?", label="5")]
    file = write_lines(tmp_path / "a.jsonl", *rows)
    refuses(2, f"{file}:3: same question as {file}:1 with a different answer", file)
    out = prepare(file, "--skip-bad")
    assert ids(out) == ["b"]
    assert dropped(out, "questions") == {"two answers": 3}


def test_one_id_for_two_questions(prepare: Prepare, refuses: Refuses, tmp_path: Path) -> None:
    """Catches ids that stand twice, by which groups and rewards would be mixed up."""
    files = [write_lines(tmp_path / f"{name}.jsonl", ours("a", f"{name}?")) for name in "xy"]
    refuses(2, f"{files[1]}:1: id 'a' is already used at {files[0]}:1", *files)
    out = prepare(*files, "--skip-bad")
    assert prompts(out) == ["x?"]
    assert dropped(out, "questions") == {"id twice": 1}


def test_bad_rows_are_counted_by_kind(prepare: Prepare, refuses: Refuses, tmp_path: Path) -> None:
    """Catches rows that vanish without a trace."""
    file = write_lines(tmp_path / "x.jsonl", ours("a"), ours("b", label=" "), ours("c", prompt=5), ours("d", label=""))
    refuses(2, f"{file}:2: `label` is blank", file)
    out = prepare(file, "--skip-bad")
    assert ids(out) == ["a"]
    assert dropped(out, "read") == {"blank text": 2, "wrong type": 1}


def test_difficulty(prepare: Prepare, tmp_path: Path) -> None:
    """Catches levels of MATH mapped to the wrong side: 1 and 2 are easy, 3 to 5 medium."""
    levels = [ours(f"l{level}", meta={"level": level}) for level in (1, 2, 3, 4, 5, "Level 2", "Level ?")]
    named = [ours(name, meta={"difficulty": name}) for name in ("easy", "medium", "hard")]
    file = write_lines(tmp_path / "x.jsonl", *levels, *named, ours("none"))
    out = prepare(file, "--difficulty", "easy")
    assert ids(out) == ["l1", "l2", "lLevel 2", "easy"]
    assert dropped(out, "difficulty") == {"hard": 1, "medium": 4, "without difficulty": 2}
    assert ids(prepare(file, "--difficulty", "medium,hard")) == ["l3", "l4", "l5", "medium", "hard"]


def test_pass_rates(prepare: Prepare, refuses: Refuses, tmp_path: Path) -> None:
    """Catches rates by response and not by prompt, an ungraded response that counts as a miss, and open ends."""
    file = write_lines(tmp_path / "x.jsonl", *(ours(name) for name in ("set/a", "b", "c", "d", "e")))
    samples = write_lines(
        tmp_path / "samples.jsonl",
        *({"id": "set/a", "index": n, "score": score} for n, score in enumerate([1.0, 0.0, None, 1.0])),
        *({"id": "b", "index": n, "score": 0.0} for n in range(2)),
    )
    rollouts = write_lines(
        tmp_path / "step_000001.jsonl",
        *({"id": f"c/{n}", "finish_reason": "stop", "score": 1.0} for n in range(2)),
        *({"id": f"d/{n}", "finish_reason": "stop", "score": score} for n, score in enumerate([0.0, 1.0])),
        {"id": "e/0", "finish_reason": "stop", "score": None},
    )
    # set/a: 2 of the 3 that were graded; b: 0; c: 1; d: 1/2; e: nothing graded.
    rates = ["--pass-rates", samples, rollouts]
    out = prepare(file, *rates, "--pass-rate-min", "0.5", "--pass-rate-max", "0.7")
    assert ids(out) == ["set/a", "d"]
    assert dropped(out, "pass rate") == {"above 0.7": 1, "below 0.5": 1, "not measured": 1}
    assert ids(prepare(file, *rates, "--pass-rate-max", "0.5", "--keep-unmeasured")) == ["b", "d", "e"]


def test_pass_rates_that_say_nothing(refuses: Refuses, tmp_path: Path) -> None:
    """Catches rates that are given and not used, and files that hold none."""
    file = write_lines(tmp_path / "x.jsonl", ours("a"))
    refuses(2, "--pass-rates has no effect", file, "--pass-rates", file)
    refuses(2, "--keep-unmeasured require --pass-rates", file, "--pass-rate-min", "0.1")
    refuses(2, "--keep-unmeasured require --pass-rates", file, "--keep-unmeasured")
    refuses(
        2, "--pass-rate-min is greater than", file, "--pass-rates", file, "--pass-rate-min", "1", "--pass-rate-max", "0"
    )
    refuses(2, f"{file}:1: `score` must be a number from 0 to 1", file, "--pass-rates", file, "--pass-rate-min", "0.1")
    strange = write_lines(tmp_path / "y.jsonl", {"id": "a", "score": 1})
    refuses(2, f"{strange}:1: neither an evaluation sample", file, "--pass-rates", strange, "--pass-rate-min", "0.1")


def test_benchmarks(prepare: Prepare, refuses: Refuses, tmp_path: Path) -> None:
    """Catches training on what is tested: files and folders of any format, and which of them it was."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    long = "A train leaves the station at noon and goes west for three hours"
    write_lines(folder / "long.jsonl", {"question": long, "answer": "1"})
    write_lines(folder / "short.jsonl", {"problem": "Add 2 and 2.", "solution": r"\boxed{4}"})
    (folder / "source.json").write_text("{}")
    file = write_lines(
        tmp_path / "x.jsonl",
        ours("a", "Yesterday a train leaves the station at noon and goes WEST."),
        ours("b", "Yesterday a train leaves the station at noon, and goes east."),
        ours("c", "add 2 and 2"),
    )
    # a shares 10 words with `long`, from "a train" to "west"; b shares 9.
    out = prepare(file, "--benchmarks", folder)
    assert ids(out) == ["b"]
    assert dropped(out, "benchmarks") == {"in long.jsonl": 1, "in short.jsonl": 1}
    assert ids(prepare(file, "--benchmarks", folder / "long.jsonl", "--ngram", "11")) == ["a", "b", "c"]
    assert ids(prepare(file, "--benchmarks", folder / "long.jsonl", "--ngram", "9")) == ["c"]
    shutil.rmtree(out)
    empty = tmp_path / "empty"
    empty.mkdir()
    refuses(2, f"{empty}: contains no .jsonl or .parquet file", file, "--benchmarks", empty)


def test_countdown_problems_are_compared_as_problems(prepare: Prepare, tmp_path: Path) -> None:
    """Catches a whole Countdown set dropped since all its prompts share their words, or a test problem kept."""
    file = write_lines(tmp_path / "x.jsonl", *({"nums": [3, 5, 7], "target": target} for target in (22, 15, 8)))
    test = write_lines(tmp_path / "y.jsonl", {"nums": [7, 5, 3], "target": 15})
    out = prepare(file, "--benchmarks", test)
    assert ids(out) == ["countdown-3-5-7=22", "countdown-3-5-7=8"]
    assert dropped(out, "benchmarks") == {"in y.jsonl": 1}


def test_a_24_game_is_a_puzzle_too(prepare: Prepare, tmp_path: Path) -> None:
    """Catches problems of the 24 game taken for one another since their prompts share their words."""
    words_ = "Use the four numbers once each, with plus, minus, times and over, to make 24:"
    cards = {"a": [4, 2, 6, 3], "b": [1, 2, 3, 4], "c": [6, 4, 3, 2], "d": [1, 1, 3, 8]}
    rows = [
        {"id": name, "prompt": f"{words_} {numbers}", "label": json.dumps({"numbers": numbers}), "task": "game24"}
        for name, numbers in cards.items()
    ]
    file = write_lines(tmp_path / "x.jsonl", *rows)
    out = prepare(file, "--benchmarks", write_lines(tmp_path / "y.jsonl", {**rows[1], "id": "t"}))
    assert ids(out) == ["a", "d"]
    assert dropped(out, "questions") == {"asked again": 1}
    assert dropped(out, "benchmarks") == {"in y.jsonl": 1}


def test_prompt_length(prepare: Prepare, refuses: Refuses, tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches lengths without the chat template, the system prompt or the prefix, which training counts."""
    model = tiny_model(True)
    tokenizer = load_tokenizer(model)
    file = write_lines(tmp_path / "x.jsonl", ours("a", "1"), ours("b", "1 1 1 1 1 1"))
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1"}]
    dressed_row = {"id": "a", "messages": talk, "label": "1", "task": "math", "prefix": "<think>"}
    longer = write_lines(tmp_path / "y.jsonl", dressed_row)
    limit = len(load_prompts(longer, tokenizer, 1000, PromptFormat())[0].token_ids)
    dressed = ["--system-prompt", "Be brief.", "--prefix", "<think>"]
    out = prepare(file, *dressed, "--model", model, "--prompt-max-len", limit)
    assert ids(out) == ["a"]
    assert dropped(out, "prompt length") == {f"over {limit} tokens": 1}
    load_prompts(out / "train.jsonl", tokenizer, limit, PromptFormat())
    shutil.rmtree(out)
    shorter = ["--model", model, "--prompt-max-len", limit - 1]
    refuses(2, "no rows are left after step 'prompt length'", file, *dressed, *shorter)
    refuses(2, "--model and --prompt-max-len must be given together", file, "--model", model)
    refuses(3, "no config.json there", file, "--model", tmp_path, "--prompt-max-len", 9)


@pytest.mark.parametrize(
    ("weights", "count", "expected"),
    [([1.0, 1.0, 2.0], 10, [3, 2, 5]), ([1.0], 7, [7]), ([2.0, 1.0], 4, [3, 1]), ([0.7, 0.2, 0.1], 10, [7, 2, 1])],
)
def test_quotas(weights: list[float], count: int, expected: list[int]) -> None:
    """Catches shares that do not add up to the count: 2.5 and 2.5 and 5; 2.67 and 1.33."""
    assert quotas(weights, count) == expected


def test_a_mixture(prepare: Prepare, refuses: Refuses, tmp_path: Path) -> None:
    """Catches shares that are not kept, rows drawn twice, and a source that is used up in silence."""
    first = write_lines(tmp_path / "a.jsonl", *(ours(f"a{n}") for n in range(6)))
    second = write_lines(tmp_path / "b.jsonl", *(ours(f"b{n}") for n in range(30)))
    refuses(2, f"{first}: 6 rows are left, 7 are required", first, second, "--weights", "1", "3", "--count", "28")
    refuses(2, "1 --weights for 2 files", first, second, "--weights", "1", "--count", "8")
    refuses(2, "--weights requires --count", first, second, "--weights", "1", "3")
    out = prepare(first, second, "--weights", "1", "3", "--count", "24")
    drawn = ids(out)
    assert len(set(drawn)) == 24
    assert sum(name.startswith("a") for name in drawn) == 6
    assert {name[0] for name in drawn[:6]} == {"a", "b"}
    assert dropped(out, "draw") == {"not drawn": 12}


def test_count_and_held_out(prepare: Prepare, refuses: Refuses, tmp_path: Path) -> None:
    """Catches a split that shares rows, loses some, or is the same for every seed; recipe 2 draws, then splits 9:1."""
    file = write_lines(tmp_path / "x.jsonl", *(ours(f"{n}") for n in range(100)))
    refuses(2, "all files together: 100 rows are left, 101 are required", file, "--count", 101)
    refuses(2, "--held-out 0.001 of 100 rows leaves one of the two files empty", file, "--held-out", 0.001)
    out = prepare(file, "--count", "50", "--held-out", "0.1", "--seed", "1")
    train, held_out = ids(out), ids(out, "held_out")
    assert (len(train), len(held_out), len({*train, *held_out})) == (45, 5, 50)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    prepare(file, "--count", "50", "--held-out", "0.1", "--seed", "1")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    for words_, name in ((["--count", "50"], "train"), (["--held-out", "0.1"], "held_out")):
        drawn = [set(ids(prepare(file, *words_, "--seed", seed), name)) for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(path.name for path in prepare(file).iterdir()) == ["prepare.json", "train.jsonl"]


def test_without_a_draw_rows_keep_their_order(prepare: Prepare, tmp_path: Path) -> None:
    """Catches a curriculum that is shuffled, and a held-out split that puts rows in another order."""
    file = write_lines(tmp_path / "x.jsonl", *(ours(f"{n}") for n in range(20)))
    out = prepare(file, "--held-out", "0.25")
    for name, size in (("train", 15), ("held_out", 5)):
        order = [int(one) for one in ids(out, name)]
        assert len(order) == size
        assert order == sorted(order)


def test_bad_arguments_are_one_line(refuses: Refuses, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an input that is overwritten, and arguments that are guessed at."""
    file = write_lines(tmp_path / "train.jsonl", ours("a"))
    refuses(2, "unknown --format 'csv'; expected one of openr1, countdown, ", file, "--format", "csv")
    refuses(2, "a file is given twice", file, file)
    refuses(3, "gone.jsonl: No such file or directory", tmp_path / "gone.jsonl")
    refuses(2, "unknown task 'maths'", file, "--task", "maths")
    before = file.read_bytes()
    assert main(["data", "prepare", str(file), "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"data: {file}: would be overwritten")
    assert file.read_bytes() == before
    for words_ in (["--count", "0"], ["--held-out", "1.5"], ["--weights", "0"], ["--ngram", "0"]):
        with pytest.raises(SystemExit, match="2"):
            main(["data", "prepare", str(file), "--output", str(tmp_path / "out"), *words_])


@pytest.mark.parametrize("command", ["download", "prepare", "select"])
def test_the_page_has_every_flag_and_name(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a flag, a dataset or a format that docs/data.md does not explain."""
    with pytest.raises(SystemExit, match="0"):
        main(["data", command, "--help"])
    flags = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert [flag for flag in flags if flag not in page] == []
    assert [name for name in (*HUB_DATASETS, *FORMATS) if f"| `{name}` |" not in page] == []


@pytest.mark.skipif(REAL is None, reason="OPENR1_DATA_DIR names no folder of real files")
def test_real_files(prepare: Prepare, refuses: Refuses) -> None:
    """Catches a real set that cannot be prepared, and a wrong label in it that goes through: 683, and -1."""
    data = Path(str(REAL))
    cot = data / "train/math3k_cot.jsonl"
    refuses(2, f"{cot}:2539: same question as {cot}:1138 with a different answer", cot)
    out = prepare(data / "train/math3k_rl_prompt.jsonl", "--benchmarks", data / "benchmarks", "--difficulty", "easy")
    rows = read_lines(out / "train.jsonl")
    assert {row["meta"]["difficulty"] for row in rows} == {"easy"}
    kept = BenchmarkIndex(10)
    for row in rows:
        kept.add(row, "kept")
    for name in ("MATH500", "AMC23", "GSM8k", "OlympiadBench"):
        for row in read_lines(data / f"benchmarks/{name}.jsonl"):
            assert kept.find(ours("x", row["question"]), row["question"]) is None
