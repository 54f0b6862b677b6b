"""Seconds that the controller spends on a large step: groups from the engines, the batch, the shares of the ranks.

`python -m benchmarks.controller` compares packed responses (what engines send) with tuples (what environments make),
in pairs, on one core: 4,096 responses of 1,024 tokens as from 64 engines, for 8 ranks.
"""

import argparse
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import ROOT, spread, write_result
from openr1.algorithms.batch import TrainBatch
from openr1.types import Group, Prompt, Response
from openr1.workers.micro_batches import cut_into_micro_batches, plan_batch

ENGINES, RANKS, PROMPT_TOKENS, VOCABULARY, MICRO_BATCH_TOKENS, HIDDEN = 64, 8, 150, 151_936, 16_384, 1_536


def make_groups(
    responses: int, samples: int, length: int, prompt_length: int = PROMPT_TOKENS, vocabulary: int = VOCABULARY
) -> list[Group]:
    """Groups of random tokens, as tuples."""
    rng = random.Random(0)
    groups = []
    for index in range(responses // samples):
        prompt = Prompt(str(index), "x" * 400, tuple(rng.choices(range(vocabulary), k=prompt_length)), "1", "math")
        tokens = [tuple(rng.choices(range(vocabulary), k=length)) for _ in range(samples)]
        log_probs = tuple(-rng.random() for _ in range(length))
        made = [Response("x" * 3000, one, log_probs, (True,) * length, "stop", 0, 0) for one in tokens]
        groups.append(Group(prompt, tuple(made)))
    return groups


def seconds_of(blobs: list[bytes]) -> dict[str, float]:
    """Seconds of each part of a step, from what the engines have pickled to what the ranks unpickle."""
    spent = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.monotonic()
        result = work()
        spent[name] = time.monotonic() - start
        return result

    groups = timed("unpickle", lambda: [group for blob in blobs for group in pickle.loads(blob)])  # nosec B301 # made above
    batch = timed("batch", lambda: TrainBatch.from_groups(groups))
    plan = timed("plan", lambda: plan_batch(batch, RANKS, MICRO_BATCH_TOKENS, HIDDEN, packing=True))
    shares = timed("cut", lambda: cut_into_micro_batches(batch, plan))
    timed("pickle", lambda: [pickle.dumps(share, 5) for share in shares])
    return spent | {"step": sum(spent.values())}


def measure(repeats: int, responses: int, length: int) -> dict[str, Any]:
    """Medians and ranges in seconds, and of the ratio tuples / packed."""
    tuples = make_groups(responses, 8, length)
    packed = [Group(group.prompt, tuple(one.packed() for one in group.responses)) for group in tuples]
    blobs = {
        name: [pickle.dumps(groups[engine::ENGINES], 5) for engine in range(ENGINES)]
        for name, groups in (("tuples", tuples), ("packed", packed))
    }
    runs = [{name: seconds_of(blobs[name]) for name in blobs} for _ in range(repeats)]
    ratios = [run["tuples"]["step"] / run["packed"]["step"] for run in runs]
    return {
        "responses": responses,
        "tokens_per_response": length,
        "engines": ENGINES,
        **{
            name: {part: spread([run[name][part] for run in runs]) for part in runs[0][name]}
            for name in ("tuples", "packed")
        },
        "tuples_over_packed": spread(ratios),
    }


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--responses", type=int, default=4096)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/controller.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    write_result(args.output, measure(args.repeats, args.responses, args.length))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
