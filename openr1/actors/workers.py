"""Starts training workers: the ranks of policy and critic, and copies of the reference model."""

from collections.abc import Sequence
from pathlib import Path

from ray.actor import ActorHandle

from openr1.config.sections import ModelConfig, OptimizerConfig, PolicyConfig
from openr1.config.train import TrainConfig
from openr1.data.template import OWN_TEMPLATE, ChatTemplate
from openr1.placement.group import Place
from openr1.runtime.ray_calls import gather, numbered
from openr1.runtime.ray_cluster import start_actor
from openr1.workers.deepspeed.build_locks import check_build_locks, extensions_folder
from openr1.workers.group import CriticGroup, GroupSettings, PolicyGroup
from openr1.workers.model import hidden_size, packs_rows
from openr1.workers.reference import REFERENCE_OPTIONS, ReferenceWorker
from openr1.workers.settings import LearnerSettings, ReferenceSettings, WorkerSettings
from openr1.workers.worker import TrainWorker

# Nothing is compiled, but DeepSpeed imports an optimizer that would load the compiler: a second, and 50 MB.
WORKER_CPU_VARIABLES = {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"}
# Micro-batches differ in size; fixed segments would fragment. CUDA IPC cannot hand out memory of expandable ones.
WORKER_GPU_VARIABLES = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


def learner_settings(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    policy: PolicyConfig,
    total_updates: int,
    temperature: float = 1.0,
    template: ChatTemplate = OWN_TEMPLATE,
) -> LearnerSettings:
    """Settings of a policy's learners; `total_updates` is the length of the learning-rate schedule."""
    return LearnerSettings(model, optimizer, policy.zero_stage, temperature, total_updates, template=template)


def start_policy(
    learner: LearnerSettings, policy: PolicyConfig, places: Sequence[Place], logs: Path, transport: str = "shm"
) -> PolicyGroup:
    """Start the ranks of a policy and have them load the model; `transport` will bring its weights to engines."""
    workers = start_workers(learner, policy, places, logs, TrainWorker, transport)
    return PolicyGroup(workers, group_settings(learner, policy))


def start_workers(
    learner: LearnerSettings,
    policy: PolicyConfig,
    places: Sequence[Place],
    logs: Path,
    kind: type[TrainWorker] = TrainWorker,
    transport: str = "shm",
) -> list[ActorHandle]:
    """Start the ranks of the policy or the critic and have them load the model; `kind` may add methods (tests)."""
    check_build_locks(extensions_folder())
    workers = []
    for rank, place in enumerate(places):
        log_path = (logs / f"{learner.role}_{rank}.log").resolve()
        settings = WorkerSettings(
            rank, len(places), policy.threads, place.on_gpu, place.interface, policy.timeout_seconds, log_path
        )
        variables = worker_variables(place.on_gpu, transport)
        workers.append(start_actor(kind, policy.threads, place.options, variables, settings))
    starting = f"the run waits for {learner.role} rank 0 to start"
    store = gather([workers[0].open_store.remote()], policy.timeout_seconds, starting)[0]
    calls = [worker.load_model.remote(store, learner) for worker in workers]
    loading = f"the run waits for {len(workers)} {learner.role} rank(s) to load the model"
    gather(calls, policy.timeout_seconds, loading, numbered(f"{learner.role} rank", len(workers)))
    return workers


def worker_variables(on_gpu: bool, transport: str = "shm") -> dict[str, str]:
    """Environment of a training worker or a reference."""
    on_gpus = {} if transport == "ipc" else WORKER_GPU_VARIABLES
    folder = {"TORCH_EXTENSIONS_DIR": str(extensions_folder())}
    return folder | (on_gpus if on_gpu else WORKER_CPU_VARIABLES)


def group_settings(learner: LearnerSettings, policy: PolicyConfig) -> GroupSettings:
    """How the ranks of a model share out a batch."""
    size, packing = hidden_size(learner.model), packs_rows(learner.model)
    return GroupSettings(learner.role, policy.micro_batch_tokens, policy.timeout_seconds, size, packing)


def start_critic(config: TrainConfig, places: Sequence[Place], logs: Path) -> CriticGroup:
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


def start_reference(config: TrainConfig, place: Place, index: int, logs: Path) -> ActorHandle:
    settings = ReferenceSettings(
        model=config.reference_model,
        temperature=config.rollout.temperature,
        micro_batch_tokens=config.policy.micro_batch_tokens,
        threads=config.policy.threads,
        on_gpu=place.on_gpu,
        log_path=(logs / f"reference_{index}.log").resolve(),
    )
    options = place.options | REFERENCE_OPTIONS | {"max_restarts": config.rollout.max_restarts}
    return start_actor(ReferenceWorker, config.policy.threads, options, worker_variables(place.on_gpu), settings)


def wait_for_references(references: list[ActorHandle], timeout_seconds: float) -> None:
    """Block until every copy of the reference has loaded its model."""
    starting = [reference.ready.remote() for reference in references]
    waiting = f"the run waits for {len(references)} reference(s) to load the model"
    gather(starting, timeout_seconds, waiting, numbered("reference", len(references)))
