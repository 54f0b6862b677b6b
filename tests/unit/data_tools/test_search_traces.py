"""24-game problems are solvable and split for good; search traces are true, graded as right, and of their style."""

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from itertools import combinations, combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest

from data.generate import game24
from data.generate.countdown import Problem, ProblemSpace
from data.generate.game24 import (
    SPACES,
    TraceOptions,
    check_row,
    draw_search,
    main,
    make_problem_sampler,
    solvable_problems,
)
from data.generate.search_traces import STYLES, Trace, can_reach, draw_trace
from openr1.errors import ConfigError, OpenR1Error
from reward_server.components.steps import find_steps
from reward_server.scoring import get_score
from reward_server.tasks import find_task

TWIN = ["--counts", "3", "--largest", "9"]
DEAD_ENDS = {"short": (0, 1), "medium": (2, 5), "long": (6, 15)}
STEP = re.compile(r"(\S+) ([-+*/]) (\S+) = (\S+), left: (.+?)(?:\. (Target reached)\.|\. Not (\d+)\. Back to: (.+))?")


def results(x: Any, y: Any) -> list[Any]:
    """Everything that two numbers make, of whatever kind they are."""
    return [x + y, x - y, y - x, x * y, *([x / y] if y else []), *([y / x] if x else [])]


@cache
def made_from(numbers: tuple[int, ...]) -> tuple[float, ...]:
    """Values of all expressions of the numbers, by splitting them in two in every way."""
    if len(numbers) == 1:
        return (float(numbers[0]),)
    values: set[float] = set()
    for left, right in splits(numbers):
        values.update(value for x in made_from(left) for y in made_from(right) for value in results(x, y))
    return tuple(values)


def splits(numbers: tuple[int, ...]) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Ways to part the numbers in two; each part keeps the order."""
    halves = [half for size in range(1, len(numbers) // 2 + 1) for half in combinations(range(len(numbers)), size)]
    return {
        (
            tuple(numbers[index] for index in half),
            tuple(number for index, number in enumerate(numbers) if index not in half),
        )
        for half in halves
    }


def has_solution(numbers: tuple[int, ...]) -> bool:
    """Whether the numbers make 24; in floats, whose errors are far below the least distance of a fraction from 24."""
    return any(
        abs(value - 24) < 1e-6
        for left, right in splits(numbers)
        for x in made_from(left)
        for y in made_from(right)
        for value in results(x, y)
    )


@cache
def reachable(numbers: tuple[Fraction, ...]) -> frozenset[Fraction]:
    """Every value that all the numbers make, negative ones on the way included; by trying everything."""
    if len(numbers) == 1:
        return frozenset(numbers)
    values: set[Fraction] = set()
    for first, second in combinations(range(len(numbers)), 2):
        rest = [number for index, number in enumerate(numbers) if index not in (first, second)]
        for value in results(numbers[first], numbers[second]):
            values |= reachable(tuple(sorted([*rest, value])))
    return frozenset(values)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_problems(folder: Path, seed: int, *options: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train and held-out problems that the command writes."""
    argv = ["problems", "--output", str(folder), "--seed", str(seed), "--train", "30", "--held-out", "8"]
    assert main([*argv, *options]) == 0
    return read_rows(folder / "train.jsonl"), read_rows(folder / "held_out.jsonl")


def write_traces(path: Path, style: str, *options: str, count: int = 40) -> list[dict[str, Any]]:
    """Traces that the command writes."""
    assert main(["traces", "--output", str(path), "--count", str(count), "--style", style, *options]) == 0
    return read_rows(path)


def problem_of(row: dict[str, Any]) -> tuple[tuple[int, ...], int]:
    """Numbers in ascending order, and the target."""
    label = json.loads(row["label"])
    return tuple(sorted(label["numbers"])), label["target"]


def thinking(row: dict[str, Any]) -> list[str]:
    """Lines of the reasoning; the rest of the response must be one answer."""
    match = re.fullmatch(r"<think>(.*)</think>\n<answer>[-+*/() 0-9]+</answer>", row["response"], re.DOTALL)
    assert match is not None
    return match[1].split("\n") if match[1] else []


def exit_code(argv: list[str]) -> int:
    """What the command ends with, whether it returns or exits."""
    try:
        return main(argv)
    except SystemExit as exited:
        return exited.code if isinstance(exited.code, int) else 1


# Solvability


def test_solvable_hands_of_four_cards() -> None:
    """Catches a search that misses solutions, fractions above all, or finds false ones: 1,362 of 1,820 exist."""
    hands = list(combinations_with_replacement(range(1, 14), 4))
    assert len(hands) == 1820
    assert [hand for hand in hands if can_reach(hand, 24)] == [hand for hand in hands if has_solution(hand)]
    assert len(solvable_problems(SPACES["game24"])) == 1362


@pytest.mark.parametrize(
    ("numbers", "solvable"),
    [
        ((2, 3, 4, 6), True),  # 4 * 3 + 2 * 6
        ((3, 3, 8, 8), True),  # 8 / (3 - 8 / 3), and nothing without fractions
        ((1, 3, 4, 6), True),  # 6 / (1 - 3 / 4)
        ((1, 1, 1, 1), False),  # at most 4
        ((13, 13, 13, 13), False),
        ((3, 3, 9), True),  # 9 * 3 - 3
    ],
)
def test_known_hands(numbers: tuple[int, ...], solvable: bool) -> None:
    """Catches whole-number division, and a wrong order of the operands in a quotient."""
    assert can_reach(numbers, 24) is solvable


# Problems


def test_no_seed_mixes_train_and_held_out(tmp_path: Path) -> None:
    """Catches a split by drawing, with which another seed trains on the first one's held-out problems."""
    sides = [write_problems(tmp_path / str(seed), seed, *TWIN) for seed in range(5)]
    traces = [write_traces(tmp_path / style, style, *TWIN, count=200) for style in DEAD_ENDS]
    train = {problem_of(row) for rows in ([rows for rows, _ in sides] + traces) for row in rows}
    held_out = {problem_of(row) for _, rows in sides for row in rows}
    assert not train & held_out
    for rows in (rows for side in sides for rows in side):
        assert len({problem_of(row) for row in rows}) == len(rows) == len({row["id"] for row in rows})


def test_problem_rows(tmp_path: Path) -> None:
    """Catches an unsolvable problem, a label that the grader cannot read, and a prompt with other numbers."""
    train, held_out = write_problems(tmp_path, 0, "--counts", "3", "4", "--smallest", "2", "--largest", "10")
    for row in train + held_out:
        numbers, target = problem_of(row)
        assert target == 24
        assert has_solution(numbers)
        assert 2 <= numbers[0] <= numbers[-1] <= 10
        assert row["task"] == "game24"
        assert row["id"] == f"game24-{'-'.join(map(str, numbers))}=24"
        assert row["meta"] == {"count": len(numbers), "wording": "en"}
        assert get_score(find_task("game24"), "", row["label"]).verdict == "no_answer"
        in_prompt = [int(number) for number in re.findall(r"\d+", row["prompt"])]
        assert in_prompt == [*json.loads(row["label"])["numbers"], 24]
    orders = [json.loads(row["label"])["numbers"] for row in train]
    assert any(numbers != sorted(numbers) for numbers in orders)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("problems --train 500 --counts 3 --largest 9", "problems for train, 500 requested"),
        ("problems --largest 21", "--largest <= 20"),
        ("problems --smallest 9 --largest 8", "--smallest <= --largest"),
        ("traces --count 5 --style long --largest 1", "make 24"),
        ("traces --count 5 --style long --target-largest 30", "--task countdown"),
        ("traces --count 5 --style long --task countdown --target-smallest 0", "1 <= --target-smallest"),
        # 99, 99, 99 make 98 and 99 within the bounds of Countdown steps, and no target.
        ("traces --count 5 --style long --task countdown --counts 3 --smallest 99 --target-largest 20", "no problem"),
    ],
)
def test_impossible_wishes(tmp_path: Path, capsys: pytest.CaptureFixture[str], wish: str, message: str) -> None:
    """Catches an endless search for problems that do not exist, fewer rows than asked for, and half a dataset."""
    assert exit_code([*wish.split(), "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# Traces


@dataclass
class Search:
    """What a trace says that was done."""

    steps: int = 0
    dead_ends: int = 0
    entered: list[tuple[Fraction, ...]] = field(default_factory=list)
    given_up: list[tuple[Fraction, ...]] = field(default_factory=list)


def read_numbers(text: str) -> tuple[Fraction, ...]:
    """Numbers between commas; fractions stand in brackets."""
    texts = text.split(", ")
    assert all(re.fullmatch(r"\d+|\(\d+/\d+\)", number) for number in texts), text
    return tuple(Fraction(number.strip("()")) for number in texts)


def follow(lines: list[str], numbers: list[int], target: int) -> Search:
    """Do what the lines say, from the text alone; every step, state, verdict and return is checked."""
    assert lines[0] == f"Numbers: {', '.join(map(str, numbers))}. Target: {target}."
    operations: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
        "+": lambda x, y: x + y,
        "-": lambda x, y: x - y,
        "*": lambda x, y: x * y,
        "/": lambda x, y: x / y,
    }
    search = Search()
    stack = [tuple(map(Fraction, numbers))]
    for line in lines[1:]:
        match = STEP.fullmatch(line)
        assert match is not None, line
        left, sign, right, result, after, reached, missed, back = match.groups()
        (x,), (y,), (value,) = map(read_numbers, (left, right, result))
        assert operations[sign](x, y) == value, line
        at_hand = Counter(stack[-1])
        at_hand.subtract([x, y])
        assert min(at_hand.values()) >= 0, line
        at_hand[value] += 1
        stack.append(read_numbers(after))
        assert Counter(at_hand.elements()) == Counter(stack[-1]), line
        search.steps += 1
        if len(stack[-1]) > 1:
            assert (reached, missed) == (None, None), line
            search.entered.append(tuple(sorted(stack[-1])))
            continue
        if reached:
            assert list(stack[-1]) == [target]
            assert line is lines[-1]
            return search
        assert missed == str(target)
        assert list(stack.pop()) != [target]
        search.dead_ends += 1
        while stack[-1] != read_numbers(back):
            search.given_up.append(tuple(sorted(stack.pop())))
    raise AssertionError("the search ends without a solution")


@pytest.mark.parametrize("style", sorted(DEAD_ENDS))
@pytest.mark.parametrize("options", [[], TWIN, ["--task", "countdown"], ["--no-shuffle"]], ids=" ".join)
def test_traces_are_true(tmp_path: Path, style: str, options: list[str]) -> None:
    """Catches false arithmetic, a number used twice, a return to a state that was not left, and too many dead ends."""
    for row in write_traces(tmp_path / "traces", style, *options):
        label = json.loads(row["label"])
        search = follow(thinking(row), label["numbers"], label["target"])
        least, most = DEAD_ENDS[style]
        assert least <= search.dead_ends <= most
        assert len(set(search.entered)) == len(search.entered)


def test_no_branch_with_a_solution_is_given_up(tmp_path: Path) -> None:
    """Catches a search that turns back from where it would have succeeded: it teaches not to look closely."""
    given_up = []
    for row in write_traces(tmp_path / "traces", "long", "--counts", "3", "4"):
        label = json.loads(row["label"])
        given_up += follow(thinking(row), label["numbers"], label["target"]).given_up
    assert {len(state) for state in given_up} == {2, 3}
    assert [state for state in given_up if 24 in reachable(state)] == []


@pytest.mark.parametrize("task", ["game24", "countdown"])
def test_grader_agrees(tmp_path: Path, task: str) -> None:
    """Catches steps in a form that the grader does not read, and an answer that it takes for another."""
    expected = {"game24": {"outcome": 1.0, "process": 1.0}, "countdown": {"format": 1.0, "equation": 1.0}}[task]
    fractions = 0
    for row in write_traces(tmp_path / "traces", "long", "--task", task):
        score = get_score(find_task(row["task"]), row["response"], row["label"])
        assert expected.items() <= dict(score.components).items()
        lines = thinking(row)
        assert [step.correct for step in find_steps("\n".join(lines))] == [True] * (len(lines) - 1)
        fractions += sum("/3)" in line for line in lines)
    # Fractions are where the grader's form of a step is easily missed.
    assert fractions > 0


def test_dead_ends_of_one_and_two() -> None:
    """Catches a result that is left out or told twice, and one that is told in a form of its own.

    1 and 2 make 3, 1, 2 (by * or by /) and 1/2.
    """
    (numbers, *misses, hit) = draw_trace(Problem((1, 2), 3), 15, random.Random(0)).lines()
    assert numbers == "Numbers: 1, 2. Target: 3."
    assert hit == "1 + 2 = 3, left: 3. Target reached."
    back = ". Not 3. Back to: 1, 2"
    twos = {f"1 * 2 = 2, left: 2{back}", f"2 / 1 = 2, left: 2{back}"}
    assert len(misses) == 3
    assert len(twos & set(misses)) == 1
    assert set(misses) - twos == {f"2 - 1 = 1, left: 1{back}", f"1 / 2 = (1/2), left: (1/2){back}"}


def test_styles_differ_in_length(tmp_path: Path) -> None:
    """Catches styles of one length, with which no effect of length can be studied."""
    lengths = {}
    for style in DEAD_ENDS:
        rows = write_traces(tmp_path / style, style, count=100)
        lengths[style] = sum(len(row["response"]) for row in rows)
    assert lengths["short"] < lengths["medium"] < lengths["long"]


def test_order_of_the_numbers(tmp_path: Path) -> None:
    """Catches numbers that always ascend, from which a model learns the order, and a --no-shuffle without effect."""
    shuffled, sorted_ = (
        [json.loads(row["label"])["numbers"] for row in write_traces(tmp_path / "traces", "short", *options)]
        for options in ([], ["--no-shuffle"])
    )
    assert all(numbers == sorted(numbers) for numbers in sorted_)
    assert sum(numbers != sorted(numbers) for numbers in shuffled) > 20


def test_ablations_are_of_the_same_searches(tmp_path: Path) -> None:
    """Catches ablations that differ in their problems or answers, so that a comparison measures those."""
    full, path, answer, shuffled = (
        write_traces(tmp_path / name, "medium", "--ablation", name)
        for name in ("full", "no-dead-ends", "answer-only", "shuffled-steps")
    )
    moved = 0
    for rows in zip(full, path, answer, shuffled, strict=True):
        assert len({(row["prompt"], row["response"].partition("</think>")[2]) for row in rows}) == 1
        lines, solution, nothing, mixed = map(thinking, rows)
        numbers = json.loads(rows[1]["label"])["numbers"]
        assert follow(solution, numbers, 24).dead_ends == 0
        assert len(solution) == len(numbers)
        assert [line for line in lines if line in solution] == solution
        assert nothing == []
        assert rows[2]["response"].startswith("<think></think>\n<answer>")
        assert Counter(mixed) == Counter(lines)
        moved += mixed != lines
    assert moved >= 38


def test_the_same_arguments_write_the_same_bytes(tmp_path: Path) -> None:
    """Catches rows that depend on anything but the arguments, and a seed without effect."""
    written = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        write_traces(tmp_path / f"{name}.jsonl", "medium", "--seed", seed)
        write_problems(tmp_path / name, int(seed), *TWIN)
        files = (f"{name}.jsonl", f"{name}.stats.json", f"{name}/train.jsonl", f"{name}/held_out.jsonl")
        written.append([(tmp_path / file).read_bytes() for file in files])
    assert written[0] == written[1]
    assert all(first != other for first, other in zip(written[0], written[2], strict=True))
    longer = write_traces(tmp_path / "longer", "medium", "--seed", "1", count=50)
    assert longer[:40] == read_rows(tmp_path / "a.jsonl")


def test_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches statistics of something other than the file, and ones that are printed but not kept."""
    rows = write_traces(tmp_path / "traces.jsonl", "medium", "--counts", "3", "4", "--largest", "6")
    printed = capsys.readouterr().out
    stats = json.loads((tmp_path / "traces.stats.json").read_text(encoding="utf-8"))
    lengths = sorted(len(row["response"]) for row in rows)
    problems = {problem_of(row) for row in rows}
    shares = {
        f"problems_with_{count}_numbers": sum(len(numbers) == count for numbers, _ in problems) / len(problems)
        for count in (3, 4)
    }
    # Problems that stand twice and both counts are in it, so that the shares are of problems and not of rows.
    assert len(problems) < 40
    assert min(shares.values()) > 0
    assert stats == {
        "rows": 40,
        "characters_mean": sum(lengths) / 40,
        "characters_median": (lengths[19] + lengths[20]) / 2,
        "characters_max": lengths[39],
        "dead_ends_mean": sum(row["response"].count("Not 24") for row in rows) / 40,
        "steps_mean": sum(row["response"].count("left:") for row in rows) / 40,
        "distinct_problems": len(problems),
        **shares,
    }
    assert [name for name in stats if name not in printed] == []


def test_statistics_of_what_is_not_shown(tmp_path: Path) -> None:
    """Catches statistics of the search where the rows show none of it."""
    stats = {}
    for ablation in ("answer-only", "no-dead-ends", "shuffled-steps"):
        write_traces(tmp_path / ablation, "long", "--ablation", ablation)
        stats[ablation] = json.loads((tmp_path / f"{ablation}.stats.json").read_text(encoding="utf-8"))
    shown = {name: (each["dead_ends_mean"], each["steps_mean"]) for name, each in stats.items()}
    # Four numbers become one in three steps.
    assert shown["answer-only"] == (0, 0)
    assert shown["no-dead-ends"] == (0, 3)
    assert shown["shuffled-steps"] >= (6, 9)


# What the generator refuses to write


def test_wrong_answer_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a faulty search whose rows would teach a model to be wrong, and the half of a file before it."""
    other = draw_trace(Problem((4, 2, 6, 3), 24), 0, random.Random(0))

    def draw_wrong(problem: Problem, dead_ends: int, rng: random.Random) -> Trace:
        drawn = draw_trace(problem, dead_ends, rng)
        return drawn if rng.random() < 0.5 else replace(other, problem=problem)

    monkeypatch.setattr(game24, "draw_trace", draw_wrong)
    argv = ["traces", "--output", str(tmp_path / "traces"), "--count", "30", "--style", "short", "--counts", "3"]
    assert exit_code(argv) == 4
    printed = capsys.readouterr().err
    assert "is graded wrong" in printed
    assert printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback for a path that leads through a file."""
    (tmp_path / "file").touch()
    argv = ["traces", "--output", str(tmp_path / "file/traces"), "--count", "1", "--style", "short", *TWIN]
    assert exit_code(argv) == 3
    printed = capsys.readouterr().err
    assert str(tmp_path / "file") in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("step", ["4 * 3 = 13", "4 * 5 = 20"])
def test_wrong_step_is_not_written(step: str) -> None:
    """Catches a check of the answer alone: the first step is false, the second uses a number that is not there."""
    problem = Problem((4, 2, 6, 3), 24)
    response = f"<think>{step}\n4 * 3 = 12</think>\n<answer>(4 * 3) + (2 * 6)</answer>"
    row: dict[str, object] = {"id": "trace-0", "task": "game24", "label": '{"numbers": [4, 2, 6, 3]}'}
    check_row({**row, "response": response}, problem, steps_in_order=False)
    with pytest.raises(OpenR1Error, match="wrong steps"):
        check_row({**row, "response": response}, problem, steps_in_order=True)


def test_problems_with_too_few_dead_ends_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches long traces that are short, and an endless search for a problem that can have a long one.

    2 and 2 make 4, 0 and 1. From 2, 2, 2 to 8 there are thus 2 dead ends with 2 and 0 left (2 and 0), 4 with 2 and 1
    (3, 1, 2 and 1/2), and 3 with 2 and 4 (6, 2 and 1/2) beside the solution.
    """
    options = TraceOptions("countdown", "long", "full", "short")
    problem = Problem((2, 2, 2), 8)
    draws = [draw_search(lambda _: problem, options, random.Random(seed)).dead_ends for seed in range(50)]
    assert max(draws) == 9
    assert min(draws) >= 6
    monkeypatch.setitem(STYLES, "long", replace(STYLES["long"], min_dead_ends=10))
    with pytest.raises(ConfigError, match="10 dead ends"):
        draw_search(lambda _: problem, options, random.Random(0))


def test_held_out_problems_are_passed_over() -> None:
    """Catches traces of the held-out side of Countdown, whose problems are drawn on both sides."""
    space = ProblemSpace((3,), 1, 9, 10, 40)
    rng = random.Random(0)
    options = TraceOptions("countdown", "short", "full", "short")
    draw = make_problem_sampler("countdown", space)
    assert any(draw(rng).held_out for _ in range(100))
    assert not any(draw_search(draw, options, rng).problem.held_out for _ in range(100))
