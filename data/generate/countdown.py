"""Countdown problems and search traces, seeded and solvable by construction.

    python -m data.generate.countdown problems --output DIR [--train 4000 --held-out 600 --counts 3 4 ...]
    python -m data.generate.countdown traces --output FILE [--count 100000 --skill-fraction 0.6 ...]

A problem asks to combine every given number exactly once with + - * / into the target. It is made by drawing
the numbers and combining them at random, so it has a solution. Which problems are held out is a property of the
problem itself (a hash of its numbers and target, in any order): no train set, trace file or seed can contain a
problem that any held-out set contains.

A trace is what a small model is taught: attempts, one a line, each a chain of exact steps; it ends with the
attempt that hits the target, or gives up and answers with the last miss.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openr1.files import write_objects

HELD_OUT_FRACTION = 0.2
LARGEST_VALUE = 99
"""Bound on the values of an attempt's steps: few enough facts of arithmetic for a model of a few million parameters."""
MAX_DRAWS = 100_000
"""Draws of a problem, after which none is taken to exist."""

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
    """Numbers (positive integers, in the order shown) and the integer target."""

    numbers: tuple[int, ...]
    target: int

    @property
    def key(self) -> str:
        """Identity up to the order of the numbers, for example `3-5-7=22`."""
        return "-".join(map(str, sorted(self.numbers))) + f"={self.target}"

    @property
    def held_out(self) -> bool:
        """True for the fifth of all problems that nothing may train on."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return int.from_bytes(digest[:8], "big") < HELD_OUT_FRACTION * 2**64


@dataclass(frozen=True)
class Attempt:
    """One way to combine all numbers: the exact steps, the value reached, and the same as one expression."""

    steps: tuple[str, ...]
    value: int
    expression: str


@dataclass(frozen=True)
class ProblemSpace:
    """What problems look like: how many numbers, their range, the target's range (all ends included)."""

    counts: tuple[int, ...] = (3,)
    smallest: int = 1
    largest: int = 9
    target_smallest: int = 1
    target_largest: int = 40

    def draw(self, rng: random.Random) -> Problem:
        """Draw a solvable problem.

        Raises:
            ValueError: The numbers did not make a target inside its range in `MAX_DRAWS` draws.
        """
        for _ in range(MAX_DRAWS):
            count = rng.choice(self.counts)
            numbers = tuple(rng.randint(self.smallest, self.largest) for _ in range(count))
            target = draw_attempt(numbers, rng).value
            if self.target_smallest <= target <= self.target_largest:
                return Problem(numbers, target)
        raise ValueError(f"found no problem inside the ranges in {MAX_DRAWS:,} draws; widen them")


def draw_attempt(numbers: tuple[int, ...], rng: random.Random) -> Attempt:
    """Combine the numbers two at a time, at random, over positive integers.

    The larger operand comes first; division is taken only where it is exact.
    """
    while True:
        attempt = _try_attempt(numbers, rng)
        if attempt is not None:
            return attempt


def _try_attempt(numbers: tuple[int, ...], rng: random.Random) -> Attempt | None:
    """One random attempt, or None where it meets zero or the bound on values."""
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
    """Find a solution by random search; a problem that was drawn here has one, so this ends."""
    for _ in range(tries):
        attempt = draw_attempt(problem.numbers, rng)
        if attempt.value == problem.target:
            return attempt
    raise ValueError(f"no solution of {problem.key} found in {tries} attempts")


def draw_problems(space: ProblemSpace, count: int, held_out: bool, rng: random.Random) -> list[Problem]:
    """Draw `count` problems, all different up to the order of their numbers, from one side of the split.

    Raises:
        ValueError: The space holds fewer different problems than asked for: 100 draws a problem, and 10,000 more, did
            not find them.
    """
    problems: dict[str, Problem] = {}
    budget = 100 * count + 10_000
    while len(problems) < count:
        budget -= 1
        if budget < 0:
            raise ValueError(f"found only {len(problems)} different problems of {count} asked for; widen the ranges")
        problem = space.draw(rng)
        if problem.held_out == held_out:
            problems.setdefault(problem.key, problem)
    return list(problems.values())


def render_prompt(problem: Problem, wording: str) -> str:
    """The user's message for a problem."""
    return WORDINGS[wording].format(numbers=", ".join(map(str, problem.numbers)), target=problem.target)


def problem_row(problem: Problem, wording: str, task: str = "countdown") -> dict[str, object]:
    """The problem as one row of the schema in data/README.md, graded by `task`."""
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
    """How often an attempt of a trace is right, and how often a miss ends the search (probabilities)."""

    hit: float
    give_up: float
    max_attempts: int = 12


def draw_trace(problem: Problem, solution: Attempt, style: TraceStyle, rng: random.Random) -> str:
    """A response for the problem: attempts in <think>, then the last one in <answer>.

    No attempt is repeated. The trace ends at the first attempt that reaches the target, after a miss with
    probability `give_up`, or after `max_attempts`.
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
    """Rows of supervised data, to be trained on in this order.

    The first `skill_fraction` of them are in style `skill`, which solves what it starts; the rest in `style`, the
    blur: from it reinforcement learning has something to find again. Problems are drawn with repetition,
    never from the held-out side.
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
    problems = commands.add_parser("problems", help="write train.jsonl and held_out.jsonl, which share no problem")
    problems.add_argument("--output", type=Path, required=True, metavar="DIR")
    problems.add_argument("--train", type=int, default=4000)
    problems.add_argument("--held-out", type=int, default=600)
    traces = commands.add_parser("traces", help="write supervised search traces")
    traces.add_argument("--output", type=Path, required=True, metavar="FILE")
    traces.add_argument("--count", type=int, default=100_000)
    traces.add_argument("--skill-fraction", type=float, default=0.6, help="share, at the start, that never gives up")
    traces.add_argument(
        "--skill-hit", type=float, default=0.6, help="probability that an attempt of that share is right"
    )
    traces.add_argument("--hit", type=float, default=0.6, help="probability that an attempt of the rest is right")
    traces.add_argument("--give-up", type=float, default=0.5, help="probability that a miss of the rest is answered")
    for command in (problems, traces):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--wording", choices=sorted(WORDINGS), default="en")
        command.add_argument("--counts", type=int, nargs="+", default=[3, 4], help="how many numbers a problem has")
        command.add_argument("--smallest", type=int, default=1)
        command.add_argument("--largest", type=int, default=99)
        command.add_argument("--target-smallest", type=int, default=10)
        command.add_argument("--target-largest", type=int, default=99)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code, or exits with 2 where the space cannot hold what is asked for."""
    parser = _parser()
    args = parser.parse_args(argv)
    if min(args.counts) < 2 or not 1 <= args.smallest <= args.largest:
        parser.error("problems need --counts of 2 or more and 1 <= --smallest <= --largest")
    if not 1 <= args.target_smallest <= args.target_largest <= LARGEST_VALUE:
        parser.error(f"targets need 1 <= --target-smallest <= --target-largest <= {LARGEST_VALUE}")
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
