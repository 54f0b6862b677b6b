"""Datasets of the comparison of SFT and RL: training and benchmark problems of Countdown and the 24 game, and traces.

All problems have a solution with integers up to 99. Benchmark problems are held out of all training, including the
training of the base model.
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
from openr1.runtime.files import read_objects, write_objects
from reward_server.scoring import get_score
from reward_server.tasks import find_task

SEED = 7
WORDING = "short"
BENCHMARK_SIZE = 150
"""Number of prompts of each benchmark."""
NUM_TRAIN = 2000
ORDERS_PER_GAME = 24
MAX_SOLVE_ATTEMPTS = 3000
"""Number of random attempts after which a problem is assumed to have no integer solution."""
STYLES = {"short": TraceStyle(hit=1.0, give_up=0.0), "long": TraceStyle(hit=0.25, give_up=0.0)}
"""Supervised traces: only the solution, or a successful search of three attempts on average."""

BASE_MIXTURE = (
    (24_000, ProblemSpace((3,), 1, 10, 1, LARGEST_VALUE)),
    (14_000, ProblemSpace((3,), 1, 20, 1, LARGEST_VALUE)),
    (14_000, ProblemSpace((4,), 1, 13, 1, LARGEST_VALUE)),
)
"""Numbers of traces for the base model: some of every kind of problem that is evaluated, none of them held out."""
BASE_SKILL_STYLE, BASE_GIVE_UP_STYLE = TraceStyle(hit=0.5, give_up=0.0), TraceStyle(hit=0.35, give_up=0.55)
BASE_SKILL_FRACTION = 0.6
LARGEST = 20


@dataclass(frozen=True)
class Task:
    """Problem space of training, and the corresponding space with four numbers instead of three."""

    name: str
    train: ProblemSpace
    four: ProblemSpace

    def spaces(self) -> dict[str, tuple[ProblemSpace, bool]]:
        """Return the space of each file, and whether its problems need a number larger than any in training."""
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
    """Write the training traces of the base model, with the parts of the mixture interleaved, to be read in order."""
    rows = []
    for count, space in BASE_MIXTURE:
        rng = random.Random(f"base-{count}-{space}")
        traces = draw_traces(space, count, BASE_SKILL_FRACTION, BASE_SKILL_STYLE, BASE_GIVE_UP_STYLE, rng, WORDING)
        rows += [(index / count, trace) for index, trace in enumerate(traces)]
    rows.sort(key=lambda row: row[0])
    write_objects(output, [trace for _, trace in rows])


def write_datasets(folder: Path) -> None:
    """Write `TASK_train.jsonl` and the benchmarks, deterministically."""
    rng = random.Random(SEED)
    for task in TASKS.values():
        for name, (space, larger) in task.spaces().items():
            training = name.endswith("_train")
            draw = _countdown_rows if task.name == "countdown" else _game24_rows
            rows = draw(
                space, not training, NUM_TRAIN if training else BENCHMARK_SIZE, task.train.largest * larger, rng
            )
            print(f"{folder / name}.jsonl: {write_objects(folder / f'{name}.jsonl', rows)} prompts")


def _countdown_rows(
    space: ProblemSpace, held_out: bool, size: int, above: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Return rows of problems with a number above `above`."""
    problems = draw_problems(space, size if above == 0 else 4 * size, held_out, rng)
    return [problem_row(problem, WORDING) for problem in problems if max(problem.numbers) > above][:size]


def _game24_rows(
    space: ProblemSpace, held_out: bool, size: int, above: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Return rows of 24 games with a number above `above`.

    There are few such games, so each occurs in several orders of its numbers, up to `size` rows in total.
    """
    games = [game for game in solvable_problems(space) if game.held_out == held_out and max(game.numbers) > above]
    rng.shuffle(games)
    games = [game for game in games if _has_integer_solution(game, rng)]
    orders = dict.fromkeys(shuffle_numbers(game, rng).numbers for _ in range(ORDERS_PER_GAME) for game in games)
    rows = []
    for numbers in list(orders)[:size]:
        row = problem_row(Problem(numbers, TARGET), WORDING, "game24")
        rows.append(row | {"id": f"{row['id']}/{'-'.join(map(str, numbers))}"})
    return rows


def _has_integer_solution(problem: Problem, rng: random.Random) -> bool:
    try:
        solve(problem, rng, MAX_SOLVE_ATTEMPTS)
    except ValueError:
        return False
    return True


def read_problem(row: dict[str, Any]) -> Problem:
    """Return the problem of a row."""
    label = json.loads(row["label"])
    return Problem(tuple(label["numbers"]), label["target"])


def write_traces(prompts: Path, output: Path, style: str, count: int, seed: int) -> None:
    """Write `count` supervised rows for the prompts of a file, epoch by epoch, each with new and correct traces."""
    rng = random.Random(f"{style}-{seed}")
    rows = [row for _, row in read_objects(prompts)]
    traces = []
    for index in range(count):
        if index % len(rows) == 0:
            rng.shuffle(rows)
        row = rows[index % len(rows)]
        traces.append(row | {"id": f"trace-{index}", "response": _correct_trace(row, style, rng)})
    write_objects(output, traces)


def _correct_trace(row: dict[str, Any], style: str, rng: random.Random) -> str:
    """Return a trace that the grader accepts; searches that ran out of attempts are sampled again."""
    problem = read_problem(row)
    solution = solve(problem, rng)
    while True:
        response = draw_trace(problem, solution, STYLES[style], rng)
        if get_score(find_task(row["task"]), response, row["label"]).score == 1:
            return response
