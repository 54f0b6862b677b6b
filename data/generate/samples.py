"""Small sets for the tiny twins of the recipes: python -m data.generate.samples [--output data/samples].

Each fits the form of its recipe's data, so that the whole path runs: wordings, system prompts, labels, rewards. What a
run on them reaches says nothing about a recipe.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from data.generate.countdown import ProblemSpace, draw_problems, problem_row
from data.generate.game24 import Draw, Manner, make_row, problem_source, write_problems
from openr1.files import write_objects

ROWS = 64
HELD_OUT = 8
SUM = "What is {a} + {b} * {c}?"
STORY = "小明有 {a} 个苹果,又买了 {b} 袋,每袋 {c} 个,现在一共有几个?"
SMALL_NUMBERS = ProblemSpace(counts=(3,), smallest=1, largest=10, target_smallest=1, target_largest=99)
GAME_SIZES = (47, 12)
"""Every 24 game of three numbers up to 10."""


def arithmetic(task: str, wording: str) -> Iterator[dict[str, object]]:
    """Rows that ask for a + b * c, each once."""
    rng = random.Random(task)
    for number in rng.sample(range(8**3), ROWS + HELD_OUT):
        a, b, c = (2 + number // 8**place % 8 for place in range(3))
        prompt = wording.format(a=a, b=b, c=c)
        yield {"id": f"{task}-{a}-{b}-{c}", "prompt": prompt, "label": str(a + b * c), "task": task}


def preferred(draw: Draw) -> list[dict[str, object]]:
    """Short traces of the 24 game, which end in its solution."""
    manner = Manner("game24", "short", "full", "short")
    return [make_row(index, 1, draw, manner).row for index in range(ROWS)]


def to_pair(row: dict[str, object]) -> dict[str, object]:
    """A trace, and the same one with its numbers added up as the answer, which never makes 24 here."""
    numbers = json.loads(str(row["label"]))["numbers"]
    chosen = str(row["response"])
    sum_of_all = " + ".join(map(str, numbers))
    rejected = f"{chosen.partition('<answer>')[0]}<answer>{sum_of_all}</answer>"
    return {"id": row["id"], "prompt": row["prompt"], "chosen": chosen, "rejected": rejected}


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
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
    draw = problem_source("game24", SMALL_NUMBERS)
    for style in ("short", "long"):
        manner = Manner("game24", style, "full", "short")
        traces = [make_row(index, 0, draw, manner).row for index in range(ROWS + HELD_OUT)]
        write_objects(output / f"game24/traces_{style}.jsonl", traces[:ROWS])
        write_objects(output / f"game24/traces_{style}_held_out.jsonl", traces[ROWS:])
    write_objects(output / "game24/pairs.jsonl", [to_pair(row) for row in preferred(draw)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
