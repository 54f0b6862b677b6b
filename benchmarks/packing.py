"""One update of the policy with packing against padding, on responses of equal and of very different lengths.

    python -m benchmarks.packing [--rounds 7] [--output benchmarks/results/packing.json]

`PolicyLearner` makes the update, DeepSpeed included: forward, backward and optimizer step of the demo's batch. Padding
is at its best: rows are sorted by length before they are cut into micro-batches, as in training. Both take turns, each
learner in a process of its own that waits while the other works, and each pair of updates gives a ratio. Weights stay
as they are (learning rate 1e-12). The gradients of both are compared, relative to the largest entry.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks.against_trl import describe, lengths_of
from benchmarks.machine import ROOT, spread, write_result
from openr1.algorithms.losses import ClipBounds
from openr1.batch import TrainBatch, plan_micro_batches
from openr1.cluster import running_ray, start_policy
from openr1.config import Dtype, ModelConfig, OptimizerConfig, PolicyConfig
from openr1.policy.actor import PolicyActor
from openr1.policy.settings import LearnerSettings
from openr1.policy.update import LossSettings

MODEL = ROOT / "data/models/tiny_base"
PROMPT_TOKENS, MICRO_BATCH_TOKENS, BETA1 = 25, 8192, 0.9
LOSS = LossSettings("ppo", ClipBounds(0.2, 0.2), kl_coef=0.0)


class MeasuredActor(PolicyActor):
    """A policy rank that times its updates and tells its gradient."""

    def timed_update(self, micro_batches: list[TrainBatch]) -> float:
        """Seconds of forward, backward and optimizer step."""
        start = time.monotonic()
        self.update(micro_batches, LOSS)
        return time.monotonic() - start

    def gradient(self) -> torch.Tensor:
        """After the first update, in one row: from zero, AdamW's first moment is (1 - beta1) * gradient."""
        from deepspeed.utils import safe_get_full_optimizer_state

        parameters = self._learner._lm.parameters()
        moments = [safe_get_full_optimizer_state(parameter, "exp_avg").flatten() for parameter in parameters]
        return torch.cat(moments) / (1 - BETA1)


def make_batch(lengths: Sequence[int]) -> TrainBatch:
    """Random tokens and advantages for responses of these lengths."""
    drawn = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [drawn.randrange(5, 500) for _ in range(count)]

    batch = TrainBatch.from_tokens([(tokens(PROMPT_TOKENS), tokens(length)) for length in lengths])
    advantages = torch.randn(len(lengths), generator=torch.Generator().manual_seed(0))
    return batch.with_advantages(advantages).with_loss_weights("token", max(lengths))


def start_learner(dtype: Dtype, packing: bool, threads: int, logs: Path) -> Any:
    """A learner in a process of its own."""
    optimizer = OptimizerConfig(learning_rate=1e-12, adam_betas=(BETA1, 0.95), max_norm=0.0)
    model = ModelConfig(path=MODEL, dtype=dtype, packing=packing)
    learner = LearnerSettings(model, optimizer, 1, 1.0, 1000)
    policy = PolicyConfig(zero_stage=1, micro_batch_tokens=MICRO_BATCH_TOKENS, threads=threads)
    return start_policy(learner, policy, False, logs, MeasuredActor)[0]


def measure(dtype: Dtype, mix: str, responses: int, rounds: int, threads: int) -> dict[str, Any]:
    """Pairs of updates in turns; the first pair warms up and gives the gradients."""
    batch = make_batch(lengths_of(mix, responses))
    shares, actors = {}, {}
    with tempfile.TemporaryDirectory() as logs:
        for name, packing in (("padding", False), ("packing", True)):
            plan = plan_micro_batches(batch.lengths, 1, MICRO_BATCH_TOKENS, packing)[0]
            shares[name] = [batch.select(rows) for rows in plan]
            actors[name] = start_learner(dtype, packing, threads, Path(logs) / name)
        seconds: dict[str, list[float]] = {name: [] for name in actors}
        for number in range(1 + rounds):
            for name in sorted(actors, reverse=number % 2 == 1):
                seconds[name].append(ray.get(actors[name].timed_update.remote(shares[name])))
            if number == 0:
                padded, packed = ray.get([actors[name].gradient.remote() for name in ("padding", "packing")])
        for actor in actors.values():
            ray.kill(actor)
    counted = {name: values[1:] for name, values in seconds.items()}
    tokens, computed = sum(batch.lengths), sum(micro.input_ids.numel() for micro in shares["padding"])
    return {
        "seconds": {name: spread(values) for name, values in counted.items()},
        "speedup": spread([a / b for a, b in zip(counted["padding"], counted["packing"], strict=True)]),
        "micro_batches": {name: len(share) for name, share in shares.items()},
        "padding_fraction": 1 - tokens / computed,
        "gradient_difference": float((packed - padded).abs().max() / padded.abs().max()),
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="measured pairs of updates, of each case")
    parser.add_argument("--responses", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/packing.json")
    args = parser.parse_args(argv)
    dtypes: tuple[Dtype, ...] = ("bfloat16", "float32")
    mixes: dict[str, dict[str, Any]] = {}
    with running_ray():
        for mix in ("equal", "skewed"):
            mixes[mix] = {"lengths": describe(lengths_of(mix, args.responses))}
            for dtype in dtypes:
                mixes[mix][dtype] = measure(dtype, mix, args.responses, args.rounds, args.threads)
                print(f"{mix}, {dtype}: {mixes[mix][dtype]['speedup']}", flush=True)
    settings = {"prompt_tokens": PROMPT_TOKENS, "micro_batch_tokens": MICRO_BATCH_TOKENS, "threads": args.threads}
    write_result(args.output, settings | {"rounds": args.rounds, "mixes": mixes})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
