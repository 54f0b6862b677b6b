"""Sample datasets for the tiny variants of the recipes: python -m data.generate.samples [--output data/samples].

Each has the format of its recipe's data, so that a tiny run covers the whole path: prompt wording, system prompt,
labels and rewards. The results of such runs say nothing about the recipe.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from data.generate.countdown import ProblemSpace, draw_problems, problem_row
from data.generate.game24 import ProblemSampler, TraceOptions, make_problem_sampler, make_row, write_problems
from openr1.runtime.files import write_objects

ROWS = 64
HELD_OUT = 8
SUM = "What is {a} + {b} * {c}?"
STORY = "小明有 {a} 个苹果,又买了 {b} 袋,每袋 {c} 个,现在一共有几个?"
SMALL_NUMBERS = ProblemSpace(counts=(3,), smallest=1, largest=10, target_smallest=1, target_largest=99)
GAME_SIZES = (47, 12)
"""Train and held-out sizes: all solvable 24 games with three numbers up to 10."""


def arithmetic(task: str, wording: str) -> Iterator[dict[str, object]]:
    """Yield rows that ask for a + b * c, without repetition."""
    rng = random.Random(task)
    for number in rng.sample(range(8**3), ROWS + HELD_OUT):
        a, b, c = (2 + number // 8**place % 8 for place in range(3))
        prompt = wording.format(a=a, b=b, c=c)
        yield {"id": f"{task}-{a}-{b}-{c}", "prompt": prompt, "label": str(a + b * c), "task": task}


def make_preferred(sampler: ProblemSampler) -> list[dict[str, object]]:
    """Return short 24-game traces, which end in a solution."""
    options = TraceOptions("game24", "short", "full", "short")
    return [make_row(index, 1, sampler, options).row for index in range(ROWS)]


def make_pair(row: dict[str, object]) -> dict[str, object]:
    """Return a preference pair: a trace, and the same trace with the sum of its numbers as a (wrong) answer."""
    numbers = json.loads(str(row["label"]))["numbers"]
    chosen = str(row["response"])
    sum_of_all = " + ".join(map(str, numbers))
    rejected = f"{chosen.partition('<answer>')[0]}<answer>{sum_of_all}</answer>"
    return {"id": row["id"], "prompt": row["prompt"], "chosen": chosen, "rejected": rejected}


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m data.generate.samples", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("data/samples"), metavar="DIR")
    output = parser.parse_args(argv).output
    for task, wording in (("math", SUM), ("numina", SUM), ("gsm8k_zh", STORY)):
        rows = list(arithmetic(task, wording))
        write_objects(output / task / "train.jsonl", rows[:ROWS])
        write_objects(output / task / "held_out.jsonl", rows[ROWS:])
    problems = draw_problems(SMALL_NUMBERS, ROWS, False, random.Random(0))
    write_objects(output / "countdown_zh/train.jsonl", [problem_row(problem, "zh") for problem in problems])
    write_problems(output / "game24", *GAME_SIZES, 0, SMALL_NUMBERS, "short")
    sampler = make_problem_sampler("game24", SMALL_NUMBERS)
    for style in ("short", "long"):
        options = TraceOptions("game24", style, "full", "short")
        traces = [make_row(index, 0, sampler, options).row for index in range(ROWS + HELD_OUT)]
        write_objects(output / f"game24/traces_{style}.jsonl", traces[:ROWS])
        write_objects(output / f"game24/traces_{style}_held_out.jsonl", traces[ROWS:])
    write_objects(output / "game24/pairs.jsonl", [make_pair(row) for row in make_preferred(sampler)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
