"""`eval`: its arithmetic by hand, and the command for real: vLLM, grading, files, going on where it was stopped."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from cli import eval as eval_command
from eval.benchmarks import FILES, SYSTEM_PROMPT, load_benchmark, to_prompts
from eval.page import SHOWN_CHARS, SHOWN_PROBLEMS, shorten, shown_problems, to_html
from eval.report import to_markdown
from eval.result import majority_is_right, summarize
from eval.samples import Sample, SampleFile
from openr1.data.template import ChatTemplate
from openr1.data.tokenizer import load_tokenizer
from openr1.data.weight_files import fingerprint_weights
from openr1.errors import ConfigError, MissingError

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("OPENR1_DATA_DIR", "no-data")) / "benchmarks"


def sample(problem: str, index: int, answer: str | None, right: bool | None, tokens: int = 10) -> Sample:
    """A sample that is right, wrong, or (None) could not be graded; without an answer it is truncated."""
    verdict = {True: "correct", False: "wrong", None: "timeout"}[right]
    score = None if right is None else float(right)
    return Sample(problem, index, "q", "4", "r", tokens, answer is None, answer, verdict, score, None)


GROUPS = [
    # 2 of 4 right; 4 has two votes, spelled in two ways, 5 and 6 one each.
    [sample("a", 0, "5", False), sample("a", 1, "4", True), sample("a", 2, r"$4$", True), sample("a", 3, "6", False)],
    # 1 of 4 right; 7 has two votes.
    [
        sample("b", 0, "7", False),
        sample("b", 1, "7", False),
        sample("b", 2, "4", True),
        sample("b", 3, None, False, 9),
    ],
    # None right; one could not be graded.
    [sample("c", 0, "1", False), sample("c", 1, None, None), sample("c", 2, "2", False), sample("c", 3, "3", False)],
]


def test_result_by_hand() -> None:
    """Catches means over samples instead of problems, pass@k with replacement, and failed samples left out."""
    result = summarize(GROUPS)
    assert (result.num_problems, result.n_samples_per_prompt, result.num_failed) == (3, 4, 1)
    assert result.accuracy == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    assert result.ci95[0] <= result.accuracy <= result.ci95[1]
    # pass@2: 1 - C(2,2)/C(4,2) = 5/6; 1 - C(3,2)/C(4,2) = 1/2; 0.
    assert result.pass_at == {1: pytest.approx(0.25), 2: pytest.approx((5 / 6 + 1 / 2) / 3), 4: pytest.approx(2 / 3)}
    # maj@1 is the first sample; maj@2 of a: 5 and 4 have one vote each, the first wins.
    assert result.maj == {1: 0.0, 2: 0.0, 4: pytest.approx(1 / 3)}
    assert result.response_length == pytest.approx((11 * 10 + 9) / 12)
    assert result.truncated_fraction == pytest.approx(2 / 12)
    assert result.verdicts == {"wrong": 8, "correct": 3, "timeout": 1}


def test_majority_needs_an_answer() -> None:
    """Catches a vote for having no answer."""
    assert not majority_is_right([sample("a", 0, None, False), sample("a", 1, None, False)])
    assert majority_is_right([sample("a", 0, None, False), sample("a", 1, None, False), sample("a", 2, "4", True)])


def test_report_has_every_benchmark() -> None:
    """Catches a table whose rows and header have different lengths, and a verdict that is left out."""
    results = {"one": summarize(GROUPS), "two": summarize(GROUPS[:1])}
    page = to_markdown("Evaluation", {"model": "a|b"}, results)
    tables = [line for line in page.splitlines() if line.startswith("|")]
    widths = [line.replace("\\|", "").count("|") for line in tables]
    assert widths == [3] * 3 + [4] * 10 + [4] * 5
    assert tables[3:8] == [
        "|  | one | two |",
        "|---|---|---|",
        "| problems | 3 | 1 |",
        "| accuracy | 0.250 | 0.500 |",
        f"| 95 % interval | {results['one'].ci95[0]:.3f}, {results['one'].ci95[1]:.3f} | 0.500, 0.500 |",
    ]
    assert tables[8:10] == ["| pass@4 | 0.667 | 1.000 |", "| maj@4 | 0.333 | 1.000 |"]
    assert tables[-3:] == ["| correct | 3 | 2 |", "| timeout | 1 | 0 |", "| wrong | 8 | 2 |"]


class Blocks(HTMLParser):
    """Collects the text of every <pre>, as a browser shows it, and all tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.blocks: list[str] = []
        self.tags: set[str] = set()
        self._open = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._open = tag == "pre"
        if self._open:
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._open = False
            self.blocks[-1] = self.blocks[-1].removeprefix("\n")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.blocks[-1] += data


def test_page_shows_text_as_it_is() -> None:
    """Catches text of a model that becomes part of the page, a lost line break, and anything loaded from elsewhere."""
    hostile = "\n</pre><script src='https://x.org'>alert(1)</script> {{ title }} & &amp; \n\n"
    group = [
        replace(one, prompt=f"p{hostile}", label=f"l{hostile}", response=hostile, error=f"e{hostile}")
        for one in GROUPS[0]
    ]
    results = {"<b>one": summarize([group])}
    page = to_html("Evaluation", {"model": "<i>m"}, results, {"<b>one": [group]})
    assert page == to_html("Evaluation", {"model": "<i>m"}, results, {"<b>one": [group]})
    found = Blocks(page)
    # Sample 0 is wrong and sample 1 the first that is right.
    assert found.blocks == [f"p{hostile}", f"l{hostile}", hostile, "5", f"e{hostile}", hostile, "4", f"e{hostile}"]
    assert not found.tags & {"script", "link", "img", "iframe", "a", "b", "i"}
    assert "&lt;i&gt;m" in page
    assert "&lt;b&gt;one" in page
    assert "http" not in page.replace("src=&#39;https://x.org&#39;", "")


def test_page_begins_with_what_went_wrong() -> None:
    """Catches a page of right answers only, problems out of order, and a page that grows with the benchmark."""
    right = [[sample(f"right {number}", 0, "4", True)] for number in range(SHOWN_PROBLEMS)]
    shown = shown_problems([*right, GROUPS[1], GROUPS[0], GROUPS[2]])
    assert len(shown) == SHOWN_PROBLEMS
    # Shares: c 0, b 1/4, a 1/2, then those with 1 as they came.
    assert [problem.id for problem in shown[:4]] == ["c", "b", "a", "right 0"]
    assert [(problem.num_right, problem.num_samples) for problem in shown[:4]] == [(0, 4), (1, 4), (2, 4), (1, 1)]
    assert [[one.index for one in problem.samples] for problem in shown[:4]] == [[0], [0, 2], [0, 1], [0]]


def test_long_text_keeps_its_ends() -> None:
    """Catches a page without the answer, which stands at the end, and text that is cut without a word."""
    half = SHOWN_CHARS // 2
    fitting = "a" * half + "b" * half
    assert shorten(fitting) == fitting
    longer = "a" * half + "12345" + "b" * half
    assert shorten(longer) == "a" * half + "\n[... 5 characters, see samples/ ...]\n" + "b" * half


def test_samples_of_whole_groups_survive(tmp_path: Path) -> None:
    """Catches half a group, or half a line, that counts after a crash, or that stays in the file."""
    path = tmp_path / "samples.jsonl"
    file = SampleFile(path, 4)
    assert file.complete() == {}
    for group in GROUPS:
        file.add(group)
    whole = path.read_text()
    path.write_text(whole[: whole.rindex('"index": 2')])
    file.forget_incomplete()
    assert list(file.complete()) == ["a", "b"]
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:8])
    file.add(GROUPS[2])
    assert file.complete() == {"a": GROUPS[0], "b": GROUPS[1], "c": GROUPS[2]}


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROW = {"id": "p", "prompt": "2+2?", "label": "4", "task": "math"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, ROW], "rows.jsonl:2: duplicate id 'p', also in .*rows.jsonl:1"),
        ([ROW, {**ROW, "id": "q", "label": "5"}], "rows.jsonl:2: the same question as .*rows.jsonl:1, but with"),
        ([{**ROW, "label": [4]}], "rows.jsonl:1: `label` must be a string or a number"),
        ([], "no rows"),
    ],
)
def test_bad_benchmarks_name_the_line(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    """Catches a benchmark that counts a problem twice, or grades one question by two answers."""
    with pytest.raises(ConfigError, match=message):
        load_benchmark(str(write_rows(tmp_path / "rows.jsonl", *rows)), tmp_path)


def test_named_benchmarks(tmp_path: Path) -> None:
    """Catches rows without an answer that end in a traceback, and a missing file without advice."""
    with pytest.raises(MissingError, match=r"benchmark gsm8k: no file .*GSM8k.jsonl; --data names the folder"):
        load_benchmark("gsm8k", tmp_path)
    write_rows(tmp_path / "GSM8k.jsonl", {"question": "2+2?", "answer": "so\n#### 4"}, {"question": "3+3?"})
    with pytest.raises(ConfigError, match=r"GSM8k.jsonl:2: needs `question`, a string, and `answer`"):
        load_benchmark("gsm8k", tmp_path)
    with pytest.raises(ConfigError, match=r"unknown benchmark 'gsm9k'; give a \.jsonl file or one of gsm8k, "):
        load_benchmark("gsm9k", tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason="OPENR1_DATA_DIR has no benchmarks")
def test_real_benchmarks_check_themselves() -> None:
    """Catches a benchmark file that is read short, and a label that could not be graded."""
    done = run("--benchmarks", ",".join(FILES), "--data", str(DATA), "--check")
    assert done.returncode == 0, done.stdout
    sizes = {"gsm8k": 1319, "math500": 500, "amc23": 40, "olympiadbench": 675}
    assert done.stdout.splitlines() == [
        f"{name}: {size} problems, {size} labels checked" for name, size in sizes.items()
    ]


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli", "eval", *words]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)


def test_system_prompt_without_a_system_role(tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches named benchmarks that no model like Gemma 2 can be measured on, since they send a system prompt."""
    write_rows(tmp_path / "GSM8k.jsonl", {"question": "2+2?", "answer": "#### 4"})
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "[{{ m.content }}]{% endfor %}"
    )
    tokenizer = load_tokenizer(tiny_model(True), ChatTemplate(template))
    (prompt,) = to_prompts(load_benchmark("gsm8k", tmp_path), tokenizer, 500, 16)
    assert prompt.text == f"[{SYSTEM_PROMPT}\n\n2+2?]"


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--chat-template", "nope.jinja", "chat_template nope.jinja: No such"),
        ("--chat-template-kwargs", "{a: 1}", "must be a JSON object"),
        ("--chat-template-kwargs", '{"enable_thinking": false}', "enable_thinking: not read by the chat template"),
    ],
)
def test_template_flags(flag: str, value: str, told: str, tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches flags that do not reach the tokenizer, or whose mistakes show as tracebacks."""
    benchmark = str(write_rows(tmp_path / "rows.jsonl", ROW))
    done = run(
        "--model", str(tiny_model(True)), "--benchmarks", benchmark, "--output", str(tmp_path / "e"), flag, value
    )
    assert done.returncode == (3 if "nope" in value else 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "e").exists()


def test_evaluation_goes_on_where_it_was(
    tiny_model: Callable[[bool], Path], countdown_files: Path, tmp_path: Path
) -> None:
    """Catches problems that are dropped, sampled twice or otherwise after a stop, and results of mixed settings."""
    model, folder = tiny_model(True), tmp_path / "evaluation"
    words = ["--model", str(model), "--benchmarks", str(countdown_files / "held_out.jsonl"), "--n", "3"]
    words += ["--max-tokens", "16", "--dtype", "float32", "--kv-cache-gib", "0.1", "--output", str(folder)]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    first = json.loads((folder / "results.json").read_text())
    samples = folder / "samples/held_out.jsonl"
    whole = sorted(samples.read_text().splitlines())
    result = first["results"]["held_out"]
    assert (result["num_problems"], result["n_samples_per_prompt"], len(whole)) == (16, 3, 48)
    assert "held_out" in done.stdout
    assert "held_out" in (folder / "report.md").read_text()
    page = Blocks((folder / "report.html").read_text())
    assert "16 of 16 problems" in (folder / "report.html").read_text()
    assert json.loads(whole[0])["label"] in page.blocks

    lines = samples.read_text().splitlines(keepends=True)
    samples.write_text("".join(lines[:31]))
    again = run(*words)
    assert again.returncode == 0, again.stderr
    assert "6 problems x 3 samples" in again.stdout
    assert sorted(samples.read_text().splitlines()) == whole
    assert json.loads((folder / "results.json").read_text()) == first

    other = run(*words, "--temperature", "0.5")
    assert other.returncode == 2
    assert "contains an evaluation with temperature 0.7, not 0.5; choose another --output" in other.stderr
    # Another benchmark of the same name, whose problems have the same ids.
    rows = [json.loads(line) for line in (countdown_files / "held_out.jsonl").read_text().splitlines()]
    (tmp_path / "other").mkdir()
    changed = write_rows(tmp_path / "other/held_out.jsonl", *(row | {"prompt": row["prompt"] + "!"} for row in rows))
    mixed = run(*(str(changed) if word.endswith("held_out.jsonl") else word for word in words))
    assert mixed.returncode == 2
    assert "of held_out with another prompt; choose another --output" in mixed.stderr


def test_samples_of_something_else_are_refused(tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches samples of a model that has changed at its path, or for another label, reported as the new result."""
    model = Path(shutil.copytree(tiny_model(True), tmp_path / "model", copy_function=shutil.copyfile))
    rows, folder = write_rows(tmp_path / "rows.jsonl", ROW), tmp_path / "evaluation"
    (prompt,) = to_prompts(load_benchmark(str(rows), tmp_path), load_tokenizer(model), 500, 16)
    kept = Sample("p", 0, prompt.text, "4", r"\boxed{4}", 5, False, "4", "correct", 1.0, None)
    (folder / "samples").mkdir(parents=True)
    write_rows(folder / "samples/rows.jsonl", asdict(kept))
    words = [
        "--model",
        str(model),
        "--benchmarks",
        str(rows),
        "--n",
        "1",
        "--max-tokens",
        "16",
        "--output",
        str(folder),
    ]
    # All samples are there, so that no engine is needed.
    assert eval_command.run(words) == 0
    result = (folder / "results.json").read_text()
    write_rows(rows, ROW | {"label": "5"})
    with pytest.raises(ConfigError, match=r"has samples of problem 'p' of rows with another label"):
        eval_command.run(words)
    write_rows(rows, ROW)
    weights = model / "model.safetensors"
    save_file({name: tensor * 1.001 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"contains an evaluation with weights '\w+', not '\w+'; choose another"):
        eval_command.run(words)
    assert (folder / "results.json").read_text() == result


def test_fingerprint_of_weights(tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches samples of one model reported as those of another at its path, and a copy that counts as another."""
    twin = shutil.copytree(tiny_model(True), tmp_path / "model", copy_function=shutil.copyfile)
    assert fingerprint_weights(twin) == fingerprint_weights(tiny_model(True))
    weights = twin / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * 1.001 for name, tensor in tensors.items()}, weights, {"format": "pt"})
    assert weights.stat().st_size == (tiny_model(True) / "model.safetensors").stat().st_size
    assert fingerprint_weights(twin) != fingerprint_weights(tiny_model(True))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--n", "4", "--temperature", "0"], "greedy samples are all the same"),
        (["--temperature", "0.001"], "temperature 0.001: give 0 (greedy) or at least 0.01"),
        (["--benchmarks", "one/rows.jsonl,two/rows.jsonl"], "two benchmarks are called rows"),
        (["--check"], "rows: no problem of task math"),
    ],
)
def test_what_cannot_be_meant(words: list[str], told: str, tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches flags that fail once an engine has started, and a check or a benchmark that is left out in silence."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "rows.jsonl", ROW | {"task": "countdown"})
    flags = ["--benchmarks", "one/rows.jsonl", "--model", str(tiny_model(True)), *words]
    flags = [",".join(str(tmp_path / part) for part in one.split(",")) if "rows" in one else one for one in flags]
    with pytest.raises(ConfigError, match=re.escape(told)):
        eval_command.run([*flags, "--output", str(tmp_path / "e")])
    assert not (tmp_path / "e").exists()
