"""The composition root: starts Ray and builds every actor from the config. Only this file constructs actors."""

import logging
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import torch
from filelock import FileLock, Timeout
from ray.actor import ActorHandle

from openr1.config.train import PolicyConfig, TrainConfig
from openr1.errors import ConfigError, MissingError
from openr1.rollout.engine import EngineActor, EngineSettings
from openr1.rollout.pool import RolloutPool
from openr1.runtime.interrupts import INTERRUPTS
from openr1.runtime.ray_calls import gather
from openr1.weight_sync.backends import WEIGHT_TRANSFER_BACKEND
from openr1.workers.group import CriticGroup, PolicyGroup, ReferenceLine
from openr1.workers.model import hidden_size
from openr1.workers.reference import ReferenceActor
from openr1.workers.rope import position_overrides
from openr1.workers.settings import LearnerSettings, RankSettings, ReferenceSettings
from openr1.workers.worker import CriticActor, PolicyActor, RankActor

SHARED_MEMORY = Path("/dev/shm")
STALE_LOCK_SECONDS = 120
PYTHON_PATH = str(Path(__file__).resolve().parents[2])


def check_machine(num_gpus_needed: int) -> bool:
    """Whether to use GPUs; needs as many as there are actors, or none at all.

    Raises:
        ConfigError: The machine has GPUs, but fewer than needed.
    """
    found = torch.cuda.device_count()
    if found == 0:
        return False
    if found < num_gpus_needed:
        raise ConfigError(
            f"this config needs {num_gpus_needed} GPUs (policy.num_ranks, as many for the critic of gae, "
            f"rollout.num_engines, 1 for the reference), this machine has {found}; lower them, or hide the GPUs with "
            "CUDA_VISIBLE_DEVICES= to run on the CPU"
        )
    return True


def gpus_needed(config: TrainConfig) -> int:
    """GPUs that a run takes where there are any: one an actor."""
    models = 1 + int(config.has_critic)
    return models * config.policy.num_ranks + config.num_engines + int(config.has_reference)


def check_build_locks(extensions: Path) -> None:
    """Refuse to wait for a build of DeepSpeed's ops that nobody is making.

    Raises:
        MissingError: A lock file is left over; every load of the op would wait for it for ever. Younger ones than
            STALE_LOCK_SECONDS may belong to a process that is loading the op right now.
    """
    for lock in sorted(extensions.glob("*/lock")):
        age = time.time() - lock.stat().st_mtime
        if age > STALE_LOCK_SECONDS:
            raise MissingError(
                f"{lock}: a build of a DeepSpeed op has been locked for {age:.0f} s, most likely by a build that was "
                "killed; remove the file and run `make setup` again"
            )


def extensions_folder() -> Path:
    """Where set-up compiled DeepSpeed's ops."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path(sys.prefix) / "torch_extensions"))


@contextmanager
def own_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder for the block, removed after it, and before it those of this prefix whose processes were killed.

    Whose process lives is told by a lock, which the system takes back from a dead one; a process number would say
    little where containers share the folder.
    """
    for held in parent.glob(f"{prefix}*/.lock"):
        with suppress(Timeout, OSError), FileLock(held, timeout=0):
            shutil.rmtree(held.parent, ignore_errors=True)
    # Short, since Ray keeps sockets in it, whose paths may have 107 bytes.
    folder = parent / f"{prefix}{os.getpid()}-{uuid.uuid4().hex[:4]}"
    folder.mkdir(mode=0o700)
    with FileLock(folder / ".lock"):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_ray() -> Iterator[None]:
    """A Ray of this run's own, with its files in a temporary folder; gone, processes and files, after the block."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Ray would run actors at niceness 15; here they are the program.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)
    with own_folder(Path(tempfile.gettempdir()), "openr1-ray-") as files, INTERRUPTS.polled():
        try:
            ray.init(
                _temp_dir=str(files),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                # Actors declare GPUs alone: on a small machine they share the cores, with threads set explicitly.
                num_cpus=1,
            )
            # Ray has put a handler of its own in place of ours, which would abort the process on SIGTERM.
            with INTERRUPTS.installed():
                yield
        finally:
            ray.shutdown()


def shared_memory_folder() -> AbstractContextManager[Path]:
    """A folder in shared memory for pushes of weights, removed after the block."""
    return own_folder(SHARED_MEMORY, "openr1-")


def start_actor(kind: type, threads: int, on_gpu: bool, settings: Any) -> ActorHandle:
    """Start an actor in a process of its own, with its threads set and chatter turned down."""
    variables = {
        # Ray would set OMP_NUM_THREADS from num_cpus.
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": PYTHON_PATH,
        "TOKENIZERS_PARALLELISM": "false",
        # Threads of several actors share few cores: those that wait must not spin (4 times slower where they do).
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "TORCH_EXTENSIONS_DIR": str(extensions_folder()),
        # One process an engine: the actor steps vLLM itself.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if not on_gpu:
        variables |= {"DS_ACCELERATOR": "cpu", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "GLOO_SOCKET_IFNAME": "lo"}
    options = {"num_cpus": 0, "num_gpus": int(on_gpu), "runtime_env": {"env_vars": variables}}
    return ray.remote(kind).options(**options).remote(settings)


def start_policy(
    learner: LearnerSettings,
    policy: PolicyConfig,
    on_gpu: bool,
    logs: Path,
    kind: type[RankActor] = PolicyActor,
) -> list[ActorHandle]:
    """Start the ranks of the policy, or of what else learns, and have them load the model."""
    check_build_locks(extensions_folder())
    actors = []
    for rank in range(policy.num_ranks):
        log_path = (logs / f"{learner.role}_{rank}.log").resolve()
        settings = RankSettings(rank, policy.num_ranks, policy.threads, on_gpu, policy.timeout_seconds, log_path)
        actors.append(start_actor(kind, policy.threads, on_gpu, settings))
    starting = f"the run waits for {learner.role} rank 0 to start"
    port = gather([actors[0].open_store.remote()], policy.timeout_seconds, starting)[0]
    calls = [actor.load_model.remote(port, learner) for actor in actors]
    gather(calls, policy.timeout_seconds, f"the run waits for {len(actors)} {learner.role} rank(s) to load the model")
    return actors


def wait_for_engines(engines: list[ActorHandle], timeout_seconds: float) -> None:
    """Block until every engine has loaded its model."""
    starting = [engine.ready.remote() for engine in engines]
    gather(starting, timeout_seconds, f"the run waits for {len(engines)} engine(s) to start")


def start_rollout(settings: list[EngineSettings], threads: int, timeout_seconds: float) -> RolloutPool:
    """Engines alone, one for each of `settings`, for evaluation."""
    engines = [start_actor(EngineActor, threads, one.on_gpu, one) for one in settings]
    wait_for_engines(engines, timeout_seconds)
    return RolloutPool(engines, timeout_seconds)


class Stages:
    """The actors of one run, behind the interfaces that the trainer uses."""

    def __init__(
        self, config: TrainConfig, on_gpu: bool, shared_memory: Path, policy_kind: type[PolicyActor] = PolicyActor
    ) -> None:
        """Start engines, reference and policy side by side, and connect the policy to the engines, if there are any.

        `policy_kind` lets a test give the ranks more methods.
        """
        logs = config.run.folder / "logs"
        model_path = config.model.path.resolve()
        engines = [self._start_engine(config, index, on_gpu, model_path, logs) for index in range(config.num_engines)]
        reference = self._start_reference(config, on_gpu, logs) if config.has_reference else None
        learner = LearnerSettings(
            config.model,
            config.optimizer,
            config.policy.zero_stage,
            config.rollout.temperature,
            config.policy_updates,
            config.algorithm.entropy_coef > 0,
        )
        ranks = start_policy(learner, config.policy, on_gpu, logs, policy_kind)
        timeout = config.policy.timeout_seconds
        if engines:
            wait_for_engines(engines, config.rollout.timeout_seconds)
            calls = [rank.connect_engines.remote(engines, str(shared_memory)) for rank in ranks]
            gather(calls, timeout, "the run waits for the policy to connect to the engines")
        self.engines, self.ranks = engines, ranks
        self.rollout = RolloutPool(engines, config.rollout.timeout_seconds)
        self.single_engines = self.rollout.alone()
        self.reference = ReferenceLine(reference, config.policy.micro_batch_tokens, timeout) if reference else None
        size = hidden_size(config.model)
        self.policy = PolicyGroup(ranks, config.policy.micro_batch_tokens, timeout, size, packing=config.model.packing)
        self.critic = self._start_critic(config, on_gpu, logs) if config.has_critic else None

    @staticmethod
    def _start_critic(config: TrainConfig, on_gpu: bool, logs: Path) -> CriticGroup:
        policy = config.policy
        learner = LearnerSettings(
            config.critic_model,
            config.optimizer.model_copy(update={"learning_rate": config.critic.learning_rate}),
            policy.zero_stage,
            config.rollout.temperature,
            config.num_steps * config.updates_per_step,
            role="critic",
        )
        ranks = start_policy(learner, policy, on_gpu, logs, CriticActor)
        size = hidden_size(config.critic_model)
        packing = config.model.packing
        return CriticGroup(ranks, policy.micro_batch_tokens, policy.timeout_seconds, size, packing=packing)

    @staticmethod
    def _start_engine(config: TrainConfig, index: int, on_gpu: bool, model_path: Path, logs: Path) -> ActorHandle:
        rollout = config.rollout
        settings = EngineSettings(
            model_path=model_path,
            dtype=config.model.dtype,
            max_model_len=config.data.prompt_max_len + rollout.generate_max_len,
            max_num_seqs=rollout.max_num_seqs,
            kv_cache_bytes=int(rollout.kv_cache_gib * 2**30),
            config_overrides=position_overrides(config.model),
            on_gpu=on_gpu,
            weight_transfer_backend=WEIGHT_TRANSFER_BACKEND,
            log_path=(logs / f"engine_{index}.log").resolve(),
        )
        return start_actor(EngineActor, rollout.threads, on_gpu, settings)

    @staticmethod
    def _start_reference(config: TrainConfig, on_gpu: bool, logs: Path) -> ActorHandle:
        settings = ReferenceSettings(
            model=config.model,
            temperature=config.rollout.temperature,
            micro_batch_tokens=config.policy.micro_batch_tokens,
            threads=config.policy.threads,
            on_gpu=on_gpu,
            log_path=(logs / "reference.log").resolve(),
        )
        return start_actor(ReferenceActor, config.policy.threads, on_gpu, settings)
