"""24-game problems, and search traces of the 24 game or of Countdown; seeded, solvable and checked by the grader.

    python -m data.generate.game24 problems --output DIR [--train 1000 --held-out 250 --counts 4 ...]
    python -m data.generate.game24 traces --output FILE --count N --style short|medium|long
        [--task game24|countdown --ablation full|no-dead-ends|answer-only|shuffled-steps --no-shuffle ...]

Whether a 24-game problem has a solution is decided by trying everything. Which problems are held out is a property
of the problem, as in data.generate.countdown: no train set, trace file or seed can contain one that any held-out set
contains.

Row number i of a trace file depends on the seed and on i alone, and the ablation changes nothing but what is shown of
the search: files of the same arguments but for --ablation have the same prompts and answers, row by row.
"""

import argparse
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from pathlib import Path
from statistics import fmean, median

from data.generate.countdown import LARGEST_VALUE, WORDINGS, Problem, ProblemSpace, problem_row
from data.generate.search_traces import ABLATIONS, STYLES, Trace, can_reach, draw_trace
from openr1.console import print_table
from openr1.errors import ConfigError, MissingError, OpenR1Error
from openr1.files import to_line, write_objects, write_whole
from reward_server.components.steps import process_correctness
from reward_server.components.tags import find_thinking
from reward_server.scoring import get_score
from reward_server.tasks import find_task

TARGET = 24
SPACES = {
    "game24": ProblemSpace((4,), 1, 13, TARGET, TARGET),
    "countdown": ProblemSpace((3, 4), 1, 99, 10, 99),
}
"""Problems of each task, where no flag says otherwise."""
LARGEST_NUMBER = {"game24": 20, "countdown": 99}
"""Bounds on --largest: all sets of the 24 game are tried; the grader reads steps of numbers up to nine digits."""
MAX_REDRAWS = 1000
"""Problems that are drawn for one trace, after which the style is taken to be out of reach."""

Draw = Callable[[random.Random], Problem]


@dataclass(frozen=True)
class Manner:
    """How traces are written, whatever their problems: see `STYLES`, `ABLATIONS` and `WORDINGS`."""

    task: str
    style: str
    ablation: str
    wording: str
    shuffled: bool = True
    """False: the numbers stand in ascending order, in prompt and trace."""


@dataclass(frozen=True)
class TraceRow:
    """A row as it is written, and the search that it shows."""

    problem: Problem
    dead_ends: int
    steps: int
    row: dict[str, object]


def solvable_problems(space: ProblemSpace) -> list[Problem]:
    """All problems of a space that have a solution, each once, their numbers in ascending order."""
    values = range(space.smallest, space.largest + 1)
    return [
        Problem(numbers, TARGET)
        for count in sorted(set(space.counts))
        for numbers in combinations_with_replacement(values, count)
        if can_reach(numbers, TARGET)
    ]


def shuffle_numbers(problem: Problem, rng: random.Random) -> Problem:
    """The same problem, its numbers in random order."""
    return Problem(tuple(rng.sample(problem.numbers, len(problem.numbers))), problem.target)


def draw_sides(space: ProblemSpace, train: int, held_out: int, rng: random.Random) -> dict[str, list[Problem]]:
    """Problems of the 24 game for `train` and `held_out`, all different, their numbers in random order.

    Raises:
        ConfigError: One side of the split has fewer problems than asked for.
    """
    problems = solvable_problems(space)
    sides = {}
    for name, count in (("train", train), ("held_out", held_out)):
        side = [problem for problem in problems if problem.held_out == (name == "held_out")]
        if len(side) < count:
            raise ConfigError(f"only {len(side)} problems for {name}, not {count}: ask for fewer or raise --largest")
        sides[name] = [shuffle_numbers(problem, rng) for problem in rng.sample(side, count)]
    return sides


def problem_source(task: str, space: ProblemSpace) -> Draw:
    """What draws a problem, on either side of the split: of the 24 game, each of a space equally likely.

    Raises:
        ConfigError: The 24 game has no problem in this space. (Of Countdown, the first draw tells.)
    """
    if task == "countdown":
        return space.draw
    problems = solvable_problems(space)
    if not problems:
        raise ConfigError(f"no numbers of these make {TARGET}: change --smallest and --largest")
    return lambda rng: shuffle_numbers(rng.choice(problems), rng)


def draw_search(draw: Draw, manner: Manner, rng: random.Random) -> Trace:
    """The search for a problem that has as many dead ends as the style asks for; others are passed over.

    Raises:
        ConfigError: There is no problem, or `MAX_REDRAWS` of them were held out or have too few dead ends.
    """
    style = STYLES[manner.style]
    for _ in range(MAX_REDRAWS):
        try:
            problem = draw(rng)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if problem.held_out:
            continue
        if not manner.shuffled:
            problem = Problem(tuple(sorted(problem.numbers)), problem.target)
        trace = draw_trace(problem, rng.randint(style.least, style.most), rng)
        if trace.dead_ends >= style.least:
            return trace
    raise ConfigError(f"no problem to train on has {style.least} dead ends; widen the ranges or take another --style")


def make_row(index: int, seed: int, draw: Draw, manner: Manner) -> TraceRow:
    """Row number `index` of the file, graded.

    Raises:
        ConfigError: No problem of the space can be used.
        OpenR1Error: The grader does not find the row right, which is a fault of the generator.
    """
    rng = random.Random(f"{seed}-{index}")
    trace = draw_search(draw, manner, rng)
    if manner.ablation == "no-dead-ends":
        trace = trace.without_dead_ends()
    hidden = manner.ablation == "answer-only"
    row = problem_row(trace.problem, manner.wording, manner.task)
    row["id"] = f"trace-{index}"
    row["response"] = trace.response(manner.ablation, rng)
    check_row(row, trace.problem, steps_in_order=manner.ablation in ("full", "no-dead-ends"))
    return TraceRow(trace.problem, 0 if hidden else trace.dead_ends, 0 if hidden else len(trace.moves), row)


def check_row(row: dict[str, object], problem: Problem, steps_in_order: bool) -> None:
    """Grade a row as a run would.

    Args:
        row: A supervised row.
        problem: What its label says.
        steps_in_order: Its steps, too, must all be right and use only numbers at hand.

    Raises:
        OpenR1Error: The answer or a step is not right; the message is one line.
    """
    response = str(row["response"])
    score = get_score(find_task(str(row["task"])), response, str(row["label"]))
    if score.score != 1:
        raise OpenR1Error(
            f"{row['id']} of {problem.key} is graded {score.verdict}: a fault of data/generate/search_traces.py"
        )
    process = process_correctness(find_thinking(response), problem.numbers)
    if steps_in_order and process != 1:
        raise OpenR1Error(f"{row['id']} of {problem.key} has wrong steps: a fault of data/generate/search_traces.py")


def measure(rows: list[TraceRow]) -> dict[str, float]:
    """Statistics of a trace file: lengths of the responses in characters, and what their searches show.

    `problems_with_K_numbers` is a share of the distinct problems.
    """
    lengths = [len(str(row.row["response"])) for row in rows]
    problems = {row.problem.key: len(row.problem.numbers) for row in rows}
    counts = Counter(problems.values())
    return {
        "rows": len(rows),
        "characters_mean": fmean(lengths),
        "characters_median": float(median(lengths)),
        "characters_max": max(lengths),
        "dead_ends_mean": fmean(row.dead_ends for row in rows),
        "steps_mean": fmean(row.steps for row in rows),
        "distinct_problems": len(problems),
        **{f"problems_with_{count}_numbers": counts[count] / len(problems) for count in sorted(counts)},
    }


def write_traces(output: Path, count: int, seed: int, space: ProblemSpace, manner: Manner) -> None:
    """Write the rows, and their statistics beside them and on the terminal; nothing before all rows are graded."""
    draw = problem_source(manner.task, space)
    rows = [make_row(index, seed, draw, manner) for index in range(count)]
    statistics = measure(rows)
    write_objects(output, [row.row for row in rows])
    write_whole(output.with_suffix(".stats.json"), to_line(statistics))
    shown = [[name, f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"] for name, value in statistics.items()]
    print_table(f"{output}: {manner.task}, {manner.style}, {manner.ablation}", ["statistic", "value"], shown)


def write_problems(output: Path, train: int, held_out: int, seed: int, space: ProblemSpace, wording: str) -> None:
    """Write `train.jsonl` and `held_out.jsonl` into a folder."""
    for name, problems in draw_sides(space, train, held_out, random.Random(seed)).items():
        path = output / f"{name}.jsonl"
        rows = [problem_row(problem, wording, "game24") for problem in problems]
        print(f"{path}: {write_objects(path, rows)} problems")


def read_space(args: argparse.Namespace, task: str) -> ProblemSpace:
    """The task's space with what the flags change.

    Raises:
        ConfigError: A range is empty or too wide, or is no choice of this task.
    """
    names = ("smallest", "largest", "target_smallest", "target_largest")
    given = {name: value for name, value in vars(args).items() if name in names and value is not None}
    space = replace(SPACES[task], **given)
    if args.counts is not None:
        space = replace(space, counts=tuple(args.counts))
    if not 1 <= space.smallest <= space.largest <= LARGEST_NUMBER[task]:
        raise ConfigError(f"{task} needs 1 <= --smallest <= --largest <= {LARGEST_NUMBER[task]}")
    if task == "game24" and (space.target_smallest, space.target_largest) != (TARGET, TARGET):
        raise ConfigError(f"--target-smallest and --target-largest are for --task countdown; here it is {TARGET}")
    if not 1 <= space.target_smallest <= space.target_largest <= LARGEST_VALUE:
        raise ConfigError(f"targets need 1 <= --target-smallest <= --target-largest <= {LARGEST_VALUE}")
    return space


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.generate.game24", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    problems = commands.add_parser("problems", help="write train.jsonl and held_out.jsonl, which share no problem")
    problems.add_argument("--output", type=Path, required=True, metavar="DIR")
    problems.add_argument("--train", type=_positive, default=1000)
    problems.add_argument("--held-out", type=_positive, default=250)
    traces = commands.add_parser("traces", help="write supervised search traces and their statistics")
    traces.add_argument("--output", type=Path, required=True, metavar="FILE")
    traces.add_argument("--count", type=_positive, required=True, help="rows")
    traces.add_argument("--style", choices=STYLES, required=True, help="how many dead ends: 0-1, 2-5 or 6-15")
    traces.add_argument("--task", choices=sorted(SPACES, reverse=True), default="game24")
    traces.add_argument("--ablation", choices=ABLATIONS, default="full", help="what is shown of the search")
    traces.add_argument("--no-shuffle", action="store_true", help="numbers in ascending order")
    traces.add_argument("--target-smallest", type=int, help="countdown only; default 10")
    traces.add_argument("--target-largest", type=int, help="countdown only; default 99")
    for command in (problems, traces):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--wording", choices=sorted(WORDINGS), default="en")
        command.add_argument(
            "--counts", type=int, nargs="+", choices=(3, 4), help="how many numbers; default 4, countdown 3 4"
        )
        command.add_argument("--smallest", type=int, help="default 1")
        command.add_argument("--largest", type=int, help="default 13, countdown 99")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code, or exits with that of the error after one line."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        if args.command == "problems":
            space = read_space(args, "game24")
            write_problems(args.output, args.train, args.held_out, args.seed, space, args.wording)
        else:
            manner = Manner(args.task, args.style, args.ablation, args.wording, not args.no_shuffle)
            write_traces(args.output, args.count, args.seed, read_space(args, args.task), manner)
    except OpenR1Error as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    except OSError as error:
        parser.exit(MissingError.exit_code, f"{parser.prog}: error: {error.filename}: {error.strerror}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
