"""One policy update with packing versus padding, on responses of equal and of skewed lengths.

    python -m benchmarks.packing [--rounds 7] [--output benchmarks/results/packing.json]

`PolicyLearner` performs the update with DeepSpeed: forward, backward and optimizer step for a batch of the demo's size.
For padding, rows are sorted by length before they are split into micro-batches, as in training. The two learners run in
separate processes and take turns, each idle while the other works; each pair of updates gives one ratio. The learning
rate of 1e-12 keeps the weights fixed. The gradients are compared relative to the largest entry.
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

from benchmarks.against_trl import describe_lengths, response_lengths
from benchmarks.machine import ROOT, spread, write_result
from openr1.actors.workers import learner_settings, start_workers
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.losses import ClipBounds
from openr1.algorithms.objectives.policy import PolicyObjective
from openr1.config.sections import Dtype, ModelConfig, OptimizerConfig, PolicyConfig
from openr1.placement.group import Place
from openr1.runtime.ray_cluster import running_ray
from openr1.workers.micro_batches import plan_micro_batches
from openr1.workers.worker import TrainWorker

MODEL = ROOT / "data/models/tiny_base"
PROMPT_TOKENS, MICRO_BATCH_TOKENS, BETA1 = 25, 8192, 0.9
OBJECTIVE = PolicyObjective("ppo", ClipBounds(0.2, 0.2), kl_coef=0.0)


class TimedWorker(TrainWorker):
    """A policy rank that times its updates and returns its gradient."""

    def timed_step(self, micro_batches: list[TrainBatch]) -> float:
        """Return the seconds of forward, backward and optimizer step."""
        start = time.monotonic()
        self.step(micro_batches, OBJECTIVE, apply=True)
        return time.monotonic() - start

    def gradient(self) -> torch.Tensor:
        """Return the flattened gradient of the first update: AdamW's first moment is then (1 - beta1) * gradient."""
        from deepspeed.utils import safe_get_full_optimizer_state

        parameters = self.learner.module.parameters()
        moments = [safe_get_full_optimizer_state(parameter, "exp_avg").flatten() for parameter in parameters]
        return torch.cat(moments) / (1 - BETA1)


def make_batch(lengths: Sequence[int]) -> TrainBatch:
    """Return a batch with random tokens and advantages for responses of these lengths."""
    rng = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(5, 500) for _ in range(count)]

    batch = TrainBatch.from_tokens([(tokens(PROMPT_TOKENS), tokens(length)) for length in lengths])
    advantages = torch.randn(len(lengths), generator=torch.Generator().manual_seed(0))
    return batch.with_advantages(advantages).with_loss_weights("token", max(lengths))


def start_learner(dtype: Dtype, packing: bool, threads: int, logs: Path) -> Any:
    """Start a learner in a separate process."""
    optimizer = OptimizerConfig(learning_rate=1e-12, adam_betas=(BETA1, 0.95), max_norm=0.0)
    model = ModelConfig(path=MODEL, dtype=dtype, packing=packing)
    policy = PolicyConfig(zero_stage=1, micro_batch_tokens=MICRO_BATCH_TOKENS, threads=threads)
    learner = learner_settings(model, optimizer, policy, total_updates=1000)
    return start_workers(learner, policy, [Place()], logs, TimedWorker)[0]


def measure(dtype: Dtype, mix: str, responses: int, rounds: int, threads: int) -> dict[str, Any]:
    """Time alternating pairs of updates; the first pair is the warm-up and provides the gradients."""
    batch = make_batch(response_lengths(mix, responses))
    shares, actors = {}, {}
    with tempfile.TemporaryDirectory() as logs:
        for name, packing in (("padding", False), ("packing", True)):
            plan = plan_micro_batches(batch.lengths, 1, MICRO_BATCH_TOKENS, packing)[0]
            shares[name] = [batch.select(rows) for rows in plan]
            actors[name] = start_learner(dtype, packing, threads, Path(logs) / name)
        seconds: dict[str, list[float]] = {name: [] for name in actors}
        for number in range(1 + rounds):
            for name in sorted(actors, reverse=number % 2 == 1):
                seconds[name].append(ray.get(actors[name].timed_step.remote(shares[name])))
            if number == 0:
                padded, packed = ray.get([actors[name].gradient.remote() for name in ("padding", "packing")])
        for actor in actors.values():
            ray.kill(actor)
    measured = {name: values[1:] for name, values in seconds.items()}
    tokens, computed = sum(batch.lengths), sum(micro.input_ids.numel() for micro in shares["padding"])
    return {
        "seconds": {name: spread(values) for name, values in measured.items()},
        "speedup": spread([a / b for a, b in zip(measured["padding"], measured["packing"], strict=True)]),
        "micro_batches": {name: len(share) for name, share in shares.items()},
        "padding_fraction": 1 - tokens / computed,
        "gradient_difference": float((packed - padded).abs().max() / padded.abs().max()),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="measured pairs of updates per case")
    parser.add_argument("--responses", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/packing.json")
    args = parser.parse_args(argv)
    dtypes: tuple[Dtype, ...] = ("bfloat16", "float32")
    mixes: dict[str, dict[str, Any]] = {}
    with running_ray():
        for mix in ("equal", "skewed"):
            mixes[mix] = {"lengths": describe_lengths(response_lengths(mix, args.responses))}
            for dtype in dtypes:
                mixes[mix][dtype] = measure(dtype, mix, args.responses, args.rounds, args.threads)
                print(f"{mix}, {dtype}: {mixes[mix][dtype]['speedup']}", flush=True)
    settings = {"prompt_tokens": PROMPT_TOKENS, "micro_batch_tokens": MICRO_BATCH_TOKENS, "threads": args.threads}
    write_result(args.output, settings | {"rounds": args.rounds, "mixes": mixes})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
