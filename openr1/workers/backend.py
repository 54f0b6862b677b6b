"""Interface of the training backend: the library that shards a model, runs backward passes and updates the weights.

`workers/deepspeed/` is the only implementation. To add one (such as FSDP2), write a package that has `build` and
`init_process_group` with the same signatures, and select it in `learner.py` and `worker.py`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Backend(Protocol):
    """A model with its optimizer and learning-rate schedule, sharded over ranks.

    Methods are collectives: call them on all ranks at the same time.
    """

    device: torch.device

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, **kwargs: Any) -> Any:
        """Forward pass."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of `loss`, averaged over ranks."""

    def step(self) -> None:
        """Clip the accumulated gradient, update the weights, advance the schedule and clear the gradient."""

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""

    @property
    def grad_norm(self) -> float:
        """Gradient norm of the most recent step, before clipping; not finite if that step was skipped."""

    def save(self, folder: Path) -> None:
        """Copy weights, optimizer state and schedule to host memory; the writer given to `build` writes them."""

    def load(self, folder: Path) -> int | None:
        """Load what `save` wrote, with any number of ranks.

        Returns:
            The number of ranks that saved it if the state had to be converted; None if it could be loaded directly.
        """

    def offload(self) -> None:
        """Move optimizer state, master weights and gradients to host memory, and give up cached GPU memory.

        Forward passes, `gathered` and `save` still work; `backward`, `step` and `load` need `reload` first.
        """

    def reload(self) -> None:
        """Take back what `offload` moved; nothing if it did not."""

    def gathered(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        """Inside the block, the full parameters are available on every rank."""

    def full_shape(self, parameter: nn.Parameter) -> tuple[int, ...]:
        """Shape of the full parameter, without gathering it."""

    @property
    def shards_parameters(self) -> bool:
        """Whether parameters exist in full only inside `gathered`."""
