"""A private Ray for one run, and actors with a controlled environment."""

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import torch
from filelock import FileLock, Timeout
from ray.actor import ActorHandle

from openr1.errors import ConfigError
from openr1.runtime.interrupts import INTERRUPTS
from openr1.runtime.process import PYTHON_ROOT

SHARED_MEMORY = Path("/dev/shm")


def check_machine(num_gpus_needed: int) -> bool:
    """Whether to use GPUs: as many as there are actors, or none at all.

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


@contextmanager
def own_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder for the block, removed after it. Folders of this prefix that killed processes left are removed, too.

    A lock tells whether a folder's process is alive: the system releases it when the process dies. A process id would
    not do where containers share the folder.
    """
    for held in parent.glob(f"{prefix}*/.lock"):
        with suppress(Timeout, OSError), FileLock(held, timeout=0):
            shutil.rmtree(held.parent, ignore_errors=True)
    # Short, because Ray keeps sockets in it, whose paths may have at most 107 bytes.
    folder = parent / f"{prefix}{os.getpid()}-{uuid.uuid4().hex[:4]}"
    folder.mkdir(mode=0o700)
    with FileLock(folder / ".lock"):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_ray() -> Iterator[None]:
    """A private Ray with its files in a temporary folder; gone, processes and files, after the block."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Ray would run actors at niceness 15, but here they are the program.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)
    with own_folder(Path(tempfile.gettempdir()), "openr1-ray-") as files, INTERRUPTS.polled():
        try:
            ray.init(
                _temp_dir=str(files),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                # Actors declare only GPUs: on a small machine they share the cores, with threads set explicitly.
                num_cpus=1,
            )
            # ray.init replaces our handler of SIGTERM by one that would abort the process.
            with INTERRUPTS.installed():
                yield
        finally:
            ray.shutdown()


def shared_memory_folder() -> AbstractContextManager[Path]:
    """A folder in shared memory for weight pushes, removed after the block."""
    return own_folder(SHARED_MEMORY, "openr1-")


def start_actor(kind: type, threads: int, on_gpu: bool, variables: dict[str, str], settings: Any) -> ActorHandle:
    """Start an actor in its own process, with `variables` and the thread count set before anything is imported."""
    environment = {
        # Ray would set OMP_NUM_THREADS from num_cpus.
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": PYTHON_ROOT,
        "TOKENIZERS_PARALLELISM": "false",
        # Threads of several actors share few cores: waiting threads must not spin (4 times slower if they do).
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
    }
    options = {"num_cpus": 0, "num_gpus": int(on_gpu), "runtime_env": {"env_vars": environment | variables}}
    return ray.remote(kind).options(**options).remote(settings)
