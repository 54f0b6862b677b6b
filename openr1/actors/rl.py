"""The composition root of RL: what a run needs to be placed, and all of its actors."""

from functools import partial
from pathlib import Path

from openr1.actors.engines import start_engines, train_engine_settings, transport_of, wait_for_engines
from openr1.actors.gpu_memory import KeptMemory, MemoryInTurns, put_to_sleep
from openr1.actors.workers import learner_settings, start_critic, start_policy, start_reference, wait_for_references
from openr1.config.train import TrainConfig
from openr1.data.template import run_template
from openr1.interfaces import Critic, GpuMemory, Policy, Reference, Rollout
from openr1.placement.group import Places
from openr1.placement.layouts import Demand
from openr1.rollout.pool import RolloutPool
from openr1.runtime.console import say
from openr1.runtime.restarts import Restarts
from openr1.weight_sync.backends import SenderFactory
from openr1.workers.reference_client import BaseModelReference, ReferenceClient


class Actors:
    """The actors of one RL run, behind the interfaces that the trainer uses."""

    rollout: Rollout
    per_engine_rollouts: list[RolloutPool]
    reference: Reference | None
    policy: Policy
    critic: Critic | None
    memory: GpuMemory

    def __init__(self, config: TrainConfig, places: Places, shared_memory: Path, *, with_reference: bool) -> None:
        """Start the actors in their places, and connect the policy to the engines."""
        logs, timeout = config.run.folder / "logs", config.policy.timeout_seconds
        transport = transport_of(config, places) if places.engines else "shm"
        if transport != "shm":
            say(f"weights reach the engines by {transport}")
        rollout = config.rollout
        settings = train_engine_settings(config, places)
        engines = start_engines(settings, rollout.threads, places.engines, rollout.max_restarts)
        sleep = config.placement.sleep and places.placement.on_gpu
        if sleep or any(places.placement.shares_gpus(index) for index in range(len(engines))):
            # vLLM measures the free memory while it starts: nobody else may take any then.
            wait_for_engines(engines, rollout.timeout_seconds)
        if sleep:
            # Training has the first turn: it starts in the memory that the engines release.
            put_to_sleep(engines, timeout)
        elif config.placement.sleep:
            say("placement.sleep has no effect on the CPU: the memory of processes is not divided there")
        references = [start_reference(config, place, index, logs) for index, place in enumerate(places.reference)]
        optimizer, policy = config.optimizer, config.policy
        template = run_template(config)
        learner = learner_settings(
            config.model, optimizer, policy, config.policy_updates, rollout.temperature, template
        )
        group = start_policy(learner, policy, places.policy, logs, transport)
        if references:
            wait_for_references(references, timeout)
        if engines:
            wait_for_engines(engines, rollout.timeout_seconds)
            group.connect_engines(SenderFactory(transport, engines, str(shared_memory), timeout))
        recover = partial(group.reconnect_engines, engines)
        pool = RolloutPool(engines, rollout.timeout_seconds, recover)
        self.rollout, self.per_engine_rollouts, self.policy = pool, pool.per_engine(), group
        self.reference = None
        if references:
            self.reference = ReferenceClient(references, policy.micro_batch_tokens, timeout)
        elif with_reference:
            self.reference = BaseModelReference(group)
        self.critic = critic = start_critic(config, places.critic, logs) if config.has_critic else None
        trained = [group] if critic is None else [group, critic]
        self._restarts = {"engine/restarts": Restarts(engines), "reference/restarts": Restarts(references)}
        self.memory = MemoryInTurns(engines, trained, timeout) if sleep else KeptMemory()

    def restarts(self) -> dict[str, float]:
        """How often engines and references were started again so far, as metrics."""
        return {name: float(restarts.count()) for name, restarts in self._restarts.items()}


def train_demand(config: TrainConfig) -> Demand:
    """What an RL run needs to be placed; a replay needs less."""
    rollout, policy, debug = config.rollout, config.policy, config.debug
    return Demand(
        ranks=policy.num_ranks,
        engines=0 if debug.reads("rollout") else rollout.num_engines,
        gpus_per_engine=rollout.tensor_parallel_size,
        critic=config.has_critic,
        reference=config.has_reference_model and not debug.reads("advantage"),
        max_ranks=policy.train_batch_size,
        max_engines=rollout.rollout_batch_size,
        sleep=config.placement.sleep,
    )
