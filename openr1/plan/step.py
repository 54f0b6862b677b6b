"""Estimates the seconds of a training step, phase by phase."""

import os

from openr1.config.sections import ModelConfig
from openr1.config.train import TrainConfig
from openr1.placement.layouts import Placement
from openr1.plan.hardware import Gpu, Speed, cpu_speed, gpu_speed
from openr1.plan.times import EngineModel, StepSeconds, Workload, generate_seconds, optimizer_seconds, seconds_of
from openr1.plan.traces import Traces, mean_micro_batch, reference_settings

STATE_BYTES = 12
"""Of the optimizer state, per parameter: master weight and two moments in float32."""


class StepTimes:
    """A step of a placed run. Rewards are left out: they are computed while other responses are sampled."""

    def __init__(
        self, config: TrainConfig, placement: Placement, gpu: Gpu | None, traces: Traces, work: Workload
    ) -> None:
        """Take what a step depends on; `gpu` is not used by a placement on the CPU."""
        self._config = config
        self._placement = placement
        self._gpu = gpu if placement.on_gpu else None
        self._traces = traces
        self._work = work
        self._batch = mean_micro_batch(config, work.prompt_length, work.response_length)

    def estimate(self) -> StepSeconds:
        """Seconds by phase."""
        algorithm, policy, placement = self._config.algorithm, self._config.policy, self._placement
        model = self._config.model
        generate, reference = self._generate(), self._reference()
        later = 1.0 if algorithm.max_epochs > 1 else max(0.0, 1 - policy.train_batch_size / self._work.responses)
        old = later * self._passes(model, len(placement.policy), backward=False)
        update = self._update(model, values=False)
        if placement.critic:
            values = self._passes(self._config.critic_model, len(placement.critic), backward=False, values=True)
            update += values + self._update(self._config.critic_model, values=True)
        push = self._push() + self._moves()
        return StepSeconds(generate, reference, old, update, push, self._step(generate, reference, old + update + push))

    def _step(self, generate: float, reference: float, training: float) -> float:
        """Phases on the same GPUs, or on the same cores, add up; others overlap where they do not wait."""
        placement = self._placement
        apart = placement.on_gpu and not any(placement.shares_gpus(index) for index in range(len(placement.engines)))
        sampling = max(generate, reference) if apart and placement.layout == "separate" else generate + reference
        if self._config.rollout.max_staleness == 0:
            return sampling + training
        if placement.layout == "half":
            # The reference shares the policy's GPUs.
            return max(generate, reference + training)
        return max(sampling, training) if apart or self._has_cores_for_both() else sampling + training

    def _has_cores_for_both(self) -> bool:
        """Whether engines and training workers on the CPU can run side by side."""
        config, placement = self._config, self._placement
        threads = len(placement.engines) * config.rollout.threads + len(placement.policy) * config.policy.threads
        return not placement.on_gpu and threads <= (os.cpu_count() or 1)

    def _generate(self) -> float:
        rollout, engines = self._config.rollout, len(self._placement.engines)
        if engines == 0:
            return 0.0
        traced = self._traces.model(reference_settings(self._config.model))
        model = EngineModel(traced.weight_bytes, traced.token_flops, traced.kv_bytes)
        speed = self._speed(rollout.threads, engines)
        return generate_seconds(self._work, model, engines, rollout.max_num_seqs, speed, rollout.tensor_parallel_size)

    def _reference(self) -> float:
        """Of a reference model, or of the policy without its adapters."""
        config, placement = self._config, self._placement
        if not config.has_reference:
            return 0.0
        copies = len(placement.reference) or len(placement.policy)
        return self._passes(reference_settings(config.reference_model), copies, backward=False)

    def _update(self, model: ModelConfig, *, values: bool) -> float:
        """All optimizer steps of a training step."""
        policy, ranks = self._config.policy, len(self._placement.policy)
        trained = self._traces.model(model, values).trained_elements
        optimizer = optimizer_seconds(trained, ranks, self._speed(policy.threads, ranks))
        passes = self._config.algorithm.max_epochs * self._passes(model, ranks, backward=True, values=values)
        return passes + self._config.updates_per_step * optimizer

    def _passes(self, model: ModelConfig, num_copies: int, *, backward: bool, values: bool = False) -> float:
        """Passes over all responses, which the copies of a model share."""
        cost = self._traces.cost(model, self._batch, backward=backward, values=values)
        micro_batches = self._work.tokens / self._batch.tokens / num_copies
        return micro_batches * seconds_of(cost.operations, self._speed(self._config.policy.threads, num_copies))

    def _push(self) -> float:
        if not self._placement.engines:
            return 0.0
        speed = self._speed(self._config.policy.threads, 1)
        num_bytes = self._traces.pushed_bytes(self._config.model)
        return speed.push_seconds + num_bytes / speed.push_bandwidth

    def _moves(self) -> float:
        """Of the optimizer state to host memory and back (`placement.sleep`)."""
        config, placement = self._config, self._placement
        if self._gpu is None or not config.placement.sleep or config.optimizer.offload == "cpu":
            return 0.0
        share = self._traces.model(config.model).trained_elements / len(placement.policy)
        return 2 * STATE_BYTES * share / self._speed(config.policy.threads, 1).host_bandwidth

    def _speed(self, threads: int, processes: int) -> Speed:
        """Of one of several processes at work at the same time; on the CPU they share its cores."""
        if self._gpu is not None:
            return gpu_speed(self._gpu)
        return cpu_speed(min(threads, (os.cpu_count() or 1) / processes))
