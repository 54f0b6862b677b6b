"""One policy update with packing versus padding, for responses of several shapes; and log-probs alone.

    python -m benchmarks.packing [--rounds 7] [--model FOLDER] [--output benchmarks/results/packing.json]

`PolicyLearner` performs the update with DeepSpeed: forward, backward and optimizer step. For padding, rows are sorted
by length before they are split into micro-batches, as in training; packed responses to one prompt share it. The two
learners run in separate processes and take turns, each idle while the other works; each pair of updates gives one
ratio. The learning rate of 1e-12 keeps the weights fixed. The gradients are compared relative to the largest entry.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
from openr1.data.model_folder import read_text_config
from openr1.packing.shared_prefixes import pack_rows
from openr1.placement.group import Place
from openr1.runtime.ray_cluster import running_ray
from openr1.workers.micro_batches import plan_batch
from openr1.workers.worker import TrainWorker

MODEL = ROOT / "data/models/tiny_base"
PROMPT_TOKENS, MICRO_BATCH_TOKENS, BETA1 = 25, 8192, 0.9
OBJECTIVE = PolicyObjective("ppo", ClipBounds(0.2, 0.2), kl_coef=0.0)


class TimedWorker(TrainWorker):
    """A policy rank that times its passes and returns its gradient."""

    def timed(self, micro_batches: list[TrainBatch]) -> dict[str, float]:
        """Return the seconds of an update (forward, backward and optimizer step), and of log-probs alone."""
        start = time.monotonic()
        self.step(micro_batches, OBJECTIVE, apply=True)
        updated = time.monotonic()
        self.predict(micro_batches)
        return {"update": updated - start, "log_probs": time.monotonic() - updated}

    def gradient(self) -> torch.Tensor:
        """Return the flattened gradient of the first update: AdamW's first moment is then (1 - beta1) * gradient."""
        from deepspeed.utils import safe_get_full_optimizer_state

        parameters = self.learner.module.parameters()
        moments = [safe_get_full_optimizer_state(parameter, "exp_avg").flatten() for parameter in parameters]
        return torch.cat(moments) / (1 - BETA1)


@dataclass(frozen=True)
class Shape:
    """Responses of one update, `samples` to each prompt."""

    prompt_tokens: int
    samples: int
    lengths: Sequence[int]

    @property
    def batch(self) -> TrainBatch:
        """Random tokens and advantages."""
        rng = random.Random(0)

        def tokens(count: int) -> list[int]:
            return [rng.randrange(5, 500) for _ in range(count)]

        prompts = [tokens(self.prompt_tokens) for _ in range(0, len(self.lengths), self.samples)]
        rows = [(prompts[row // self.samples], tokens(length)) for row, length in enumerate(self.lengths)]
        advantages = torch.randn(len(rows), generator=torch.Generator().manual_seed(0))
        batch = TrainBatch.from_tokens(rows).with_advantages(advantages)
        return batch.with_loss_weights("token", max(self.lengths))


def evenly_spread(longest: int, count: int) -> list[int]:
    """Lengths from 1 to `longest`, shuffled."""
    lengths = [1 + (longest - 1) * row // (count - 1) for row in range(count)]
    random.Random(0).shuffle(lengths)
    return lengths


def shapes(responses: int) -> dict[str, Shape]:
    """What is measured: lengths without groups, the demo's groups, and those of two recipes."""
    return {
        "equal lengths": Shape(PROMPT_TOKENS, 1, response_lengths("equal", responses)),
        "skewed lengths": Shape(PROMPT_TOKENS, 1, response_lengths("skewed", responses)),
        "groups of the demo (prompts of 25, 8 responses up to 75)": Shape(25, 8, evenly_spread(75, responses)),
        "groups of recipe 4 (prompts of 150, 16 responses up to 200)": Shape(150, 16, evenly_spread(200, responses)),
        "groups of recipe 5 (prompts of 128, 4 responses of 64)": Shape(128, 4, [64] * responses),
    }


def start_learner(path: Path, dtype: Dtype, packing: bool, threads: int, logs: Path) -> Any:
    """Start a learner in a separate process."""
    optimizer = OptimizerConfig(learning_rate=1e-12, adam_betas=(BETA1, 0.95), max_norm=0.0)
    model = ModelConfig(path=path, dtype=dtype, packing=packing)
    policy = PolicyConfig(zero_stage=1, micro_batch_tokens=MICRO_BATCH_TOKENS, threads=threads)
    learner = learner_settings(model, optimizer, policy, total_updates=1000)
    return start_workers(learner, policy, [Place()], logs, TimedWorker)[0]


def measure(path: Path, dtype: Dtype, shape: Shape, rounds: int, threads: int) -> dict[str, Any]:
    """Time alternating pairs of updates and of log-probs; the first pair is the warm-up and provides the gradients."""
    batch = shape.batch
    shares, actors = {}, {}
    with tempfile.TemporaryDirectory() as logs:
        for name, packing in (("padding", False), ("packing", True)):
            plan = plan_batch(batch, 1, MICRO_BATCH_TOKENS, read_text_config(path).hidden_size, packing)[0]
            shares[name] = [batch.select(rows) for rows in plan]
            actors[name] = start_learner(path, dtype, packing, threads, Path(logs) / name)
        seconds: dict[str, list[dict[str, float]]] = {name: [] for name in actors}
        for number in range(1 + rounds):
            for name in sorted(actors, reverse=number % 2 == 1):
                seconds[name].append(ray.get(actors[name].timed.remote(shares[name])))
            if number == 0:
                padded, packed = ray.get([actors[name].gradient.remote() for name in ("padding", "packing")])
        for actor in actors.values():
            ray.kill(actor)
    pairs = list(zip(seconds["padding"][1:], seconds["packing"][1:], strict=True))
    tokens, computed = sum(batch.lengths), sum(micro.input_ids.numel() for micro in shares["padding"])
    return {
        "seconds": {name: spread([one["update"] for one in measured[1:]]) for name, measured in seconds.items()},
        "speedup": spread([one["update"] / other["update"] for one, other in pairs]),
        "speedup_log_probs": spread([one["log_probs"] / other["log_probs"] for one, other in pairs]),
        "speedup_both": spread([sum(one.values()) / sum(other.values()) for one, other in pairs]),
        "micro_batches": {name: len(share) for name, share in shares.items()},
        "padding_fraction": 1 - tokens / computed,
        "packed_fraction": packed_tokens(shares["packing"]) / tokens,
        "gradient_difference": float((packed - padded).abs().max() / padded.abs().max()),
    }


def packed_tokens(micro_batches: list[TrainBatch]) -> int:
    """Tokens that packed micro-batches compute."""
    return sum(len(pack_rows(micro.input_ids, micro.attention_mask).kept) for micro in micro_batches)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="measured pairs of updates per case")
    parser.add_argument("--responses", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/packing.json")
    args = parser.parse_args(argv)
    dtypes: tuple[Dtype, ...] = ("bfloat16", "float32")
    mixes: dict[str, dict[str, Any]] = {}
    with running_ray():
        for name, shape in shapes(args.responses).items():
            if args.only in name:
                mixes[name] = {"lengths": describe_lengths(list(shape.lengths))}
                for dtype in dtypes:
                    mixes[name][dtype] = measure(args.model, dtype, shape, args.rounds, args.threads)
                    print(f"{name}, {dtype}: {mixes[name][dtype]}", flush=True)
    settings = {"model": args.model.name, "micro_batch_tokens": MICRO_BATCH_TOKENS, "threads": args.threads}
    write_result(args.output, settings | {"rounds": args.rounds, "mixes": mixes})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
