"""Experiments and benchmarks: token budgets, training data, pooled statistics, and the pages generated from results."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap

from benchmarks import all as performance
from benchmarks import log_prob_memory
from benchmarks.against_trl import response_lengths
from benchmarks.commands import run_command
from benchmarks.machine import ROOT
from benchmarks.markdown import fill_table
from eval.samples import Sample
from experiments import algorithms, sft_vs_rl_variants
from experiments.algorithms import mean_curve
from experiments.jobs import Job, run_jobs
from experiments.sft_vs_rl_data import BENCHMARKS, STYLES, TASKS, read_problem, write_datasets, write_traces
from experiments.sft_vs_rl_page import PAGE, read_runs, write_page
from experiments.sft_vs_rl_variants import (
    RunContext,
    dpo,
    grpo_band,
    make_pairs,
    sample_prompts,
    sft_then_grpo,
    steps_within_budget,
    truncate_to_budget,
)
from experiments.tables import mean_with_interval
from openr1.config.checks import check_train
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import ConfigError, OpenR1Error
from openr1.runtime.files import read_objects, write_objects

BASE = ROOT / "data/models/tiny_base"


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_objects(path)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All prompts of the comparison."""
    folder = tmp_path_factory.mktemp("data")
    write_datasets(folder)
    return folder


def test_runs_go_on_where_they_were_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run made twice, one whose failure loses those before it, and one that starts in what a stop left."""
    made = []

    def job(name: str, fails: bool = False) -> Job:
        def work(folder: Path) -> dict[str, Any]:
            assert not folder.exists()
            folder.mkdir(parents=True)
            made.append(name)
            if fails:
                raise OpenR1Error("out of luck")
            return {"name": name}

        return Job(name, 60.0, work)

    folder, results = tmp_path / "runs", tmp_path / "results"
    with pytest.raises(OpenR1Error, match="out of luck"):
        run_jobs([job("a"), job("b", fails=True), job("c")], folder, results)
    assert made == ["a", "b"]
    assert [path.name for path in results.iterdir()] == ["a.json"]
    run_jobs([job("a"), job("b"), job("c")], folder, results)
    assert made == ["a", "b", "b", "c"]
    kept = json.loads((results / "c.json").read_text())
    assert kept["name"] == "c"
    assert re.fullmatch("[0-9a-f]{40}", kept["machine"]["commit"])
    assert "b: 2 runs left, about 2 minutes" in capsys.readouterr().out


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    """Catches an experiment that goes on after a failure, or hides what the command said."""
    assert run_command(tmp_path / "log", "true") >= 0
    with pytest.raises(OpenR1Error, match=r"(?s)`sh -c .*` ended with exit code 3; .*why it failed"):
        run_command(tmp_path / "log", "sh", "-c", "echo why it failed; exit 3")


def test_nothing_measured_is_trained_on(data: Path) -> None:
    """Catches a held-out problem in a training set, in any order of its numbers, of either task."""
    trained = {read_problem(row).key for task in TASKS for row in rows_of(data / f"{task}_train.jsonl")}
    measured = {name: {read_problem(row).key for row in rows_of(data / f"{name}.jsonl")} for name in BENCHMARKS}
    for name, keys in measured.items():
        assert keys.isdisjoint(trained), name
        assert len(keys) >= 20, name


def test_benchmarks_are_what_they_are_called(data: Path) -> None:
    """Catches larger numbers that training has, fewer or more than four numbers, another target, repeated prompts."""
    for task, largest in (("countdown", 10), ("game24", 13)):
        problems = {}
        for name in (f"{task}_train", task, f"{task}_larger", f"{task}_four"):
            rows = rows_of(data / f"{name}.jsonl")
            problems[name] = [read_problem(row) for row in rows]
            assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)
            assert {row["task"] for row in rows} == {task}
        assert max(max(problem.numbers) for name in (f"{task}_train", task) for problem in problems[name]) == largest
        assert all(largest < max(problem.numbers) <= 20 for problem in problems[f"{task}_larger"])
        counts = {name: {len(problem.numbers) for problem in found} for name, found in problems.items()}
        assert counts == {f"{task}_train": {3}, task: {3}, f"{task}_larger": {3}, f"{task}_four": {4}}
    assert {problem.target for problem in problems["game24"]} == {24}


@pytest.mark.parametrize("style", STYLES)
def test_traces_differ_by_their_dead_ends_alone(style: str, data: Path, tmp_path: Path) -> None:
    """Catches a trace that does not end in a solution, and styles that show as many attempts."""
    write_traces(data / "game24_train.jsonl", tmp_path / "t.jsonl", style, 400, 1)
    attempts = []
    for row in rows_of(tmp_path / "t.jsonl"):
        numbers = list(read_problem(row).numbers)
        expression = re.fullmatch(r"<think>.*</think>\n<answer>([0-9+*/() -]+)</answer>", row["response"], re.DOTALL)
        assert expression is not None
        assert sorted(map(int, re.findall(r"\d+", expression[1]))) == sorted(numbers)
        marks = re.findall(r" (yes|no)\b", row["response"])
        assert marks[-1] == "yes"
        assert "yes" not in marks[:-1]
        attempts.append(len(marks))
    # Attempts that repeat are drawn again and long searches are cut off, so that 4 is not met exactly.
    expected = {"short": (1.0, 1.0), "long": (2.6, 4.0)}[style]
    assert expected[0] <= np.mean(attempts) <= expected[1]


def test_traces_stay_within_their_budget(data: Path, tmp_path: Path) -> None:
    """Catches tokens counted without prompt, template or end token, and a row more than fits."""
    path = tmp_path / "t.jsonl"
    write_traces(data / "countdown_train.jsonl", path, "short", 40, 1)
    tokenizer = load_tokenizer(BASE)

    def tokens(row: dict[str, Any]) -> int:
        messages = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["response"]},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        return len(tokenizer.encode(text.removesuffix("\n"), add_special_tokens=False))

    costs = [tokens(row) for row in rows_of(path)]
    budget = sum(costs[:11]) + costs[11] - 1
    assert truncate_to_budget(path, BASE, budget) == sum(costs[:11])
    assert len(rows_of(path)) == 11


def test_steps_within_a_budget() -> None:
    """Catches a step beyond the budget, a run that ended too early, and generated tokens that are left out."""
    steps = [{"generated": 40 * step, "trained": 50 * step} for step in (1, 2, 3)]
    assert steps_within_budget(steps, 200) == steps[:2]
    assert steps_within_budget(steps, 270) == steps
    assert steps_within_budget(steps, 300) == steps
    with pytest.raises(OpenR1Error, match="3 steps spend less than 90% of 301 tokens"):
        steps_within_budget(steps, 301)
    with pytest.raises(OpenR1Error, match="the first step"):
        steps_within_budget(steps, 89)


def test_pairs_are_a_right_and_a_wrong_response(tmp_path: Path) -> None:
    """Catches pairs across groups of eight, responses that were cut off, and groups without a difference."""

    def sample(index: int, letter: str) -> Sample:
        return Sample(
            id="p",
            index=index,
            prompt="rendered",
            label="",
            response=f"{letter}{index}",
            num_tokens=1,
            truncated=letter == "t",
            extracted=None,
            verdict="",
            score=float(letter == "r"),
            error=None,
        )

    write_objects(tmp_path / "p.jsonl", [{"id": "p", "prompt": "asked"}])
    letters = "twwrwrww" + "wwwwwwww" + "rrrrrrrt" + "rrrrrrrw"
    sampled = {"p": [sample(index, letter) for index, letter in enumerate(letters)]}
    assert make_pairs(tmp_path / "p.jsonl", sampled) == [
        {"prompt": "asked", "chosen": "r3", "rejected": "w1"},
        {"prompt": "asked", "chosen": "r24", "rejected": "w31"},
    ]


def test_prompts_are_drawn_by_seed(tmp_path: Path) -> None:
    """Catches variants of one seed that see other prompts, and seeds that see the same."""
    write_objects(tmp_path / "p.jsonl", [{"id": str(index)} for index in range(100)])
    drawn = [
        rows_of(
            sample_prompts(RunContext(tmp_path / name, tmp_path, "countdown", seed), tmp_path / "p.jsonl", 10, "few")
        )
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({row["id"] for row in drawn[0]}) == 10


def test_intervals_know_of_problems_and_of_seeds() -> None:
    """Catches intervals over one of the two alone, by cases in which one of them does not vary."""
    assert mean_with_interval(np.full((3, 5), 0.25)) == (0.25, (0.25, 0.25))
    # Two seeds of 0 and 1: a resample has mean 0 or 1 with probability 1/4 each, so both lie within 95 %.
    assert mean_with_interval(np.array([[0.0] * 9, [1.0] * 9])) == (0.5, (0.0, 1.0))
    rng = np.random.default_rng(3)
    problems = rng.random(80)
    mean, (low, high) = mean_with_interval(np.stack([problems, problems, problems]))
    other = bootstrap((problems,), np.mean, method="percentile", n_resamples=4000, rng=rng).confidence_interval
    assert mean == pytest.approx(problems.mean())
    assert (low, high) == (pytest.approx(other.low, abs=0.01), pytest.approx(other.high, abs=0.01))


def test_tables_are_put_between_their_marks() -> None:
    """Catches prose that is lost, and a page without a place for a table."""
    text = "a\n<!-- t -->\nold\n<!-- end of t -->\nb\n"
    filled = "a\n<!-- t -->\n| x | y |\n|---|---|\n| 1 | 2 |\n<!-- end of t -->\nb\n"
    assert fill_table(text, "t", [["x", "y"], ["1", "2"]]) == filled
    assert fill_table(filled, "t", [["x", "y"], ["1", "2"]]) == filled
    with pytest.raises(ConfigError, match="no marks for `u`"):
        fill_table(text, "u", [["x"]])


def test_variants_without_results_are_left_out(tmp_path: Path) -> None:
    """Catches a page that needs every variant, and one that hides a seed that failed."""
    for name in ("countdown-base", "countdown-grpo"):
        for seed in (1, 2, 3):
            (tmp_path / f"{name}-seed{seed}.json").write_text(json.dumps({"name": name}))
    assert list(read_runs(tmp_path, "countdown")) == ["base", "grpo"]
    (tmp_path / "countdown-base-seed2.json").unlink()
    with pytest.raises(ConfigError, match=r"countdown-base-seed2\.json is missing"):
        read_runs(tmp_path, "countdown")
    with pytest.raises(ConfigError, match=r"game24-grpo-seed1\.json is missing"):
        read_runs(tmp_path, "game24")


def test_page_shows_the_results_that_are_kept(tmp_path: Path) -> None:
    """Catches a table that was edited by hand, and results that changed after the page was written."""
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write_page(ROOT / "experiments/results/sft_vs_rl", page)
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("way", log_prob_memory.IMPLEMENTATIONS)
def test_log_probs_are_measured(way: str) -> None:
    """Catches a measurement that can no longer be made. 8 tokens of so many random logits: about 8 ln 151,936 = 95."""
    assert log_prob_memory.measure(way, 8)["sum"] == pytest.approx(-8 * math.log(151_936), rel=0.1)


def test_performance_page_shows_the_results_that_are_kept(tmp_path: Path) -> None:
    """Catches figures that were edited by hand, and results that changed after the page was written."""
    page = tmp_path / "performance.md"
    page.write_text(performance.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    performance.write_page(performance.RESULTS, page)
    assert page.read_text(encoding="utf-8") == performance.PAGE.read_text(encoding="utf-8"), "run: make bench"


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    """Catches a benchmark that vanishes from the page where it failed, and a figure under another's name."""
    kept = {"machine": {"cores": 2, "cpu": "X", "commit": "0123456789", "date": "2026-01-02"}, "tokens": 4096}
    kept |= {"vocabulary": 1000, "chunked": {"gib": 1.5}, "naive": {"gib": 6.0}}
    (tmp_path / "log_prob_memory.json").write_text(json.dumps(kept))
    rows = {row[1]: row[2:4] for row in performance.table(tmp_path)[1:]}
    assert rows.pop("`python -m benchmarks.log_prob_memory`") == [
        "4,096 tokens of a vocabulary of 1,000: 1.5 GiB, versus 6.0 GiB for all logits at once",
        "2 cores, X; 0123456, 2026-01-02",
    ]
    assert len(rows) == len(performance.BENCHMARKS) - 1
    assert set(map(tuple, rows.values())) == {("not measured", "")}


def test_lengths_of_the_comparison_with_trl() -> None:
    """Catches a mix that is drawn anew each time, and one without the long tail that it is named for."""
    assert response_lengths("equal", 3) == [90, 90, 90]
    skewed = response_lengths("skewed", 256)
    assert skewed == response_lengths("skewed", 256)
    assert np.median(skewed) == pytest.approx(60, abs=1)
    assert skewed != sorted(skewed)
    assert max(skewed) == 600
    assert min(skewed) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft_then_grpo", "dpo", "grpo_band"])
def test_variants_run_for_real(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a variant whose commands no longer fit together, or that spends more, or much less, than its budget."""
    monkeypatch.setattr(sft_vs_rl_variants, "GRPO_STEPS", 6)
    monkeypatch.setattr(sft_vs_rl_variants, "NUM_GROUPS", 160)
    monkeypatch.setattr(sft_vs_rl_variants, "NUM_CANDIDATES", 200)
    (tmp_path / "data").symlink_to(data)
    (tmp_path / "base").mkdir()
    (tmp_path / "base/model").symlink_to(BASE)
    budget = 140_000 if name == "sft_then_grpo" else 90_000
    variant = {"sft_then_grpo": sft_then_grpo, "dpo": dpo, "grpo_band": grpo_band}[name]
    trained = variant(RunContext(tmp_path / "run", tmp_path, "countdown", 1), budget)
    spent = sum(stage["generated"] + stage["trained"] for stage in trained.stages)
    assert 0.6 * budget < spent <= 1.02 * budget
    assert (trained.model / "model.safetensors").exists()


def test_page_of_algorithms_shows_the_results_that_are_kept(tmp_path: Path) -> None:
    """Catches a table that was edited by hand, and results that changed after the page was written."""
    page = tmp_path / "page.md"
    page.write_text(algorithms.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    algorithms.write_page(ROOT / "experiments/results/algorithms", page)
    assert page.read_text(encoding="utf-8") == algorithms.PAGE.read_text(encoding="utf-8")


def test_curves_are_means_by_step() -> None:
    """Catches a curve that goes on with the seeds that have more steps, and tokens of one kind alone."""
    one = [{"generated": 1, "trained": 3, "accuracy": 0.2}, {"generated": 2, "trained": 6, "accuracy": 0.4}]
    other = [{"generated": 3, "trained": 5, "accuracy": 0.6}]
    assert mean_curve([one, other]) == ([6.0], [pytest.approx(0.4)])


def test_variants_of_algorithms_are_valid(tmp_path: Path) -> None:
    """Catches a misspelt key, and settings that a run would refuse, before hours of runs."""
    for variants, baseline in algorithms.TABLES.values():
        assert baseline in variants
        for settings in variants.values():
            words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
            check_train(load_config(TrainConfig, ROOT / "experiments/configs/grpo.yaml", words))
