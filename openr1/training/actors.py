"""The composition root: builds every actor from the config. Only this file constructs actors."""

from collections.abc import Sequence
from pathlib import Path

from ray.actor import ActorHandle

from openr1.config.sections import ModelConfig, OptimizerConfig, PolicyConfig
from openr1.config.train import RolloutConfig, TrainConfig
from openr1.interfaces import Critic, Policy, Reference, Rollout
from openr1.placement.group import Place, Places, options_of
from openr1.placement.layouts import Demand
from openr1.rollout.engine import EngineActor, EngineSettings
from openr1.rollout.pool import RolloutPool
from openr1.runtime.ray_calls import gather
from openr1.runtime.ray_cluster import start_actor
from openr1.weight_sync.backends import WEIGHT_TRANSFER_BACKEND, ShmSenderFactory
from openr1.workers.deepspeed.build_locks import check_build_locks, extensions_folder
from openr1.workers.group import CriticGroup, GroupSettings, PolicyGroup
from openr1.workers.model import hidden_size
from openr1.workers.reference import ReferenceWorker
from openr1.workers.reference_client import BaseModelReference, ReferenceClient
from openr1.workers.rope import rope_scaling_overrides
from openr1.workers.settings import LearnerSettings, ReferenceSettings, WorkerSettings
from openr1.workers.worker import TrainWorker

ENGINE_VARIABLES = {
    # The actor steps vLLM in its own process.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    # The workers of tensor parallelism: a fork would copy the locks of this process's threads.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
WORKER_CPU_VARIABLES = {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}
# Micro-batches differ in size; fixed segments would fragment.
WORKER_GPU_VARIABLES = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
ENGINE_CPU_VARIABLES = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "GLOO_SOCKET_IFNAME": "lo"}

GPU_MEMORY_ALONE, GPU_MEMORY_SHARED = 0.9, 0.3
"""Part of a GPU's memory that an engine takes by default: of one of its own, and of one with training workers."""


class Actors:
    """The actors of one RL run, behind the interfaces that the trainer uses."""

    rollout: Rollout
    per_engine_rollouts: list[RolloutPool]
    reference: Reference | None
    policy: Policy
    critic: Critic | None

    def __init__(self, config: TrainConfig, places: Places, shared_memory: Path, *, with_reference: bool) -> None:
        """Start the actors in their places, and connect the policy to the engines."""
        logs, timeout = config.run.folder / "logs", config.policy.timeout_seconds
        engines = start_engines(train_engine_settings(config, places), config.rollout.threads, places.engines)
        if engines and places.placement.shares_gpus(0):
            # vLLM measures the free memory while it starts: nobody else may take any then.
            wait_for_engines(engines, config.rollout.timeout_seconds)
        references = [_start_reference(config, place, index, logs) for index, place in enumerate(places.reference)]
        optimizer, policy = config.optimizer, config.policy
        learner = learner_settings(config.model, optimizer, policy, config.policy_updates, config.rollout.temperature)
        group = start_policy(learner, policy, places.policy, logs)
        if engines:
            wait_for_engines(engines, config.rollout.timeout_seconds)
            group.connect_engines(ShmSenderFactory(engines, str(shared_memory), timeout))
        pool = RolloutPool(engines, config.rollout.timeout_seconds)
        self.rollout, self.per_engine_rollouts, self.policy = pool, pool.per_engine(), group
        self.reference = None
        if references:
            self.reference = ReferenceClient(references, policy.micro_batch_tokens, timeout)
        elif with_reference:
            self.reference = BaseModelReference(group)
        self.critic = _start_critic(config, places.critic, logs) if config.has_critic else None


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
    )


def engine_settings(
    model: ModelConfig,
    *,
    max_model_len: int,
    max_num_seqs: int,
    log_path: Path,
    places: Places,
    index: int,
    tensor_parallel_size: int = 1,
    kv_cache_gib: float | None = None,
    gpu_memory_utilization: float | None = None,
    env: str = "single_turn",
) -> EngineSettings:
    """Settings of engine `index` of a run, for training, evaluation and benchmarks alike."""
    place, on_gpu = places.engines[index], places.placement.on_gpu
    share = GPU_MEMORY_SHARED if on_gpu and places.placement.shares_gpus(index) else GPU_MEMORY_ALONE
    if kv_cache_gib is None and not on_gpu:
        kv_cache_gib = 1.0
    return EngineSettings(
        model_path=model.path.resolve(),
        dtype=model.dtype,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        kv_cache_bytes=None if kv_cache_gib is None else int(kv_cache_gib * 2**30),
        gpu_memory_utilization=gpu_memory_utilization or share,
        tensor_parallel_size=tensor_parallel_size,
        visible_devices="" if place is None else place.visible,
        config_overrides=rope_scaling_overrides(model),
        on_gpu=on_gpu,
        weight_transfer_backend=WEIGHT_TRANSFER_BACKEND,
        log_path=log_path.resolve(),
        env=env,
    )


def train_engine_settings(config: TrainConfig, places: Places) -> list[EngineSettings]:
    """Settings of a run's engines."""
    rollout: RolloutConfig = config.rollout
    return [
        engine_settings(
            config.model,
            max_model_len=config.data.prompt_max_len + rollout.generate_max_len,
            max_num_seqs=rollout.max_num_seqs,
            log_path=config.run.folder / "logs" / f"engine_{index}.log",
            places=places,
            index=index,
            tensor_parallel_size=rollout.tensor_parallel_size,
            kv_cache_gib=rollout.kv_cache_gib,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            env=rollout.env,
        )
        for index in range(len(places.engines))
    ]


def start_engines(settings: list[EngineSettings], threads: int, places: Sequence[Place | None]) -> list[ActorHandle]:
    """Start one engine for each of `settings`; returns at once."""
    return [
        start_actor(
            EngineActor,
            threads,
            options_of(place),
            ENGINE_VARIABLES | ({} if one.on_gpu else ENGINE_CPU_VARIABLES),
            one,
        )
        for one, place in zip(settings, places, strict=True)
    ]


def wait_for_engines(engines: list[ActorHandle], timeout_seconds: float) -> None:
    """Block until every engine has loaded its model."""
    starting = [engine.ready.remote() for engine in engines]
    gather(starting, timeout_seconds, f"the run waits for {len(engines)} engine(s) to start")


def start_rollout(
    settings: list[EngineSettings], threads: int, places: Sequence[Place | None], timeout_seconds: float
) -> RolloutPool:
    """Only engines, for evaluation."""
    engines = start_engines(settings, threads, places)
    wait_for_engines(engines, timeout_seconds)
    return RolloutPool(engines, timeout_seconds)


def learner_settings(
    model: ModelConfig, optimizer: OptimizerConfig, policy: PolicyConfig, total_updates: int, temperature: float = 1.0
) -> LearnerSettings:
    """Settings of a policy's learners; `total_updates` is the length of the learning-rate schedule."""
    return LearnerSettings(model, optimizer, policy.zero_stage, temperature, total_updates)


def start_policy(
    learner: LearnerSettings, policy: PolicyConfig, places: Sequence[Place | None], logs: Path
) -> PolicyGroup:
    """Start the ranks of a policy and have them load the model."""
    workers = start_workers(learner, policy, places, logs, TrainWorker)
    return PolicyGroup(workers, group_settings(learner, policy))


def start_workers(
    learner: LearnerSettings,
    policy: PolicyConfig,
    places: Sequence[Place | None],
    logs: Path,
    kind: type[TrainWorker] = TrainWorker,
) -> list[ActorHandle]:
    """Start the ranks of the policy or the critic and have them load the model; `kind` may add methods (tests)."""
    check_build_locks(extensions_folder())
    workers = []
    for rank, place in enumerate(places):
        on_gpu = place is not None
        log_path = (logs / f"{learner.role}_{rank}.log").resolve()
        settings = WorkerSettings(rank, len(places), policy.threads, on_gpu, policy.timeout_seconds, log_path)
        workers.append(start_actor(kind, policy.threads, options_of(place), worker_variables(on_gpu), settings))
    starting = f"the run waits for {learner.role} rank 0 to start"
    port = gather([workers[0].open_store.remote()], policy.timeout_seconds, starting)[0]
    calls = [worker.load_model.remote(port, learner) for worker in workers]
    gather(calls, policy.timeout_seconds, f"the run waits for {len(workers)} {learner.role} rank(s) to load the model")
    return workers


def worker_variables(on_gpu: bool) -> dict[str, str]:
    """Environment of a training worker or a reference."""
    folder = {"TORCH_EXTENSIONS_DIR": str(extensions_folder())}
    return folder | (WORKER_GPU_VARIABLES if on_gpu else WORKER_CPU_VARIABLES)


def group_settings(learner: LearnerSettings, policy: PolicyConfig) -> GroupSettings:
    """How the ranks of a model share out a batch."""
    size, packing = hidden_size(learner.model), learner.model.packing
    return GroupSettings(learner.role, policy.micro_batch_tokens, policy.timeout_seconds, size, packing)


def _start_critic(config: TrainConfig, places: Sequence[Place | None], logs: Path) -> CriticGroup:
    learner = LearnerSettings(
        config.critic_model,
        config.optimizer.model_copy(update={"learning_rate": config.critic.learning_rate}),
        config.policy.zero_stage,
        config.rollout.temperature,
        config.num_steps * config.updates_per_step,
        role="critic",
    )
    workers = start_workers(learner, config.policy, places, logs, TrainWorker)
    return CriticGroup(workers, group_settings(learner, config.policy))


def _start_reference(config: TrainConfig, place: Place | None, index: int, logs: Path) -> ActorHandle:
    on_gpu = place is not None
    settings = ReferenceSettings(
        model=config.model,
        temperature=config.rollout.temperature,
        micro_batch_tokens=config.policy.micro_batch_tokens,
        threads=config.policy.threads,
        on_gpu=on_gpu,
        log_path=(logs / f"reference_{index}.log").resolve(),
    )
    return start_actor(ReferenceWorker, config.policy.threads, options_of(place), worker_variables(on_gpu), settings)
