"""Asynchronous scheduling on the CPU, where vLLM turns it off: its scheduler and batch queue are those of GPUs."""

import contextlib
from typing import Any
from unittest import mock

import torch

from openr1.rollout.engine import EngineActor, EngineSettings
from openr1.rollout.pausing import batches_in_flight


def force_async_scheduling() -> None:
    """Make engines that this process starts schedule a batch before the one before it has been read.

    What a batch computes is there when it is launched, so events and streams have nothing to wait for.
    """
    from vllm.platforms.cpu import CpuPlatform

    settle = CpuPlatform.check_and_update_config

    def settle_asynchronously(config: Any) -> None:
        settle(config)
        config.scheduler_config.async_scheduling = True

    vars_of_cuda: Any = torch.cuda
    # vLLM calls it on an instance.
    CpuPlatform.check_and_update_config = staticmethod(settle_asynchronously)  # type: ignore[method-assign, assignment]
    vars_of_cuda.Event = mock.MagicMock
    vars_of_cuda.current_stream = mock.MagicMock
    vars_of_cuda.stream = lambda stream: contextlib.nullcontext()


class AsyncEngineActor(EngineActor):
    """An engine with asynchronous scheduling, which tells what was in flight around its pushes."""

    def __init__(self, settings: EngineSettings) -> None:
        force_async_scheduling()
        super().__init__(settings)
        self._at_pushes: list[tuple[int, int]] = []

    async def start_weight_update(self) -> None:
        """Also count the batches in flight before and after."""
        before = batches_in_flight(self._llm)
        await super().start_weight_update()
        self._at_pushes.append((before, batches_in_flight(self._llm)))

    async def in_flight_at_pushes(self) -> list[tuple[int, int]]:
        """Batches in flight before each push was asked for, and while its weights were loaded."""
        return self._at_pushes

    async def schedules_ahead(self) -> bool:
        """Whether vLLM has taken the setting."""
        return self._llm.llm_engine.vllm_config.max_concurrent_batches == 2
