"""One training step versus the bare computation (vLLM and PyTorch alone), in one run on one machine.

    python -m benchmarks.step_time [--steps 8] [--output benchmarks/results/step_time.json]

The trainer runs the demo's config without overlap: rewards and the reference pass start only after generation, and do
not overlap with each other. After each step, vLLM alone samples the same prompts with the same seeds, and a bare
PyTorch model processes the same tokens: forward for the reference; forward, backward and AdamW for the update. The
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
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks.machine import ROOT, reward_server, spread, write_result
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.policy import PolicyObjective
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.data.prompts import PromptFormat, PromptStream, end_token_ids, load_prompts, load_tokenizer
from openr1.rewards.client import RewardClient
from openr1.rollout.engine import EngineSettings, build_llm, to_vllm
from openr1.runtime.interrupts import Interrupts
from openr1.runtime.ray_cluster import Stages, running_ray, shared_memory_folder, start_actor
from openr1.training.trainer import Policy, Reference, Rollout, StepRecord, Trainer
from openr1.types import Group, Prompt, SamplingParams, Score
from openr1.workers.micro_batches import plan_micro_batches
from openr1.workers.model import load_causal_lm

PHASES = ("generate", "reward", "reference", "update", "sync")


class Clock:
    """Intervals (start, end) of each phase, in seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.intervals: dict[str, list[tuple[float, float]]] = {phase: [] for phase in PHASES}

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

    def __init__(self, rewards: RewardClient, clock: Clock) -> None:
        self._rewards, self._clock = rewards, clock

    def submit(self, group: Group) -> "Future[list[Score]]":
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


class TimedPolicy:
    """Times updates and weight pushes, and keeps the batch for the raw model."""

    def __init__(self, policy: Policy, clock: Clock) -> None:
        self._policy, self._clock = policy, clock
        self.batch: TrainBatch | None = None

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        start = time.monotonic()
        result = self._policy.log_probs(batch)
        self._clock.add("update", start)
        return result

    def update(self, batch: TrainBatch, loss: PolicyObjective) -> dict[str, float]:
        start = time.monotonic()
        self.batch = batch
        result = self._policy.update(batch, loss)
        self._clock.add("update", start)
        return result

    def measure(self, batch: TrainBatch, loss: PolicyObjective) -> dict[str, float]:
        return self._policy.measure(batch, loss)

    def push_weights(self, version: int) -> None:
        start = time.monotonic()
        self._policy.push_weights(version)
        self._clock.add("sync", start)


class RawEngine:
    """vLLM alone, in a separate process."""

    def __init__(self, settings: EngineSettings) -> None:
        self._llm = build_llm(settings)

    def generate(self, prompts: list[Prompt], sampling: SamplingParams) -> float:
        """Return the seconds to sample all prompts."""
        self._llm.reset_prefix_cache()
        ends = end_token_ids(self._llm.get_tokenizer())
        start = time.monotonic()
        self._llm.generate(
            [{"prompt_token_ids": list(prompt.token_ids)} for prompt in prompts],
            [to_vllm(sampling, prompt, ends) for prompt in prompts],
            use_tqdm=False,
        )
        return time.monotonic() - start


class RawModel:
    """A bare PyTorch model with AdamW, in a separate process."""

    def __init__(self, config: TrainConfig) -> None:
        torch.set_num_threads(config.policy.threads)
        self._lm = load_causal_lm(config.model)
        self._optimizer = torch.optim.AdamW(self._lm.parameters(), lr=1e-12, fused=True)

    def _log_probs(self, batch: TrainBatch) -> torch.Tensor:
        hidden = self._lm.base_model(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
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


def measure(config: TrainConfig, steps: int, url: str) -> dict[str, Any]:
    """Time paired serial and raw steps, then steps with overlap; the first of each kind is a discarded warm-up."""
    prompts = load_prompts(
        config.data.train, load_tokenizer(config.model.path), config.data.prompt_max_len, PromptFormat()
    )
    serial, overlapped = [], []
    with RewardClient(url) as rewards, shared_memory_folder() as shared, running_ray():
        rewards.wait_until_ready()
        stages = Stages(config, False, shared)
        raw_engine = start_actor(RawEngine, config.rollout.threads, False, engine_settings(config))
        raw_model = start_actor(RawModel, config.policy.threads, False, config)
        model_bytes = sum(path.stat().st_size for path in config.model.path.glob("*.safetensors"))

        records: list[StepRecord] = []
        stream = PromptStream(prompts, config.run.seed)
        reference = stages.reference
        assert reference is not None

        for step in range(2 * (steps + 1)):
            clock, with_raw = Clock(), step <= steps
            rollout, policy = TimedRollout(stages.rollout, clock, with_raw), TimedPolicy(stages.policy, clock)
            timed_reference = TimedReference(reference, clock, with_raw)
            timed_rewards = TimedRewards(rewards, clock)
            Trainer(
                config, stream, rollout, timed_rewards, timed_reference, policy, Interrupts(), records.append
            ).step()
            wall = records[-1].metrics["time/step_seconds"]
            if with_raw:
                raw = raw_times(raw_engine, raw_model, rollout, policy, records[-1].groups, config, model_bytes, shared)
                serial.append((wall, {phase: clock.union(phase) for phase in PHASES}, raw))
            else:
                overlapped.append((wall, clock.union(*PHASES)))
    return summarize(serial[1:], overlapped[1:])


def raw_times(
    raw_engine: Any,
    raw_model: Any,
    rollout: TimedRollout,
    policy: TimedPolicy,
    groups: list[Group],
    config: TrainConfig,
    model_bytes: int,
    shared: Path,
) -> dict[str, float]:
    """Repeat the work of the last step as bare computation, phase by phase; returns seconds by phase."""
    assert rollout.request is not None
    assert policy.batch is not None
    batch = policy.batch
    plan = plan_micro_batches(batch.lengths, 1, config.policy.micro_batch_tokens)[0]
    micro_batches = [batch.select(rows) for rows in plan]
    return {
        "generate": ray.get(raw_engine.generate.remote(list(rollout.request[0]), rollout.request[1])),
        "reward": raw_scores(groups),
        "reference": ray.get(raw_model.forward.remote(micro_batches)),
        "update": ray.get(raw_model.update.remote(micro_batches, batch.num_response_tokens)),
        "sync": raw_sync(model_bytes, shared),
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


def engine_settings(config: TrainConfig) -> EngineSettings:
    """Return the settings of the demo's engine for the raw engine."""
    return EngineSettings(
        model_path=config.model.path.resolve(),
        dtype=config.model.dtype,
        max_model_len=config.data.prompt_max_len + config.rollout.generate_max_len,
        max_num_seqs=config.rollout.max_num_seqs,
        config_overrides={},
        kv_cache_bytes=int(config.rollout.kv_cache_gib * 2**30),
        on_gpu=False,
        weight_transfer_backend="openr1_shm",
        log_path=(config.run.folder / "logs/raw_engine.log").resolve(),
    )


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, default=ROOT / "scripts/configs/grpo_countdown_tiny.yaml")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/step_time.json")
    args = parser.parse_args()
    folder = ["--run.output_dir", "runs/benchmarks", "--run.name", f"step_time-{os.getpid()}"]
    config = load_config(TrainConfig, args.config, [*folder, "--optimizer.learning_rate", "1.0e-12"])
    with reward_server() as url:
        result = measure(config, args.steps, url)
    write_result(args.output, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
