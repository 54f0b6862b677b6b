"""Real engines and policy ranks for tests of weight pushes: ranks whose weights change, engines that fail on demand."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from safetensors.torch import load_file, save_file

from benchmarks.changing_worker import ChangingWorker
from openr1.actors.engines import start_engines, train_engine_settings, transport_of, wait_for_engines
from openr1.actors.rl import train_demand
from openr1.actors.workers import group_settings, learner_settings, start_workers
from openr1.algorithms.batch import TrainBatch
from openr1.config.train import TrainConfig
from openr1.data.chat import PromptFormat
from openr1.data.prompts import load_prompts
from openr1.data.tokenizer import load_tokenizer
from openr1.placement.group import Places
from openr1.rollout.engine import EngineActor
from openr1.rollout.pool import RolloutPool
from openr1.runtime.ray_cluster import shared_memory_folder
from openr1.types import Group, Prompt, SamplingParams
from openr1.weight_sync.backends import SenderFactory
from openr1.workers.group import PolicyGroup

BOUND = 1e-4
"""Nats that rounding in float32 does not exceed."""


class FailingWorker(ChangingWorker):
    """A policy rank whose weights and surroundings a test can change."""

    def limit_files(self, num_bytes: int | None) -> None:
        """Let this process write no larger files, as if memory were full; None: as large as before."""
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        most = resource.RLIM_INFINITY if num_bytes is None else num_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    def cut(self, num_bytes: int) -> None:
        """Send the weights over gloo in pieces of about this size, from the next connection on."""
        from openr1.weight_sync import gloo

        gloo.BUFFER_BYTES = num_bytes

    def hurry(self, phase_seconds: float) -> None:
        """Give engines this long in each phase of a push."""
        sender: Any = self._sender
        sender._phase_seconds = phase_seconds


class FailingEngine(EngineActor):
    """An engine that fails in a phase of the next updates: start, load or finish."""

    _failures: tuple[str, int, str] = ("", 0, "")

    async def fail(self, phase: str, times: int, how: str) -> None:
        """Fail in `phase`, this often: `raise` an error, `kill` the process, or load only a `part` of the weights."""
        self._failures = (phase, times, how)

    async def pid(self) -> int:
        """The process."""
        return os.getpid()

    async def start_weight_update(self) -> None:
        """Fail, or start."""
        await self._maybe_fail("start")
        await super().start_weight_update()

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Fail, or load."""
        if await self._maybe_fail("load"):
            update_info = spoilt(update_info)
        await super().update_weights(update_info)

    async def finish_weight_update(self, version: int) -> int:
        """Fail, or finish."""
        await self._maybe_fail("finish")
        return await super().finish_weight_update(version)

    async def _maybe_fail(self, phase: str) -> bool:
        failing, times, how = self._failures
        if failing != phase or times == 0:
            return False
        self._failures = (failing, times - 1, how)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "raise":
            raise RuntimeError("this engine was told to fail")
        return True


def spoilt(update_info: dict[str, Any]) -> dict[str, Any]:
    """An update in which one projection of the last layer has a name that no model knows: loading ends there.

    Other layers are loaded then, and of its own layer the queries and keys.
    """
    right, wrong = "layers.1.self_attn.v_proj.", "layers.1.self_attn.unknown."
    if "path" in update_info:
        tensors = load_file(update_info["path"])
        assert any(right in name for name in tensors)
        path = f"{update_info['path']}.spoilt"
        save_file({name.replace(right, wrong): tensor for name, tensor in tensors.items()}, path)
        return {"path": path}
    return update_info | {"names": [name.replace(right, wrong) for name in update_info["names"]]}


@dataclass
class Connected:
    """Engines and a policy that is connected to them."""

    config: TrainConfig
    engines: list[ray.actor.ActorHandle]
    workers: list[ray.actor.ActorHandle]
    policy: PolicyGroup
    prompts: list[Prompt]
    folder: Path
    version: int = 0

    def connect(self) -> None:
        """Connect, or connect again."""
        places = Places.on_cpu(train_demand(self.config))
        transport, timeout = transport_of(self.config, places), self.config.policy.timeout_seconds
        self.policy.connect_engines(SenderFactory(transport, self.engines, str(self.folder), timeout))

    def on_ranks(self, method: str, *arguments: object) -> list[Any]:
        """Call a method on all ranks at the same time."""
        return list(ray.get([getattr(worker, method).remote(*arguments) for worker in self.workers]))

    def push(self) -> None:
        """Push as the next version."""
        self.version += 1
        self.policy.push_weights(self.version)

    def sample(self, engine: int, samples: int = 4) -> list[Group]:
        """Responses of one engine to all prompts."""
        sampling = SamplingParams(samples, 16, 1.0, 1.0, seed=self.version, seed_stream="pushing")
        return list(RolloutPool([self.engines[engine]], 120).generate(self.prompts, sampling))

    def differences(self, version: int, engines: Sequence[int] | None = None) -> list[float]:
        """Largest difference of each engine's log-probs to the policy's, in nats; checks that all are of `version`."""
        found = []
        for engine in range(len(self.engines)) if engines is None else engines:
            groups = self.sample(engine)
            responses = [response for group in groups for response in group.responses]
            assert {(one.weight_version, one.newest_weight_version) for one in responses} == {(version, version)}
            batch = TrainBatch.from_groups(groups)
            difference = (self.policy.log_probs(batch) - batch.rollout_log_probs)[batch.response_mask]
            found.append(float(difference.abs().max()))
        return found


def start_policy(config: TrainConfig, logs: Path) -> tuple[list[ray.actor.ActorHandle], PolicyGroup]:
    """Policy ranks whose weights can be changed."""
    places = Places.on_cpu(train_demand(config))
    learner = learner_settings(config.model, config.optimizer, config.policy, 1)
    workers = start_workers(learner, config.policy, places.policy, logs, FailingWorker)
    return workers, PolicyGroup(workers, group_settings(learner, config.policy))


def replace_policy(engine: Connected, zero_stage: int, logs: Path) -> None:
    """Another policy, at this ZeRO stage, connected to the same engines."""
    values = engine.config.model_dump()
    values["policy"] |= {"zero_stage": zero_stage}
    for worker in engine.workers:
        ray.kill(worker)
    engine.config = type(engine.config).model_validate(values)
    engine.workers, engine.policy = start_policy(engine.config, logs)
    engine.on_ranks("cut", 2**15)
    engine.connect()


@contextmanager
def connected(config: TrainConfig, folder: Path, sizes: Sequence[int] = (1,)) -> Iterator[Connected]:
    """Engines of these tensor-parallel sizes, and a policy that is connected to them."""
    prompts = load_prompts(config.data.train, load_tokenizer(config.model.path), 64, PromptFormat())[:8]
    places = Places.on_cpu(train_demand(config))
    settings = []
    for index, size in enumerate(sizes):
        rollout = config.rollout.model_copy(update={"tensor_parallel_size": size})
        own = train_engine_settings(config.model_copy(update={"rollout": rollout}), places)[index]
        settings.append(own)
    with shared_memory_folder() as shared:
        engines = start_engines(settings, 1, places.engines, 9, FailingEngine)
        workers, policy = start_policy(config, folder / "logs")
        wait_for_engines(engines, 240)
        one = Connected(config, engines, workers, policy, prompts, shared)
        # So that even the tiny model takes many broadcasts.
        one.on_ranks("cut", 2**15)
        one.connect()
        yield one
        for actor in (*one.workers, *engines):
            ray.kill(actor)
