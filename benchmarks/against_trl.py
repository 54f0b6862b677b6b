"""A training step of openr1 against one of TRL's GRPOTrainer: same model, prompts, group size and lengths, in turns.

    python -m benchmarks.against_trl [--steps 6] [--output benchmarks/results/against_trl.json] [config overrides]

Both sides stay up for the whole run and take turns, one step each, on the same prompts; the one whose turn it is not
waits. openr1 runs the demo's config with all its parts: Ray, vLLM, DeepSpeed, the reference, the reward server over
HTTP, and its overlap. TRL samples, scores and trains in one process on all cores, the reward a function in it; before
the comparison it tries its ways to sample and some sizes of micro-batch, and the fastest takes part.

Response i of prompt p is ended after as many tokens on both sides, whatever is sampled: 90 each (`equal`), or quantiles
of a lognormal distribution of median 60, cut at 600 and shuffled once (`skewed`). Weights stay as they are (learning
rate 1e-12).
"""

import argparse
import importlib.metadata
import itertools
import math
import os
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from benchmarks.machine import ROOT, reward_server, spread, write_result
from benchmarks.trl_side import ENVIRONMENT, METHODS, TrlSettings, TrlSide
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.data.prompts import PromptStream, PromptFormat, load_prompts, load_tokenizer
from openr1.rewards.client import RewardClient
from openr1.rollout.engine import EngineActor
from openr1.runtime.interrupts import Interrupts
from openr1.training.cluster import Stages, running_ray, shared_memory_folder
from openr1.training.trainer import StepRecord, Trainer
from openr1.types import Group

PHASES = ("generate", "reward", "reference", "update", "sync", "step")
EQUAL, MEDIAN, LONGEST, SIGMA = 90, 60, 600, 0.9
WARM_UP = 2
TRIED_STEPS = {"equal": 2, "skewed": 1}
"""Steps of each way of TRL, of which the last counts; skewed lengths take it a minute a step."""
ROWS = (256, 64, 16)
"""Sizes of TRL's micro-batches that are tried; those that divide the batch."""


def lengths_of(mix: str, count: int) -> list[int]:
    """Tokens of each response by its place in the batch, the same in every step and every run."""
    if mix == "equal":
        return [EQUAL] * count
    normal = statistics.NormalDist()
    quantiles = [MEDIAN * math.exp(SIGMA * normal.inv_cdf((place + 0.5) / count)) for place in range(count)]
    lengths = [min(LONGEST, max(1, round(quantile))) for quantile in quantiles]
    random.Random(0).shuffle(lengths)
    return lengths


def impose_lengths(engine: EngineActor, lengths: list[int]) -> None:
    """In an engine's process: responses have these lengths by their place in the batch, and no end token ends them."""
    from vllm.v1.engine.parallel_sampling import ParentRequest

    from openr1.rollout import engine as engine_module

    to_vllm, params_of_child = engine_module.to_vllm, ParentRequest._get_child_sampling_params
    places = itertools.count()

    def with_lengths(sampling: Any, prompt: Any, _: list[int]) -> Any:
        params = to_vllm(sampling, prompt, [])
        first = next(places) * params.n % len(lengths)
        params.ignore_eos = True
        params.extra_args = {"lengths": lengths[first : first + params.n]}
        return params

    def child_with_length(parent: Any, index: int) -> Any:
        params = params_of_child(parent, index)
        params.max_tokens = parent.sampling_params.extra_args["lengths"][index]
        return params

    engine_module.to_vllm = with_lengths  # type: ignore[assignment]
    ParentRequest._get_child_sampling_params = child_with_length


def prompts_of(groups: Sequence[Group]) -> list[dict[str, str]]:
    """A step's prompts as TRL's dataset has them."""
    return [{"prompt": group.prompt.text, "label": group.prompt.label} for group in groups]


def try_ways(trl: Any, batches: list[list[dict[str, str]]], responses: int) -> tuple[dict[str, Any], tuple[str, int]]:
    """Step seconds of TRL's ways, or why one does not work here; and the fastest: method and rows.

    Generation does not depend on the rows of a micro-batch: the second method is tried with the best of the first.
    """
    tried: dict[str, Any] = {}
    seconds: dict[tuple[str, int], float] = {}
    sizes = [rows for rows in ROWS if rows <= responses and responses % rows == 0] or [responses]
    for method in METHODS:
        for rows in sizes:
            name = f"{method}, {rows} rows"
            try:
                step = ray.get(trl.steps.remote(method, rows, batches))[-1]
            except ray.exceptions.RayTaskError as error:
                tried[name] = f"failed: {error.cause!r}"[:300]
                continue
            seconds[method, rows] = tried[name] = step["step"]
            print(f"TRL, {name}: {tried[name]:.2f} s a step", flush=True)
        sizes = [min(seconds, key=lambda way: seconds[way])[1]] if seconds else sizes
    return tried, min(seconds, key=lambda way: seconds[way])


def measure(config: TrainConfig, mix: str, steps: int, url: str) -> dict[str, Any]:
    """One mix of lengths: TRL finds its best way, then both sides make paired steps."""
    responses = config.rollout.rollout_batch_size * config.rollout.n_samples_per_prompt
    lengths = lengths_of(mix, responses)
    prompts = load_prompts(config.data.train, load_tokenizer(config.model.path), config.data.prompt_max_len, PromptFormat())
    stream = PromptStream(prompts, config.run.seed)
    threads = os.cpu_count() or 1
    with RewardClient(url) as rewards, shared_memory_folder() as shared, running_ray():
        rewards.wait_until_ready()
        trl = start_trl(config, lengths, threads)
        stages = Stages(config, False, shared)
        ray.get([engine.__ray_call__.remote(impose_lengths, lengths) for engine in stages.engines])
        records: list[StepRecord] = []
        trainer = Trainer(
            config,
            stream,
            stages.rollout,
            rewards,
            stages.reference,
            stages.policy,
            Interrupts(),
            records.append,
        )
        first = trainer.step()
        check_lengths(first.groups, lengths)
        tried, best = try_ways(trl, [prompts_of(first.groups)] * TRIED_STEPS[mix], responses)
        # A new process: its continuous batching, once tried, goes on taking a core.
        ray.kill(trl)
        trl = start_trl(config, lengths, threads)
        pairs = []
        for number in range(WARM_UP + steps):
            record = trainer.step()
            ours = {phase: record.metrics[f"time/{phase}_seconds"] for phase in PHASES}
            theirs = ray.get(trl.steps.remote(*best, [prompts_of(record.groups)]))[0]
            print(f"{mix}, step {number}: openr1 {ours['step']:.2f} s, TRL {theirs['step']:.2f} s", flush=True)
            pairs.append((ours, theirs))
    return {"lengths": describe(lengths), "trl_tried": tried, "trl_best": "{}, {} rows".format(*best)} | summarize(
        pairs[WARM_UP:], responses
    )


def start_trl(config: TrainConfig, lengths: list[int], threads: int) -> Any:
    """TRL's process; unlike our actors' its threads may spin while they wait, which is PyTorch's default."""
    settings = TrlSettings(
        model=config.model.path.resolve(),
        dtype=config.model.dtype,
        group=config.rollout.n_samples_per_prompt,
        lengths=lengths,
        temperature=config.rollout.temperature,
        beta=config.algorithm.init_kl_coef,
        learning_rate=config.optimizer.learning_rate,
        threads=threads,
        folder=(config.run.folder / "trl").resolve(),
    )
    variables = ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}
    return ray.remote(TrlSide).options(num_cpus=0, runtime_env={"env_vars": variables}).remote(settings)


def check_lengths(groups: Sequence[Group], lengths: list[int]) -> None:
    """The responses have the lengths that were asked for, each in its place."""
    found = [len(response.token_ids) for group in groups for response in group.responses]
    assert found == lengths, f"{found} instead of {lengths}"


def describe(lengths: list[int]) -> dict[str, float]:
    """Their distribution."""
    return {
        "responses": len(lengths),
        "median": statistics.median(lengths),
        "mean": statistics.mean(lengths),
        "max": max(lengths),
    }


def summarize(pairs: list[tuple[dict[str, float], dict[str, float]]], responses: int) -> dict[str, Any]:
    """Medians and spread of both sides, and of the ratio TRL / openr1 of paired steps: above 1, openr1 is faster."""
    result: dict[str, Any] = {"steps": len(pairs)}
    for side, steps in (("openr1", [ours for ours, _ in pairs]), ("trl", [theirs for _, theirs in pairs])):
        result[side] = {
            "seconds": {phase: spread([step[phase] for step in steps]) for phase in steps[0]},
            "samples_per_second": responses / statistics.median(step["step"] for step in steps),
        }
    result["speedup"] = spread([theirs["step"] / ours["step"] for ours, theirs in pairs])
    return result


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, default=ROOT / "scripts/configs/grpo_countdown_tiny.yaml")
    parser.add_argument("--steps", type=int, default=6, help="measured, of each side and mix")
    parser.add_argument("--mix", choices=("equal", "skewed"), nargs="+", default=["equal", "skewed"])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/against_trl.json")
    args, overrides = parser.parse_known_args(argv)
    result = {}
    for mix in args.mix:
        words = ["--run.output_dir", "runs/benchmarks", "--run.name", f"against_trl-{mix}-{os.getpid()}"]
        words += ["--optimizer.learning_rate", "1.0e-12", *overrides]
        words += ["--rollout.generate_max_len", str(EQUAL if mix == "equal" else LONGEST)]
        with reward_server() as url:
            result[mix] = measure(load_config(TrainConfig, args.config, words), mix, args.steps, url)
    write_result(args.output, {"trl": importlib.metadata.version("trl"), "overrides": overrides, "mixes": result})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
