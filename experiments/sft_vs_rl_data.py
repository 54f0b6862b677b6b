"""What the comparison of SFT and RL trains on and is measured on: problems of Countdown and of the 24 game, and traces.

All problems have a solution in whole numbers up to 99. What is measured is held out of everything, the base model's
training included.
"""

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.generate.countdown import (
    LARGEST_VALUE,
    Problem,
    ProblemSpace,
    TraceStyle,
    draw_problems,
    draw_trace,
    draw_traces,
    problem_row,
    solve,
)
from data.generate.game24 import TARGET, shuffle_numbers, solvable_problems
from openr1.files import read_objects, write_objects
from reward_server.scoring import get_score
from reward_server.tasks import find_task

SEED = 7
WORDING = "short"
SIZE = 150
"""Prompts of each benchmark."""
NUM_TRAIN = 2000
DRAWS_OF_AN_ORDER = 24
TRIES = 3000
"""Random attempts after which a problem is taken to have no solution in whole numbers."""
STYLES = {"short": TraceStyle(hit=1.0, give_up=0.0), "long": TraceStyle(hit=0.25, give_up=0.0)}
"""Supervised traces: the solution at once; a search, of three attempts on average, that finds it."""

BASE_MIXTURE = (
    (24_000, ProblemSpace((3,), 1, 10, 1, LARGEST_VALUE)),
    (14_000, ProblemSpace((3,), 1, 20, 1, LARGEST_VALUE)),
    (14_000, ProblemSpace((4,), 1, 13, 1, LARGEST_VALUE)),
)
"""Traces that the base model learns: a little of all that is measured, but for the held-out problems themselves."""
BASE_SKILL, BASE_BLUR = TraceStyle(hit=0.5, give_up=0.0), TraceStyle(hit=0.35, give_up=0.55)
BASE_SKILL_FRACTION = 0.6
LARGEST = 20


@dataclass(frozen=True)
class Task:
    """Where training takes place; and with four numbers instead of three."""

    name: str
    train: ProblemSpace
    four: ProblemSpace

    def spaces(self) -> dict[str, tuple[ProblemSpace, bool]]:
        """The space of each file, and whether its problems need a number that is larger than all in training."""
        return {
            f"{self.name}_train": (self.train, False),
            self.name: (self.train, False),
            f"{self.name}_larger": (replace(self.train, largest=LARGEST), True),
            f"{self.name}_four": (self.four, False),
        }


TASKS = {
    "countdown": Task(
        "countdown", ProblemSpace((3,), 1, 10, 1, LARGEST_VALUE), ProblemSpace((4,), 1, 10, 1, LARGEST_VALUE)
    ),
    "game24": Task("game24", ProblemSpace((3,), 1, 13, TARGET, TARGET), ProblemSpace((4,), 1, 13, TARGET, TARGET)),
}
BENCHMARKS = tuple(f"{task}{kind}" for task in TASKS for kind in ("", "_larger", "_four"))


def write_base_traces(output: Path) -> None:
    """Write what the base model is trained on, in this order: the parts of the mixture side by side."""
    rows = []
    for count, space in BASE_MIXTURE:
        rng = random.Random(f"base-{count}-{space}")
        traces = draw_traces(space, count, BASE_SKILL_FRACTION, BASE_SKILL, BASE_BLUR, rng, WORDING)
        rows += [(index / count, trace) for index, trace in enumerate(traces)]
    rows.sort(key=lambda row: row[0])
    write_objects(output, [trace for _, trace in rows])


def write_data(folder: Path) -> None:
    """Write `TASK_train.jsonl`, and the benchmarks; the same files every time."""
    rng = random.Random(SEED)
    for task in TASKS.values():
        for name, (space, larger) in task.spaces().items():
            training = name.endswith("_train")
            draw = _countdown if task.name == "countdown" else _game24
            rows = draw(space, not training, NUM_TRAIN if training else SIZE, task.train.largest * larger, rng)
            print(f"{folder / name}.jsonl: {write_objects(folder / f'{name}.jsonl', rows)} prompts")


def _countdown(space: ProblemSpace, held_out: bool, size: int, above: int, rng: random.Random) -> list[dict[str, Any]]:
    """Rows of problems that have a number above `above`."""
    problems = draw_problems(space, size if above == 0 else 4 * size, held_out, rng)
    return [problem_row(problem, WORDING) for problem in problems if max(problem.numbers) > above][:size]


def _game24(space: ProblemSpace, held_out: bool, size: int, above: int, rng: random.Random) -> list[dict[str, Any]]:
    """The same. There are few such games: each is asked in several orders of its numbers, as far as there is room."""
    games = [game for game in solvable_problems(space) if game.held_out == held_out and max(game.numbers) > above]
    rng.shuffle(games)
    games = [game for game in games if _has_whole_solution(game, rng)]
    asked = dict.fromkeys(shuffle_numbers(game, rng).numbers for _ in range(DRAWS_OF_AN_ORDER) for game in games)
    rows = []
    for numbers in list(asked)[:size]:
        row = problem_row(Problem(numbers, TARGET), WORDING, "game24")
        rows.append(row | {"id": f"{row['id']}/{'-'.join(map(str, numbers))}"})
    return rows


def _has_whole_solution(problem: Problem, rng: random.Random) -> bool:
    try:
        solve(problem, rng, TRIES)
    except ValueError:
        return False
    return True


def read_problem(row: dict[str, Any]) -> Problem:
    """The problem that a row asks."""
    label = json.loads(row["label"])
    return Problem(tuple(label["numbers"]), label["target"])


def write_traces(prompts: Path, output: Path, style: str, count: int, seed: int) -> None:
    """Write supervised rows for the prompts of a file: an epoch after the other, each with new traces, all right."""
    rng = random.Random(f"{style}-{seed}")
    rows = [row for _, row in read_objects(prompts)]
    traces = []
    for index in range(count):
        if index % len(rows) == 0:
            rng.shuffle(rows)
        row = rows[index % len(rows)]
        traces.append(row | {"id": f"trace-{index}", "response": _right_trace(row, style, rng)})
    write_objects(output, traces)


def _right_trace(row: dict[str, Any], style: str, rng: random.Random) -> str:
    """A trace that the task's grader finds right; a search that ran out of attempts is drawn again."""
    problem = read_problem(row)
    solution = solve(problem, rng)
    while True:
        response = draw_trace(problem, solution, STYLES[style], rng)
        if get_score(find_task(row["task"]), response, row["label"]).score == 1:
            return response
