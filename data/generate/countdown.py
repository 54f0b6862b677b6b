"""Countdown problems and search traces, seeded and solvable by construction.

    python -m data.generate.countdown problems --output DIR [--train 4000 --held-out 600 --counts 3 4 ...]
    python -m data.generate.countdown traces --output FILE [--count 100000 --skill-fraction 0.6 ...]

A problem asks to combine all given numbers, each exactly once, with + - * / into the target. The numbers are sampled
and combined at random, so every problem has a solution. Whether a problem is held out depends only on a hash of its
sorted numbers and target: no training set or trace file, whatever its seed, contains a problem of any held-out set.

A trace is a supervised response with a search: one attempt per line, each a chain of exact steps. It ends with the
attempt that reaches the target, or gives up and answers with the last failed attempt.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openr1.runtime.files import write_objects

HELD_OUT_FRACTION = 0.2
LARGEST_VALUE = 99
"""Largest intermediate value. It keeps the arithmetic small enough for a model with a few million parameters."""
MAX_DRAWS = 100_000
"""Number of samples after which a problem space is considered empty."""

WORDINGS = {
    "en": (
        "Combine the numbers {numbers} with + - * / and brackets into an equation whose value is {target}. "
        "Every number must be used exactly once. Write your reasoning between <think> and </think>, "
        "then only the equation between <answer> and </answer>."
    ),
    "zh": (
        "请用数字 {numbers} 和 + - * / 以及括号组成一个结果等于 {target} 的算式,每个数字必须恰好使用一次。"
        "推理过程写在 <think> 和 </think> 之间,最后只把算式写在 <answer> 和 </answer> 之间。"
    ),
    "short": "Make {target} from {numbers}.",
}


@dataclass(frozen=True)
class Problem:
    """Positive integers, in the order of the prompt, and the integer target."""

    numbers: tuple[int, ...]
    target: int

    @property
    def key(self) -> str:
        """Identifier that ignores the order of the numbers, for example `3-5-7=22`."""
        return "-".join(map(str, sorted(self.numbers))) + f"={self.target}"

    @property
    def held_out(self) -> bool:
        """Whether the problem belongs to the fifth of all problems that is never trained on."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return int.from_bytes(digest[:8], "big") < HELD_OUT_FRACTION * 2**64


@dataclass(frozen=True)
class Attempt:
    """One way to combine all numbers: its steps, the value reached, and the equivalent expression."""

    steps: tuple[str, ...]
    value: int
    expression: str


@dataclass(frozen=True)
class ProblemSpace:
    """Constraints on problems: possible counts of numbers, and inclusive ranges of numbers and target."""

    counts: tuple[int, ...] = (3,)
    smallest: int = 1
    largest: int = 9
    target_smallest: int = 1
    target_largest: int = 40

    def draw(self, rng: random.Random) -> Problem:
        """Sample a solvable problem.

        Raises:
            ValueError: No sample out of `MAX_DRAWS` had a target inside its range.
        """
        for _ in range(MAX_DRAWS):
            count = rng.choice(self.counts)
            numbers = tuple(rng.randint(self.smallest, self.largest) for _ in range(count))
            target = draw_attempt(numbers, rng).value
            if self.target_smallest <= target <= self.target_largest:
                return Problem(numbers, target)
        raise ValueError(f"found no problem within the ranges in {MAX_DRAWS:,} samples; widen the ranges")


def draw_attempt(numbers: tuple[int, ...], rng: random.Random) -> Attempt:
    """Combine the numbers pairwise at random, within the positive integers.

    The larger operand comes first; division is used only if it is exact.
    """
    while True:
        attempt = _try_attempt(numbers, rng)
        if attempt is not None:
            return attempt


def _try_attempt(numbers: tuple[int, ...], rng: random.Random) -> Attempt | None:
    """Return one random attempt, or None if a value is zero or exceeds `LARGEST_VALUE`."""
    pool = [(number, str(number)) for number in numbers]
    steps = []
    while len(pool) > 1:
        (x, x_text), (y, y_text) = (pool.pop(rng.randrange(len(pool))) for _ in range(2))
        if x < y:
            x, x_text, y, y_text = y, y_text, x, x_text
        operators = "+-*/" if x % y == 0 else "+-*"
        operator = rng.choice(operators)
        value = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[operator]
        if not 0 < value <= LARGEST_VALUE:
            return None
        steps.append(f"{x}{operator}{y}={value}")
        pool.append((value, f"({x_text}{operator}{y_text})"))
    value, text = pool[0]
    return Attempt(tuple(steps), value, text[1:-1] if text.startswith("(") else text)


def solve(problem: Problem, rng: random.Random, tries: int = 100_000) -> Attempt:
    """Find a solution by random search.

    Raises:
        ValueError: No solution was found in `tries` attempts; the problem may have none.
    """
    for _ in range(tries):
        attempt = draw_attempt(problem.numbers, rng)
        if attempt.value == problem.target:
            return attempt
    raise ValueError(f"no solution of {problem.key} found in {tries} attempts")


def draw_problems(space: ProblemSpace, count: int, held_out: bool, rng: random.Random) -> list[Problem]:
    """Sample `count` distinct problems, up to the order of their numbers, from one side of the split.

    Raises:
        ValueError: The space does not contain enough distinct problems: 100 samples per problem plus 10,000 did not
            find them.
    """
    problems: dict[str, Problem] = {}
    budget = 100 * count + 10_000
    while len(problems) < count:
        budget -= 1
        if budget < 0:
            raise ValueError(f"found only {len(problems)} distinct problems of {count} requested; widen the ranges")
        problem = space.draw(rng)
        if problem.held_out == held_out:
            problems.setdefault(problem.key, problem)
    return list(problems.values())


def render_prompt(problem: Problem, wording: str) -> str:
    """Return the user message for a problem."""
    return WORDINGS[wording].format(numbers=", ".join(map(str, problem.numbers)), target=problem.target)


def problem_row(problem: Problem, wording: str, task: str = "countdown") -> dict[str, object]:
    """Return a problem as a dataset row (data/README.md) that is graded by `task`."""
    label = json.dumps({"numbers": list(problem.numbers), "target": problem.target})
    return {
        "id": f"{task}-{problem.key}",
        "prompt": render_prompt(problem, wording),
        "label": label,
        "task": task,
        "meta": {"count": len(problem.numbers), "wording": wording},
    }


@dataclass(frozen=True)
class TraceStyle:
    """Sampling probabilities of a trace.

    Attributes:
        hit: Probability that an attempt is a known solution; otherwise it is random.
        give_up: Probability that the search ends after a failed attempt.
        max_attempts: Maximum number of attempts.
    """

    hit: float
    give_up: float
    max_attempts: int = 12


def draw_trace(problem: Problem, solution: Attempt, style: TraceStyle, rng: random.Random) -> str:
    """Return a response to the problem: attempts in <think>, then the expression of the last one in <answer>.

    Failed attempts are distinct. The trace ends at the first attempt that reaches the target, after a failed attempt
    with probability `give_up`, or after `max_attempts`.
    """
    lines: dict[str, Attempt] = {}
    while True:
        attempt = solution if rng.random() < style.hit else draw_attempt(problem.numbers, rng)
        line = ",".join(attempt.steps)
        found = attempt.value == problem.target
        if line in lines and not found:
            continue
        lines[line] = attempt
        if found or rng.random() < style.give_up or len(lines) == style.max_attempts:
            break
    marks = [f"{line} {'yes' if tried.value == problem.target else 'no'}" for line, tried in lines.items()]
    return "<think>" + "\n".join(marks) + f"</think>\n<answer>{attempt.expression}</answer>"


def draw_traces(
    space: ProblemSpace,
    count: int,
    skill_fraction: float,
    skill: TraceStyle,
    style: TraceStyle,
    rng: random.Random,
    wording: str,
) -> Iterator[dict[str, object]]:
    """Yield supervised rows that form a curriculum: train on them in this order.

    The first `skill_fraction` of the rows use the style `skill`, usually with `give_up` 0; the rest use `style`, whose
    failures leave room for improvement by reinforcement learning. Problems may repeat and are never held out.
    """
    for index in range(count):
        problem = space.draw(rng)
        while problem.held_out:
            problem = space.draw(rng)
        chosen = skill if index < skill_fraction * count else style
        row = problem_row(problem, wording)
        row["id"] = f"trace-{index}"
        row["response"] = draw_trace(problem, solve(problem, rng), chosen, rng)
        yield row


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.generate.countdown", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    problems = commands.add_parser("problems", help="write train.jsonl and held_out.jsonl, which are disjoint")
    problems.add_argument("--output", type=Path, required=True, metavar="DIR")
    problems.add_argument("--train", type=int, default=4000)
    problems.add_argument("--held-out", type=int, default=600)
    traces = commands.add_parser("traces", help="write supervised search traces")
    traces.add_argument("--output", type=Path, required=True, metavar="FILE")
    traces.add_argument("--count", type=int, default=100_000)
    traces.add_argument(
        "--skill-fraction", type=float, default=0.6, help="fraction of rows, at the start, that never give up"
    )
    traces.add_argument(
        "--skill-hit", type=float, default=0.6, help="probability that an attempt in those rows is a solution"
    )
    traces.add_argument(
        "--hit", type=float, default=0.6, help="probability that an attempt in the other rows is a solution"
    )
    traces.add_argument(
        "--give-up", type=float, default=0.5, help="probability that the other rows give up after a failed attempt"
    )
    for command in (problems, traces):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--wording", choices=sorted(WORDINGS), default="en")
        command.add_argument(
            "--counts", type=int, nargs="+", default=[3, 4], help="possible counts of numbers per problem"
        )
        command.add_argument("--smallest", type=int, default=1)
        command.add_argument("--largest", type=int, default=99)
        command.add_argument("--target-smallest", type=int, default=10)
        command.add_argument("--target-largest", type=int, default=99)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code. Exits with code 2 if the problem space is invalid or too small."""
    parser = _parser()
    args = parser.parse_args(argv)
    if min(args.counts) < 2 or not 1 <= args.smallest <= args.largest:
        parser.error("--counts must be at least 2, and 1 <= --smallest <= --largest is required")
    if not 1 <= args.target_smallest <= args.target_largest <= LARGEST_VALUE:
        parser.error(f"1 <= --target-smallest <= --target-largest <= {LARGEST_VALUE} is required")
    space = ProblemSpace(tuple(args.counts), args.smallest, args.largest, args.target_smallest, args.target_largest)
    rng = random.Random(args.seed)
    try:
        if args.command == "traces":
            skill, style = TraceStyle(args.skill_hit, 0.0), TraceStyle(args.hit, args.give_up)
            rows = draw_traces(space, args.count, args.skill_fraction, skill, style, rng, args.wording)
            print(f"{args.output}: {write_objects(args.output, rows)} traces")
            return 0
        train = draw_problems(space, args.train, False, rng)
        held_out = draw_problems(space, args.held_out, True, rng)
    except ValueError as error:
        parser.error(str(error))
    for name, problems in (("train", train), ("held_out", held_out)):
        path = args.output / f"{name}.jsonl"
        print(f"{path}: {write_objects(path, [problem_row(problem, args.wording) for problem in problems])} problems")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
