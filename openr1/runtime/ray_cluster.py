"""A Ray cluster of a run's own, on this machine, and actors with a controlled environment."""

import logging
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock, Timeout
from ray._private import ray_constants
from ray.actor import ActorHandle

from openr1.errors import MissingError
from openr1.runtime.interrupts import INTERRUPTS
from openr1.runtime.nodes import Cluster, connected_cluster
from openr1.runtime.process import python_environment
from openr1.runtime.ray_calls import ray_errors

SHARED_MEMORY = Path("/dev/shm")  # nosec B108 # `own_folder` makes folders that only their owner can open


LONGEST_TMPDIR = 18
"""Bytes. Ray creates Unix sockets up to 88 bytes deeper (8 of them for the process id), and their paths end at 107."""


def folder_for_ray() -> Path:
    """Where Ray may keep its files: TMPDIR, or /tmp if that is too long."""
    folder = Path(tempfile.gettempdir())
    return folder if len(os.fsencode(folder)) <= LONGEST_TMPDIR else Path("/tmp")  # nosec B108 # see above


@contextmanager
def own_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Create a folder for the block and remove it afterwards. Leftovers of killed processes are removed, too.

    A file lock shows whether the owner of a folder is alive, since the system releases the lock when the process dies.
    A process id would not work where several containers share `parent`.
    """
    for lock_path in parent.glob(f"{prefix}*/.lock"):
        with suppress(Timeout, OSError), FileLock(lock_path, timeout=0):
            shutil.rmtree(lock_path.parent, ignore_errors=True)
    # Short, because Ray creates Unix sockets in it, whose paths are limited to 107 bytes.
    folder = parent / f"{prefix}{os.getpid()}-{uuid.uuid4().hex[:4]}"
    folder.mkdir(mode=0o700)
    with FileLock(folder / ".lock"):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_ray(num_gpus: int | None = None) -> Iterator[Cluster]:
    """Run a Ray cluster of one node for the block. Its processes and its temporary folder are gone afterwards.

    Its processes listen on the loopback address only: other machines cannot connect. Who connects on this machine needs
    Ray's token (unless RAY_AUTH_MODE is set to another mode), which other users cannot read.

    `num_gpus` is what Ray counts; None: the GPUs of the machine.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    # By default Ray runs actors at niceness 15; here they do all the work.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's spelling)
    # Set within a Ray job, for the job's own process; a Ray that starts there would show all GPUs to every actor.
    os.environ.pop("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", None)
    keep_token_private()
    with own_folder(folder_for_ray(), "openr1-ray-") as files, INTERRUPTS.polled(), _on_loopback():
        try:
            ray.init(
                # Also where RAY_ADDRESS is set.
                address="local",
                _temp_dir=str(files),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                num_gpus=num_gpus,
                # Actors request GPUs, and next to no CPUs: they share the cores, with thread counts of their own.
                num_cpus=1,
            )
            # ray.init replaces our SIGTERM handler with one that aborts the process.
            with INTERRUPTS.installed(), ray_errors():
                yield connected_cluster(is_own=True)
        finally:
            ray.shutdown()


def keep_token_private() -> None:
    """Let only its owner read the token that Ray keeps in the home folder: whoever has it can run code in the cluster.

    Ray writes it with the usual permissions, which let everybody read it, if the file is not there or empty.
    """
    ours = os.environ.get("RAY_AUTH_MODE", "token") == "token"
    if ours and not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        path = Path.home() / ".ray" / "auth_token"
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """For the block, a Ray that starts is one for this machine alone, as it always is on macOS.

    Otherwise it would listen on all interfaces. `ray.init(_node_ip_address="127.0.0.1")` does not help: Ray replaces
    this address by one that other machines can reach. Its variable RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is read once, when
    Ray is imported; and a run that joins a cluster needs the other value.
    """
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = True


def shared_memory_folder(num_bytes: int = 0) -> AbstractContextManager[Path]:
    """A folder in shared memory for weight transfers, removed after the block.

    Raises:
        MissingError: There is no room for `num_bytes`.
    """
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < num_bytes:
        raise MissingError(
            f"{SHARED_MEMORY} has {free / 2**30:.2f} GiB free, and a push of the weights needs "
            f"{num_bytes / 2**30:.2f}: free some, or start the container with more, as in docker run --shm-size=16g"
        )
    return own_folder(SHARED_MEMORY, "openr1-")


def start_actor(
    kind: type, threads: int, options: dict[str, Any], variables: dict[str, str], settings: Any
) -> ActorHandle:
    """Start an actor in its own process, with `variables` and the thread count set before anything is imported.

    `options` are Ray's, and say where it runs and which part of a GPU it gets.
    """
    environment = {
        # Otherwise Ray derives OMP_NUM_THREADS from num_cpus.
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": python_environment()["PYTHONPATH"],
        # Tools of this Python's environment, such as ninja, with which DeepSpeed compiles.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "TOKENIZERS_PARALLELISM": "false",
        # The threads of all actors share few cores, so waiting threads must not spin (4 times slower if they do).
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
    }
    if not options["num_gpus"]:
        # Ray leaves the variable alone for an actor without GPUs, which would then see all of them.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    # Not by `options`, which takes no concurrency groups.
    return ray.remote(runtime_env={"env_vars": environment | variables}, **options)(kind).remote(settings)
