"""The composition root: builds every actor from the config. Only this file constructs actors."""

from pathlib import Path

from ray.actor import ActorHandle

from openr1.config.sections import ModelConfig, OptimizerConfig, PolicyConfig
from openr1.config.train import TrainConfig
from openr1.interfaces import Critic, Policy, Reference, Rollout
from openr1.rollout.engine import EngineActor, EngineSettings
from openr1.rollout.pool import RolloutPool
from openr1.runtime.ray_calls import gather
from openr1.runtime.ray_cluster import start_actor
from openr1.weight_sync.backends import WEIGHT_TRANSFER_BACKEND, ShmSenderFactory
from openr1.workers.deepspeed.build_locks import check_build_locks, extensions_folder
from openr1.workers.group import CriticGroup, GroupSettings, PolicyGroup, ReferenceClient
from openr1.workers.model import hidden_size
from openr1.workers.reference import ReferenceWorker
from openr1.workers.rope import rope_scaling_overrides
from openr1.workers.settings import LearnerSettings, ReferenceSettings, WorkerSettings
from openr1.workers.worker import TrainWorker

ENGINE_VARIABLES = {
    # The actor steps vLLM in its own process.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
WORKER_CPU_VARIABLES = {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}
ENGINE_CPU_VARIABLES = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "GLOO_SOCKET_IFNAME": "lo"}


class Actors:
    """The actors of one RL run, behind the interfaces that the trainer uses."""

    rollout: Rollout
    per_engine_rollouts: list[RolloutPool]
    reference: Reference | None
    policy: Policy
    critic: Critic | None

    def __init__(
        self, config: TrainConfig, on_gpu: bool, shared_memory: Path, *, with_engines: bool, with_reference: bool
    ) -> None:
        """Start engines, reference, policy and critic side by side, and connect the policy to the engines."""
        logs, timeout = config.run.folder / "logs", config.policy.timeout_seconds
        engines = start_engines(train_engine_settings(config, on_gpu), config.rollout.threads) if with_engines else []
        reference = _start_reference(config, on_gpu, logs) if with_reference else None
        optimizer, policy = config.optimizer, config.policy
        learner = learner_settings(config.model, optimizer, policy, config.policy_updates, config.rollout.temperature)
        group = start_policy(learner, policy, on_gpu, logs)
        if engines:
            wait_for_engines(engines, config.rollout.timeout_seconds)
            group.connect_engines(ShmSenderFactory(engines, str(shared_memory), timeout))
        pool = RolloutPool(engines, config.rollout.timeout_seconds)
        self.rollout, self.per_engine_rollouts, self.policy = pool, pool.per_engine(), group
        self.reference = None
        if reference is not None:
            self.reference = ReferenceClient(reference, policy.micro_batch_tokens, timeout)
        self.critic = _start_critic(config, on_gpu, logs) if config.has_critic else None


def engine_settings(
    model: ModelConfig,
    *,
    max_model_len: int,
    max_num_seqs: int,
    kv_cache_gib: float,
    on_gpu: bool,
    log_path: Path,
    env: str = "single_turn",
) -> EngineSettings:
    """Settings of one engine, for training, evaluation and benchmarks alike."""
    return EngineSettings(
        model_path=model.path.resolve(),
        dtype=model.dtype,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        kv_cache_bytes=int(kv_cache_gib * 2**30),
        config_overrides=rope_scaling_overrides(model),
        on_gpu=on_gpu,
        weight_transfer_backend=WEIGHT_TRANSFER_BACKEND,
        log_path=log_path.resolve(),
        env=env,
    )


def train_engine_settings(config: TrainConfig, on_gpu: bool) -> list[EngineSettings]:
    """Settings of a run's engines."""
    rollout = config.rollout
    return [
        engine_settings(
            config.model,
            max_model_len=config.data.prompt_max_len + rollout.generate_max_len,
            max_num_seqs=rollout.max_num_seqs,
            kv_cache_gib=rollout.kv_cache_gib,
            on_gpu=on_gpu,
            log_path=config.run.folder / "logs" / f"engine_{index}.log",
            env=rollout.env,
        )
        for index in range(rollout.num_engines)
    ]


def start_engines(settings: list[EngineSettings], threads: int) -> list[ActorHandle]:
    """Start one engine for each of `settings`; returns at once."""
    return [
        start_actor(EngineActor, threads, one.on_gpu, ENGINE_VARIABLES | _on_cpu(one.on_gpu, ENGINE_CPU_VARIABLES), one)
        for one in settings
    ]


def wait_for_engines(engines: list[ActorHandle], timeout_seconds: float) -> None:
    """Block until every engine has loaded its model."""
    starting = [engine.ready.remote() for engine in engines]
    gather(starting, timeout_seconds, f"the run waits for {len(engines)} engine(s) to start")


def start_rollout(settings: list[EngineSettings], threads: int, timeout_seconds: float) -> RolloutPool:
    """Only engines, for evaluation."""
    engines = start_engines(settings, threads)
    wait_for_engines(engines, timeout_seconds)
    return RolloutPool(engines, timeout_seconds)


def learner_settings(
    model: ModelConfig, optimizer: OptimizerConfig, policy: PolicyConfig, total_updates: int, temperature: float = 1.0
) -> LearnerSettings:
    """Settings of a policy's learners; `total_updates` is the length of the learning-rate schedule."""
    return LearnerSettings(model, optimizer, policy.zero_stage, temperature, total_updates)


def start_policy(learner: LearnerSettings, policy: PolicyConfig, on_gpu: bool, logs: Path) -> PolicyGroup:
    """Start the ranks of a policy and have them load the model."""
    workers = start_workers(learner, policy, on_gpu, logs)
    return PolicyGroup(workers, group_settings(learner, policy))


def start_workers(
    learner: LearnerSettings, policy: PolicyConfig, on_gpu: bool, logs: Path, kind: type[TrainWorker] = TrainWorker
) -> list[ActorHandle]:
    """Start the ranks of the policy or the critic and have them load the model; `kind` may add methods (tests)."""
    check_build_locks(extensions_folder())
    variables = {"TORCH_EXTENSIONS_DIR": str(extensions_folder())} | _on_cpu(on_gpu, WORKER_CPU_VARIABLES)
    workers = []
    for rank in range(policy.num_ranks):
        log_path = (logs / f"{learner.role}_{rank}.log").resolve()
        settings = WorkerSettings(rank, policy.num_ranks, policy.threads, on_gpu, policy.timeout_seconds, log_path)
        workers.append(start_actor(kind, policy.threads, on_gpu, variables, settings))
    starting = f"the run waits for {learner.role} rank 0 to start"
    port = gather([workers[0].open_store.remote()], policy.timeout_seconds, starting)[0]
    calls = [worker.load_model.remote(port, learner) for worker in workers]
    gather(calls, policy.timeout_seconds, f"the run waits for {len(workers)} {learner.role} rank(s) to load the model")
    return workers


def group_settings(learner: LearnerSettings, policy: PolicyConfig) -> GroupSettings:
    """How the ranks of a model share out a batch."""
    size, packing = hidden_size(learner.model), learner.model.packing
    return GroupSettings(learner.role, policy.micro_batch_tokens, policy.timeout_seconds, size, packing)


def _start_critic(config: TrainConfig, on_gpu: bool, logs: Path) -> CriticGroup:
    learner = LearnerSettings(
        config.critic_model,
        config.optimizer.model_copy(update={"learning_rate": config.critic.learning_rate}),
        config.policy.zero_stage,
        config.rollout.temperature,
        config.num_steps * config.updates_per_step,
        role="critic",
    )
    return CriticGroup(start_workers(learner, config.policy, on_gpu, logs), group_settings(learner, config.policy))


def _start_reference(config: TrainConfig, on_gpu: bool, logs: Path) -> ActorHandle:
    settings = ReferenceSettings(
        model=config.model,
        temperature=config.rollout.temperature,
        micro_batch_tokens=config.policy.micro_batch_tokens,
        threads=config.policy.threads,
        on_gpu=on_gpu,
        log_path=(logs / "reference.log").resolve(),
    )
    variables = _on_cpu(on_gpu, WORKER_CPU_VARIABLES)
    return start_actor(ReferenceWorker, config.policy.threads, on_gpu, variables, settings)


def _on_cpu(on_gpu: bool, variables: dict[str, str]) -> dict[str, str]:
    return {} if on_gpu else variables
