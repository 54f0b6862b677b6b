"""24-game problems, and search traces for the 24 game or Countdown; seeded, solvable and checked by the grader.

    python -m data.generate.game24 problems --output DIR [--train 1000 --held-out 250 --counts 4 ...]
    python -m data.generate.game24 traces --output FILE --count N --style short|medium|long
        [--task game24|countdown --ablation full|no-dead-ends|answer-only|shuffled-steps --no-shuffle ...]

Solvable 24-game problems are found by exhaustive search. The held-out split is that of data.generate.countdown: no
training set or trace file, whatever its seed, contains a problem of any held-out set.

Row i of a trace file depends only on the seed and i, and the ablation only changes what the trace shows of the search:
files that differ only in --ablation have the same prompts and answers, row by row.
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
from openr1.errors import ConfigError, MissingError, OpenR1Error
from openr1.runtime.console import print_table
from openr1.runtime.files import to_line, write_objects, write_whole
from reward_server.components.steps import process_correctness
from reward_server.components.tags import find_thinking
from reward_server.scoring import get_score
from reward_server.tasks import find_task

TARGET = 24
SPACES = {
    "game24": ProblemSpace((4,), 1, 13, TARGET, TARGET),
    "countdown": ProblemSpace((3, 4), 1, 99, 10, 99),
}
"""Default problem space of each task."""
LARGEST_NUMBER = {"game24": 20, "countdown": 99}
"""Upper bounds of --largest: the 24 game enumerates all sets of numbers; the grader parses up to nine digits."""
MAX_REDRAWS = 1000
"""Number of problems sampled for one trace before the style is considered infeasible."""

ProblemSampler = Callable[[random.Random], Problem]


@dataclass(frozen=True)
class TraceOptions:
    """Options of a trace file; the values are keys of `SPACES`, `STYLES`, `ABLATIONS` and `WORDINGS`."""

    task: str
    style: str
    ablation: str
    wording: str
    shuffled: bool = True
    """Whether the numbers are shuffled; if not, they are in ascending order in prompt and trace."""


@dataclass(frozen=True)
class TraceRow:
    """A row of a trace file, and the number of dead ends and steps that it shows."""

    problem: Problem
    dead_ends: int
    steps: int
    row: dict[str, object]


def solvable_problems(space: ProblemSpace) -> list[Problem]:
    """Return all solvable problems of a space, each once, with their numbers in ascending order."""
    values = range(space.smallest, space.largest + 1)
    return [
        Problem(numbers, TARGET)
        for count in sorted(set(space.counts))
        for numbers in combinations_with_replacement(values, count)
        if can_reach(numbers, TARGET)
    ]


def shuffle_numbers(problem: Problem, rng: random.Random) -> Problem:
    """Return the problem with its numbers in random order."""
    return Problem(tuple(rng.sample(problem.numbers, len(problem.numbers))), problem.target)


def draw_splits(space: ProblemSpace, train: int, held_out: int, rng: random.Random) -> dict[str, list[Problem]]:
    """Sample distinct 24-game problems for `train` and `held_out`, with their numbers in random order.

    Raises:
        ConfigError: One side of the split has fewer problems than requested.
    """
    problems = solvable_problems(space)
    splits = {}
    for name, count in (("train", train), ("held_out", held_out)):
        candidates = [problem for problem in problems if problem.held_out == (name == "held_out")]
        if len(candidates) < count:
            raise ConfigError(
                f"only {len(candidates)} problems for {name}, {count} requested; request fewer or raise --largest"
            )
        splits[name] = [shuffle_numbers(problem, rng) for problem in rng.sample(candidates, count)]
    return splits


def make_problem_sampler(task: str, space: ProblemSpace) -> ProblemSampler:
    """Return a function that samples a problem from either side of the split; 24-game problems uniformly.

    Raises:
        ConfigError: The 24 game has no solvable problem in this space. (For Countdown, sampling raises.)
    """
    if task == "countdown":
        return space.draw
    problems = solvable_problems(space)
    if not problems:
        raise ConfigError(f"no numbers in this range make {TARGET}; change --smallest and --largest")
    return lambda rng: shuffle_numbers(rng.choice(problems), rng)


def draw_search(sampler: ProblemSampler, options: TraceOptions, rng: random.Random) -> Trace:
    """Return a search with as many dead ends as the style requires; other problems are rejected.

    Raises:
        ConfigError: No problem can be sampled, or `MAX_REDRAWS` in a row were held out or had too few dead ends.
    """
    style = STYLES[options.style]
    for _ in range(MAX_REDRAWS):
        try:
            problem = sampler(rng)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if problem.held_out:
            continue
        if not options.shuffled:
            problem = Problem(tuple(sorted(problem.numbers)), problem.target)
        trace = draw_trace(problem, rng.randint(style.min_dead_ends, style.max_dead_ends), rng)
        if trace.dead_ends >= style.min_dead_ends:
            return trace
    raise ConfigError(
        f"no training problem has {style.min_dead_ends} dead ends; widen the ranges or choose another --style"
    )


def make_row(index: int, seed: int, sampler: ProblemSampler, options: TraceOptions) -> TraceRow:
    """Generate and grade row number `index` of a trace file.

    Raises:
        ConfigError: No problem of the space is suitable.
        OpenR1Error: The grader does not accept the row, which is a bug in the generator.
    """
    rng = random.Random(f"{seed}-{index}")
    trace = draw_search(sampler, options, rng)
    if options.ablation == "no-dead-ends":
        trace = trace.without_dead_ends()
    hidden = options.ablation == "answer-only"
    row = problem_row(trace.problem, options.wording, options.task)
    row["id"] = f"trace-{index}"
    row["response"] = trace.response(options.ablation, rng)
    check_row(row, trace.problem, steps_in_order=options.ablation in ("full", "no-dead-ends"))
    return TraceRow(trace.problem, 0 if hidden else trace.dead_ends, 0 if hidden else len(trace.moves), row)


def check_row(row: dict[str, object], problem: Problem, steps_in_order: bool) -> None:
    """Grade a row with the reward function of its task.

    Args:
        row: A supervised row.
        problem: The problem of its label.
        steps_in_order: Also require that every step is correct and uses only remaining numbers.

    Raises:
        OpenR1Error: The answer or a step is wrong; the message is one line.
    """
    response = str(row["response"])
    score = get_score(find_task(str(row["task"])), response, str(row["label"]))
    if score.score != 1:
        raise OpenR1Error(
            f"{row['id']} of {problem.key} is graded {score.verdict}: a bug in data/generate/search_traces.py"
        )
    process = process_correctness(find_thinking(response), problem.numbers)
    if steps_in_order and process != 1:
        raise OpenR1Error(f"{row['id']} of {problem.key} has wrong steps: a bug in data/generate/search_traces.py")


def compute_statistics(rows: list[TraceRow]) -> dict[str, float]:
    """Return statistics of a trace file; response lengths are in characters.

    `problems_with_K_numbers` is a fraction of the distinct problems.
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


def write_traces(output: Path, count: int, seed: int, space: ProblemSpace, options: TraceOptions) -> None:
    """Grade all rows, then write them and a file with their statistics, and print the statistics."""
    sampler = make_problem_sampler(options.task, space)
    rows = [make_row(index, seed, sampler, options) for index in range(count)]
    statistics = compute_statistics(rows)
    write_objects(output, [row.row for row in rows])
    write_whole(output.with_suffix(".stats.json"), to_line(statistics))
    shown = [[name, f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"] for name, value in statistics.items()]
    print_table(f"{output}: {options.task}, {options.style}, {options.ablation}", ["statistic", "value"], shown)


def write_problems(output: Path, train: int, held_out: int, seed: int, space: ProblemSpace, wording: str) -> None:
    """Write train.jsonl and held_out.jsonl to a folder."""
    for name, problems in draw_splits(space, train, held_out, random.Random(seed)).items():
        path = output / f"{name}.jsonl"
        rows = [problem_row(problem, wording, "game24") for problem in problems]
        print(f"{path}: {write_objects(path, rows)} problems")


def read_space(args: argparse.Namespace, task: str) -> ProblemSpace:
    """Return the default space of the task with the changes given by flags.

    Raises:
        ConfigError: A range is empty or too wide, or the flag does not apply to this task.
    """
    names = ("smallest", "largest", "target_smallest", "target_largest")
    given = {name: value for name, value in vars(args).items() if name in names and value is not None}
    space = replace(SPACES[task], **given)
    if args.counts is not None:
        space = replace(space, counts=tuple(args.counts))
    if not 1 <= space.smallest <= space.largest <= LARGEST_NUMBER[task]:
        raise ConfigError(f"{task} requires 1 <= --smallest <= --largest <= {LARGEST_NUMBER[task]}")
    if task == "game24" and (space.target_smallest, space.target_largest) != (TARGET, TARGET):
        raise ConfigError(
            f"--target-smallest and --target-largest require --task countdown; the target of the 24 game is {TARGET}"
        )
    if not 1 <= space.target_smallest <= space.target_largest <= LARGEST_VALUE:
        raise ConfigError(f"1 <= --target-smallest <= --target-largest <= {LARGEST_VALUE} is required")
    return space


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {number}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.generate.game24", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    problems = commands.add_parser("problems", help="write train.jsonl and held_out.jsonl, which are disjoint")
    problems.add_argument("--output", type=Path, required=True, metavar="DIR")
    problems.add_argument("--train", type=_positive, default=1000)
    problems.add_argument("--held-out", type=_positive, default=250)
    traces = commands.add_parser("traces", help="write supervised search traces and their statistics")
    traces.add_argument("--output", type=Path, required=True, metavar="FILE")
    traces.add_argument("--count", type=_positive, required=True, help="number of rows")
    traces.add_argument("--style", choices=STYLES, required=True, help="number of dead ends: 0-1, 2-5 or 6-15")
    traces.add_argument("--task", choices=sorted(SPACES, reverse=True), default="game24")
    traces.add_argument("--ablation", choices=ABLATIONS, default="full", help="what the trace shows of the search")
    traces.add_argument("--no-shuffle", action="store_true", help="write the numbers in ascending order")
    traces.add_argument("--target-smallest", type=int, help="countdown only; default 10")
    traces.add_argument("--target-largest", type=int, help="countdown only; default 99")
    for command in (problems, traces):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--wording", choices=sorted(WORDINGS), default="en")
        command.add_argument(
            "--counts", type=int, nargs="+", choices=(3, 4), help="possible counts of numbers; default 4, countdown 3 4"
        )
        command.add_argument("--smallest", type=int, help="default 1")
        command.add_argument("--largest", type=int, help="default 13, countdown 99")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code. Errors exit with their own code after a one-line message."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        if args.command == "problems":
            space = read_space(args, "game24")
            write_problems(args.output, args.train, args.held_out, args.seed, space, args.wording)
        else:
            options = TraceOptions(args.task, args.style, args.ablation, args.wording, not args.no_shuffle)
            write_traces(args.output, args.count, args.seed, read_space(args, args.task), options)
    except OpenR1Error as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    except OSError as error:
        parser.exit(MissingError.exit_code, f"{parser.prog}: error: {error.filename}: {error.strerror}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
