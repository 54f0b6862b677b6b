"""The sending end of a weight push on every policy rank: vLLM's weight transfer, driven over Ray."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightSource,
)
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from openr1.errors import WeightSyncError
from openr1.interfaces import WeightProvider
from openr1.runtime.console import say
from openr1.types import WeightVersion
from openr1.weight_sync import gloo, ipc, nccl, shm
from openr1.weight_sync.backends import SenderFactory
from openr1.weight_sync.engine_client import EngineClient

ATTEMPTS = 2
PHASES = 7
"""Waiting for engines, a push, and letting go of them after an error each have this part of the timeout, and at most
six of them follow each other. So whoever waits that long for the whole hears which engine lags."""


class ProviderSource(WeightSource):
    """Adapts a `WeightProvider` to vLLM's `WeightSource`: one pass over the weights for each push.

    Gathering a weight is a collective, so whatever happens to a push, every rank must complete the pass.
    """

    def __init__(self, weights: WeightProvider) -> None:
        self._weights = weights
        self._pass: Iterator[tuple[str, torch.Tensor]] = iter(())
        self.has_failed = False
        """Whether the weights themselves could not be read."""

    def metadata(self) -> list[ParamMeta]:
        """Names, dtypes and full shapes, without gathering sharded parameters."""
        return [ParamMeta(name, dtype, shape) for name, dtype, shape in self._weights.weight_shapes()]

    def begin(self) -> None:
        """Start a pass."""
        self._pass = self._read()

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._pass

    def complete(self) -> None:
        """Read what is left of the pass, for the other ranks."""
        for _ in self._pass:
            pass

    def _read(self) -> Iterator[tuple[str, torch.Tensor]]:
        try:
            yield from self._weights.weights()
        except Exception:
            self.has_failed = True
            raise


class Sender:
    """See `interfaces.WeightSender`.

    A push that fails is made once more, over a new connection and when all engines are ready again.
    """

    def __init__(self, weights: WeightProvider, rank: int, factory: SenderFactory) -> None:
        """Connect policy rank `rank` to the engines of `factory`. Every rank calls this."""
        for transport in (shm, gloo, nccl, ipc):
            transport.register()
        self._source = ProviderSource(weights)
        self._rank = rank
        self._factory = factory
        self._phase_seconds = factory.timeout_seconds / PHASES
        self._version: WeightVersion = 0
        self._transfer: TrainerWeightTransferEngine | None = None
        self._client = EngineClient(factory.engines, self._phase_seconds)
        self._connect()

    def push(self, version: WeightVersion) -> None:
        """Push the current weights and check that every engine reports `version`.

        Raises:
            WeightSyncError: On rank 0: it failed twice. Engines that had not loaded any of the new weights generate on
                with the old ones; the others rest until a push succeeds.
        """
        self._push(version)

    def reconnect(self, engines: Sequence[ActorHandle]) -> None:
        """Connect to these engines, which may have been started again, and push under the version pushed last."""
        self._leave_group()
        self._factory = replace(self._factory, engines=engines)
        self._client = EngineClient(engines, self._phase_seconds)
        self._push(self._version)

    def _push(self, version: WeightVersion) -> None:
        failures: list[str] = []
        for _ in range(ATTEMPTS):
            # All ranks know that there is a connection before they gather weights for it.
            error = self._connect_again()
            failed = agreed(error is not None)
            if not failed:
                error = self._send(version)
                failed = agreed(error is not None)
            if not failed:
                self._version = version
                return
            self._let_go()
            if error is not None:
                failures.append(self._client.what_failed(error))
                say(f"the push of weight version {version} failed: {failures[-1]}")
        # The other ranks do not know what happened, and must not be asked first.
        if failures:
            raise WeightSyncError(
                f"weight version {version} did not reach all engines: {failures[0]}; and over a new connection: "
                f"{failures[-1]}"
            )

    def _connect_again(self) -> Exception | None:
        """Connect if there is no connection; answers the error on rank 0, if there was one.

        Rank 0 waits until all engines are there, and free of an update that was not completed.
        """
        if self._transfer is not None:
            return None
        try:
            if self._rank == 0:
                self._client.set_deadline(self._phase_seconds)
                self._client.wait_until_ready()
            self._connect()
        except Exception as error:
            if self._rank > 0:
                raise
            return error
        return None

    def _send(self, version: WeightVersion) -> Exception | None:
        """Send the weights; answers the error on rank 0, if there was one."""
        assert self._transfer is not None
        self._source.begin()
        failure = None
        try:
            self._client.set_deadline(self._phase_seconds)
            self._client.version = version
            self._transfer.send_weights()
        except Exception as error:
            if self._source.has_failed or self._rank > 0:
                raise
            failure = error
        self._source.complete()
        return failure

    def _connect(self) -> None:
        self._client.set_deadline(self._phase_seconds)
        self._transfer = WeightTransferTrainerFactory.trainer_init(
            self._init_info(), client=self._client, source=self._source
        )

    def _init_info(self) -> TrainerInitInfo:
        rank, transport = self._rank, self._factory.transport
        if transport == "shm":
            return shm.ShmTrainerInitInfo(rank=rank, folder=self._factory.folder)
        if transport == "ipc":
            size = ipc.buffer_bytes(self._source)
            return ipc.IpcTrainerInitInfo(rank=rank, packed_buffer_size_bytes=size)
        kind = gloo.GlooTrainerInitInfo if transport == "gloo" else nccl.NcclTrainerInitInfo
        workers = sum(self._client.tensor_parallel_sizes()) if rank == 0 else 0
        # Half of it, so that an engine that waits for another in vain is free again before it is asked.
        return kind(rank=rank, world_size=1 + workers, timeout_seconds=self._phase_seconds / 2)

    def _let_go(self) -> None:
        """Leave the group, which frees engines that wait in it, and have them give up the update."""
        self._leave_group()
        if self._rank == 0:
            self._client.set_deadline(self._phase_seconds)
            self._client.abort()

    def _leave_group(self) -> None:
        if self._transfer is not None:
            self._transfer.shutdown()
            self._transfer = None


def agreed(failed: bool) -> bool:
    """What policy rank 0 knows, on every rank: a collective."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(failed), device=device)
    dist.broadcast(flag, 0)
    return bool(flag)
