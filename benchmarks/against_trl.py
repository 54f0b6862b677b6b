"""A training step of openr1 versus TRL's GRPOTrainer with the same model, prompts, group size and response lengths.

    python -m benchmarks.against_trl [--steps 6] [--output benchmarks/results/against_trl.json] [config overrides]

Both trainers stay loaded for the whole benchmark and alternate, one step each, on the same prompts; the other one is
idle meanwhile. openr1 runs the demo's config with all components: Ray, vLLM, DeepSpeed, the reference model, the reward
server over HTTP, and their overlap. TRL samples, scores and trains in one process on all cores, with an in-process
reward function; before the comparison its generation methods and several micro-batch sizes are timed, and the fastest
combination is used.

Response i of prompt p has the same fixed length on both sides, whatever is sampled: 90 tokens (`equal`), or quantiles
of a lognormal distribution with a median of 60, clipped at 600 and shuffled once (`skewed`). The learning rate of 1e-12
keeps the weights fixed.
"""

import argparse
import importlib.metadata
import itertools
import math
import os
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from benchmarks.machine import ROOT, spread, write_result
from benchmarks.trainers import make_trainer
from benchmarks.trl_side import ENVIRONMENT, METHODS, TrlActor, TrlSettings
from openr1.actors.engines import start_engines, train_engine_settings, wait_for_engines
from openr1.actors.rl import Actors, train_demand
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.inputs.datasets import load_datasets, prompt_stream
from openr1.interfaces import RewardSource
from openr1.placement.group import Places
from openr1.rewards.client import RewardClient
from openr1.rewards.process import running_reward_server
from openr1.rollout.engine import EngineActor
from openr1.rollout.pool import RolloutPool
from openr1.runtime.ray_cluster import running_ray, shared_memory_folder
from openr1.training.advantage_stage import AdvantageEstimation
from openr1.training.stages import Stages
from openr1.types import Group
from openr1.weight_sync.backends import SenderFactory
from openr1.workers.group import PolicyGroup

PHASES = ("generate", "reward", "reference", "update", "sync", "step")
EQUAL_LENGTH, MEDIAN_LENGTH, MAX_LENGTH, SIGMA = 90, 60, 600, 0.9
WARM_UP_STEPS = 2
TUNING_STEPS = {"equal": 2, "skewed": 1}
"""Steps per TRL configuration when tuning, of which the last counts; with skewed lengths a step takes a minute."""
MICRO_BATCH_ROWS = (256, 64, 16)
"""Candidates for TRL's micro-batch size; only those that divide the batch are timed."""


def response_lengths(mix: str, count: int) -> list[int]:
    """Return the number of tokens of each response by position in the batch, the same in every step and run."""
    if mix == "equal":
        return [EQUAL_LENGTH] * count
    normal = statistics.NormalDist()
    quantiles = [MEDIAN_LENGTH * math.exp(SIGMA * normal.inv_cdf((index + 0.5) / count)) for index in range(count)]
    lengths = [min(MAX_LENGTH, max(1, round(quantile))) for quantile in quantiles]
    random.Random(0).shuffle(lengths)
    return lengths


def force_lengths(engine: EngineActor, lengths: list[int]) -> None:
    """Patch an engine process: responses have these lengths by position in the batch and ignore end tokens.

    The engine asks for sampling parameters in the order of the prompts, then of their responses.
    """
    from openr1.rollout import engine as engine_module

    to_vllm, positions = engine_module.to_vllm, itertools.count()

    def with_lengths(sampling: Any, seed: int, max_tokens: int, end_token_ids: list[int]) -> Any:
        params = to_vllm(sampling, seed, lengths[next(positions) % len(lengths)], [])
        params.ignore_eos = True
        return params

    engine_module.to_vllm = with_lengths


def start_stages(config: TrainConfig, rewards: RewardSource, shared: Path, lengths: list[int]) -> Stages:
    """Start the actors of a training run, with one engine whose responses have these lengths."""
    demand = train_demand(config)
    actors = Actors(config, Places.on_cpu(replace(demand, engines=0)), shared, with_reference=True)
    places = Places.on_cpu(demand)
    engines = start_engines(train_engine_settings(config, places), config.rollout.threads, places.engines)
    wait_for_engines(engines, config.rollout.timeout_seconds)
    ray.get([engine.__ray_call__.remote(force_lengths, lengths) for engine in engines])
    assert isinstance(actors.policy, PolicyGroup)
    actors.policy.connect_engines(SenderFactory("shm", engines, str(shared), config.policy.timeout_seconds))
    stages = Stages.of_actors(actors, rewards, AdvantageEstimation(config.algorithm, critic=None))
    return replace(stages, rollout=RolloutPool(engines, config.rollout.timeout_seconds))


def to_trl_prompts(groups: Sequence[Group]) -> list[dict[str, str]]:
    """Return the prompts of a step as rows of a TRL dataset."""
    return [{"prompt": group.prompt.text, "label": group.prompt.label} for group in groups]


def tune_trl(trl: Any, batches: list[list[dict[str, str]]], responses: int) -> tuple[dict[str, Any], tuple[str, int]]:
    """Time TRL's configurations; returns seconds per step or the error of each, and the fastest (method, rows).

    Generation does not depend on the micro-batch size, so the second method is timed only with the best size of the
    first.
    """
    timings: dict[str, Any] = {}
    seconds: dict[tuple[str, int], float] = {}
    sizes = [rows for rows in MICRO_BATCH_ROWS if rows <= responses and responses % rows == 0] or [responses]
    for method in METHODS:
        for rows in sizes:
            name = f"{method}, {rows} rows"
            try:
                step = ray.get(trl.steps.remote(method, rows, batches))[-1]
            except ray.exceptions.RayTaskError as error:
                timings[name] = f"failed: {error.cause!r}"[:300]
                continue
            seconds[method, rows] = timings[name] = step["step"]
            print(f"TRL, {name}: {timings[name]:.2f} s a step", flush=True)
        sizes = [min(seconds, key=lambda configuration: seconds[configuration])[1]] if seconds else sizes
    return timings, min(seconds, key=lambda configuration: seconds[configuration])


def measure(config: TrainConfig, mix: str, steps: int, url: str) -> dict[str, Any]:
    """Measure one distribution of lengths: tune TRL, then time paired steps of both trainers."""
    responses = config.rollout.rollout_batch_size * config.rollout.n_samples_per_prompt
    lengths = response_lengths(mix, responses)
    prompts = prompt_stream(config, load_datasets(config))
    threads = os.cpu_count() or 1
    with RewardClient(url) as rewards, shared_memory_folder() as shared, running_ray():
        rewards.wait_until_ready()
        trl = start_trl(config, lengths, threads)
        trainer = make_trainer(config, start_stages(config, rewards, shared, lengths), prompts)
        groups = trainer.step().experience.groups
        check_lengths(groups, lengths)
        tuning, best = tune_trl(trl, [to_trl_prompts(groups)] * TUNING_STEPS[mix], responses)
        # Start a new process: continuous batching keeps a core busy once it has been used.
        ray.kill(trl)
        trl = start_trl(config, lengths, threads)
        pairs = []
        for number in range(WARM_UP_STEPS + steps):
            result = trainer.step()
            check_lengths(result.experience.groups, lengths)
            openr1_seconds = {phase: result.metrics[f"time/{phase}_seconds"] for phase in PHASES}
            trl_seconds = ray.get(trl.steps.remote(*best, [to_trl_prompts(result.experience.groups)]))[0]
            print(
                f"{mix}, step {number}: openr1 {openr1_seconds['step']:.2f} s, TRL {trl_seconds['step']:.2f} s",
                flush=True,
            )
            pairs.append((openr1_seconds, trl_seconds))
    return {
        "lengths": describe_lengths(lengths),
        "trl_tried": tuning,
        "trl_best": "{}, {} rows".format(*best),
    } | summarize(pairs[WARM_UP_STEPS:], responses)


def start_trl(config: TrainConfig, lengths: list[int], threads: int) -> Any:
    """Start the TRL process; unlike in openr1's actors its idle threads may spin, which is PyTorch's default."""
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
    return ray.remote(TrlActor).options(num_cpus=0, runtime_env={"env_vars": variables}).remote(settings)


def check_lengths(groups: Sequence[Group], lengths: list[int]) -> None:
    """Assert that all responses have the requested lengths."""
    found = [len(response.token_ids) for group in groups for response in group.responses]
    assert found == lengths, f"expected lengths {lengths}, found {found}"


def describe_lengths(lengths: list[int]) -> dict[str, float]:
    """Return statistics of the lengths."""
    return {
        "responses": len(lengths),
        "median": statistics.median(lengths),
        "mean": statistics.mean(lengths),
        "max": max(lengths),
    }


def summarize(pairs: list[tuple[dict[str, float], dict[str, float]]], responses: int) -> dict[str, Any]:
    """Return medians and ranges of both trainers and of the ratio TRL / openr1 of paired steps."""
    result: dict[str, Any] = {"steps": len(pairs)}
    for side, steps in (("openr1", [ours for ours, _ in pairs]), ("trl", [theirs for _, theirs in pairs])):
        result[side] = {
            "seconds": {phase: spread([step[phase] for step in steps]) for phase in steps[0]},
            "samples_per_second": responses / statistics.median(step["step"] for step in steps),
        }
    # Above 1, openr1 is faster.
    result["speedup"] = spread([theirs["step"] / ours["step"] for ours, theirs in pairs])
    return result


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, default=ROOT / "scripts/configs/grpo_countdown_tiny.yaml")
    parser.add_argument("--steps", type=int, default=6, help="measured steps per trainer and distribution of lengths")
    parser.add_argument("--mix", choices=("equal", "skewed"), nargs="+", default=["equal", "skewed"])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/against_trl.json")
    args, overrides = parser.parse_known_args(argv)
    result = {}
    for mix in args.mix:
        words = ["--run.output_dir", "runs/benchmarks", "--run.name", f"against_trl-{mix}-{os.getpid()}"]
        words += ["--optimizer.learning_rate", "1.0e-12", *overrides]
        words += ["--rollout.generate_max_len", str(EQUAL_LENGTH if mix == "equal" else MAX_LENGTH)]
        with running_reward_server() as url:
            result[mix] = measure(load_config(TrainConfig, args.config, words), mix, args.steps, url)
    write_result(args.output, {"trl": importlib.metadata.version("trl"), "overrides": overrides, "mixes": result})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
