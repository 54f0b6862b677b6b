"""One training step versus the bare computation (vLLM and PyTorch alone), in one run on one machine.

    python -m benchmarks.step_time [--steps 8] [--output benchmarks/results/step_time.json]

The trainer runs the demo's config without overlap: rewards and the reference pass start only after generation, and do
not overlap with each other. After each step, vLLM alone samples the same prompts with the same seeds, and a bare
PyTorch model processes the same tokens, packed in the same way: forward for the reference; forward, backward and AdamW
for the update. The
learning rate of 1e-12 keeps the weights fixed, so that both do the same work. Times of the bare computation are called
raw:

    rest = (step wall time - sum of the raw times) / step wall time

Then the same number of steps runs with overlap, to report the fraction of wall time covered by the union of the phases.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch

from benchmarks.machine import ROOT, spread, write_result
from benchmarks.trainers import make_trainer
from openr1.actors.engines import ENGINE_CPU_VARIABLES, ENGINE_VARIABLES, train_engine_settings
from openr1.actors.rl import Actors, train_demand
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import Objective, StepStats
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.data.chat import end_token_ids
from openr1.data.tokenizer import load_tokenizer
from openr1.inputs.datasets import load_datasets, prompt_stream
from openr1.interfaces import Policy, Reference, RewardSource, Rollout
from openr1.placement.group import Place, Places
from openr1.rewards.client import RewardClient
from openr1.rewards.process import running_reward_server
from openr1.rollout.engine import EngineSettings, build_llm, to_vllm
from openr1.runtime.ray_cluster import running_ray, shared_memory_folder, start_actor
from openr1.training.advantage_stage import AdvantageEstimation
from openr1.training.frozen import DetachedPolicy
from openr1.training.stages import Stages
from openr1.types import Grade, Group, Prompt, SamplingParams, WeightVersion
from openr1.workers.micro_batches import plan_batch
from openr1.workers.model import hidden_size, hidden_states, load_causal_lm, packs_rows

Sums = TypeVar("Sums", bound=tuple[float, ...])
PHASES = ("generate", "reward", "reference", "update", "sync")


class Clock:
    """Intervals (start, end) of each phase, in seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.intervals: dict[str, list[tuple[float, float]]] = {}
        self.restart()

    def restart(self) -> None:
        self.intervals = {phase: [] for phase in PHASES}

    def add(self, phase: str, start: float) -> None:
        self.intervals[phase].append((start, time.monotonic()))

    def union(self, *phases: str) -> float:
        """Seconds during which at least one of the phases was running."""
        total, reached = 0.0, 0.0
        for start, end in sorted(interval for phase in phases for interval in self.intervals[phase]):
            total += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return total


class TimedRollout:
    """Times generation and keeps the request for the raw engine; `serial` returns groups only when all are complete."""

    def __init__(self, rollout: Rollout, clock: Clock, serial: bool) -> None:
        self._rollout, self._clock, self._serial = rollout, clock, serial
        self.request: tuple[Sequence[Prompt], SamplingParams] | None = None

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> Iterator[Group]:
        start = time.monotonic()
        self.request = (prompts, sampling)
        groups = self._rollout.generate(prompts, sampling)
        if self._serial:
            groups = iter(list(groups))
            self._clock.add("generate", start)
            yield from groups
        else:
            yield from groups
            self._clock.add("generate", start)


class TimedRewards:
    """Times the grading of each group, from request to response."""

    def __init__(self, rewards: RewardSource, clock: Clock) -> None:
        self._rewards, self._clock = rewards, clock

    def submit(self, group: Group) -> "Future[list[Grade]]":
        start = time.monotonic()
        future = self._rewards.submit(group)
        future.add_done_callback(lambda _: self._clock.add("reward", start))
        return future


class TimedReference:
    """Times the wait for log-probs; `serial` requests them only in `collect`."""

    def __init__(self, reference: Reference, clock: Clock, serial: bool) -> None:
        self._reference, self._clock, self._serial = reference, clock, serial

    def submit(self, group: Group) -> None:
        if not self._serial:
            self._reference.submit(group)

    def collect(self, groups: Sequence[Group]) -> torch.Tensor:
        start = time.monotonic()
        if self._serial:
            for group in groups:
                self._reference.submit(group)
        log_probs = self._reference.collect(groups)
        self._clock.add("reference", start)
        return log_probs


class TimedPolicy(DetachedPolicy):
    """Times optimizer steps and weight pushes, and keeps the batch for the raw model."""

    def __init__(self, policy: Policy, clock: Clock) -> None:
        super().__init__(policy)
        self._connected, self._clock = policy, clock
        self.batch: TrainBatch | None = None

    def step(self, batch: TrainBatch, objective: Objective[Any, Sums], apply: bool = True) -> StepStats[Sums]:
        start = time.monotonic()
        self.batch = batch
        stats = super().step(batch, objective, apply)
        self._clock.add("update", start)
        return stats

    def push_weights(self, version: WeightVersion) -> None:
        start = time.monotonic()
        self._connected.push_weights(version)
        self._clock.add("sync", start)


class RawEngine:
    """vLLM alone, in a separate process."""

    def __init__(self, settings: EngineSettings) -> None:
        self._llm = build_llm(settings)
        self._end_token_ids = end_token_ids(load_tokenizer(settings.model_path))

    def generate(self, prompts: list[Prompt], sampling: SamplingParams) -> float:
        """Return the seconds to sample all prompts."""
        self._llm.reset_prefix_cache()
        responses = [(prompt, index) for prompt in prompts for index in range(sampling.n_samples_per_prompt)]
        start = time.monotonic()
        self._llm.generate(
            [{"prompt_token_ids": list(prompt.token_ids)} for prompt, _ in responses],
            [
                to_vllm(sampling, sampling.seed_of(prompt, index), sampling.generate_max_len, self._end_token_ids)
                for prompt, index in responses
            ],
            use_tqdm=False,
        )
        return time.monotonic() - start


class RawModel:
    """A bare PyTorch model with AdamW, in a separate process; rows are packed as in the run."""

    def __init__(self, config: TrainConfig) -> None:
        torch.set_num_threads(config.policy.threads)
        self._lm = load_causal_lm(config.model)
        self._optimizer = torch.optim.AdamW(self._lm.parameters(), lr=1e-12, fused=True)

    def _log_probs(self, batch: TrainBatch) -> torch.Tensor:
        hidden = hidden_states(self._lm.base_model, batch.input_ids, batch.attention_mask)
        chosen = batch.response_mask[:, 1:]
        logits = self._lm.get_output_embeddings()(hidden[:, :-1][chosen]).float()
        return torch.log_softmax(logits, -1).gather(-1, batch.input_ids[:, 1:][chosen][:, None]).squeeze(-1)

    def forward(self, micro_batches: list[TrainBatch]) -> float:
        """Return the seconds to compute log-probs of all tokens."""
        start = time.monotonic()
        with torch.no_grad():
            for batch in micro_batches:
                self._log_probs(batch)
        return time.monotonic() - start

    def update(self, micro_batches: list[TrainBatch], num_tokens: int) -> float:
        """Return the seconds of forward, backward and one optimizer step."""
        start = time.monotonic()
        for batch in micro_batches:
            assert batch.advantages is not None
            log_probs = self._log_probs(batch)
            advantages = batch.advantages[:, 1:][batch.response_mask[:, 1:]]
            (-(torch.exp(log_probs - log_probs.detach()) * advantages).sum() / num_tokens).backward()
        torch.nn.utils.clip_grad_norm_(self._lm.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return time.monotonic() - start


def raw_scores(groups: list[Group]) -> float:
    """Return the seconds to grade all responses in this process."""
    from reward_server.scoring import get_score
    from reward_server.tasks import find_task

    start = time.monotonic()
    for group in groups:
        for response in group.responses:
            get_score(
                find_task(group.prompt.task), response.text, group.prompt.label, finish_reason=response.finish_reason
            )
    return time.monotonic() - start


def raw_sync(model_bytes: int, folder: Path) -> float:
    """Return the seconds to write and read as many bytes through shared memory."""
    data = os.urandom(model_bytes)
    start = time.monotonic()
    path = folder / "raw"
    path.write_bytes(data)
    path.read_bytes()
    path.unlink()
    return time.monotonic() - start


class TimedStages:
    """The stages of a run with a clock around each; `serial` prevents that they overlap."""

    def __init__(self, stages: Stages, serial: bool) -> None:
        assert stages.reference is not None
        self.clock = Clock()
        self.rollout = TimedRollout(stages.rollout, self.clock, serial)
        self.policy = TimedPolicy(stages.policy, self.clock)
        self.stages = replace(
            stages,
            rollout=self.rollout,
            rewards=TimedRewards(stages.rewards, self.clock),
            reference=TimedReference(stages.reference, self.clock, serial),
            policy=self.policy,
        )


def measure(config: TrainConfig, steps: int, url: str) -> dict[str, Any]:
    """Time paired serial and raw steps, then steps with overlap; the first of each kind is a discarded warm-up."""
    prompts = prompt_stream(config, load_datasets(config))
    with RewardClient(url) as rewards, shared_memory_folder() as shared, running_ray():
        rewards.wait_until_ready()
        actors = Actors(config, Places.on_cpu(train_demand(config)), shared, with_reference=True)
        stages = Stages.of_actors(actors, rewards, AdvantageEstimation(config.algorithm, critic=None))
        raw = RawSide(config, shared)
        timed = TimedStages(stages, serial=True)
        trainer = make_trainer(config, timed.stages, prompts)
        serial, overlapped = [], []
        for _ in range(steps + 1):
            timed.clock.restart()
            result = trainer.step()
            phases = {phase: timed.clock.union(phase) for phase in PHASES}
            seconds = raw.times(timed.rollout, timed.policy, result.experience.groups)
            serial.append((result.metrics["time/step_seconds"], phases, seconds))
        state, timed = trainer.state, TimedStages(stages, serial=False)
        trainer = make_trainer(config, timed.stages, prompts)
        trainer.restore(state)
        for _ in range(steps + 1):
            timed.clock.restart()
            wall = trainer.step().metrics["time/step_seconds"]
            overlapped.append((wall, timed.clock.union(*PHASES)))
    return summarize(serial[1:], overlapped[1:])


class RawSide:
    """Repeats the work of a step as bare computation."""

    def __init__(self, config: TrainConfig, shared: Path) -> None:
        self._shared, self._micro_batch_tokens = shared, config.policy.micro_batch_tokens
        self._hidden_size, self._packing = hidden_size(config.model), packs_rows(config.model)
        settings = train_engine_settings(config, Places.on_cpu(train_demand(config)))[0]
        variables = ENGINE_VARIABLES | ENGINE_CPU_VARIABLES
        self._engine = start_actor(RawEngine, config.rollout.threads, Place().options, variables, settings)
        self._model = start_actor(RawModel, config.policy.threads, Place().options, {}, config)
        self._model_bytes = sum(path.stat().st_size for path in config.model.path.glob("*.safetensors"))

    def times(self, rollout: TimedRollout, policy: TimedPolicy, groups: list[Group]) -> dict[str, float]:
        """Return the seconds of each phase for the work of the last step."""
        assert rollout.request is not None
        assert policy.batch is not None
        (prompts, sampling), batch = rollout.request, policy.batch
        plan = plan_batch(batch, 1, self._micro_batch_tokens, self._hidden_size, self._packing)[0]
        micro_batches = [batch.select(rows) for rows in plan]
        return {
            "generate": ray.get(self._engine.generate.remote(list(prompts), sampling)),
            "reward": raw_scores(groups),
            "reference": ray.get(self._model.forward.remote(micro_batches)),
            "update": ray.get(self._model.update.remote(micro_batches, batch.num_response_tokens)),
            "sync": raw_sync(self._model_bytes, self._shared),
        }


def summarize(
    serial: list[tuple[float, dict[str, float], dict[str, float]]], overlapped: list[tuple[float, float]]
) -> dict[str, Any]:
    """Return medians and ranges over the measured steps."""
    return {
        "steps": len(serial),
        "step_seconds": spread([wall for wall, _, _ in serial]),
        "phase_seconds": {phase: spread([phases[phase] for _, phases, _ in serial]) for phase in PHASES},
        "raw_seconds": {phase: spread([raw[phase] for _, _, raw in serial]) for phase in PHASES},
        "outside_phases_fraction": spread([1 - sum(phases.values()) / wall for wall, phases, _ in serial]),
        "rest_fraction": spread([(wall - sum(raw.values())) / wall for wall, _, raw in serial]),
        "sync_fraction": spread([phases["sync"] / wall for wall, phases, _ in serial]),
        "with_overlap": {
            "step_seconds": spread([wall for wall, _ in overlapped]),
            "union_of_phases_fraction": spread([union / wall for wall, union in overlapped]),
        },
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, default=ROOT / "scripts/configs/grpo_countdown_tiny.yaml")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/step_time.json")
    args = parser.parse_args(argv)
    folder = ["--run.output_dir", "runs/benchmarks", "--run.name", f"step_time-{os.getpid()}"]
    config = load_config(TrainConfig, args.config, [*folder, "--optimizer.learning_rate", "1.0e-12"])
    with running_reward_server() as url:
        result = measure(config, args.steps, url)
    write_result(args.output, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
