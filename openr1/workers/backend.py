"""The interface between a learner and the library that shards, differentiates and updates its model.

`workers/deepspeed/` is the only implementation. Another one (FSDP2, say) is a new package with a `build` and an
`init_process_group` of the same signatures, chosen in `learner.py` and `worker.py`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Backend(Protocol):
    """A model with its optimizer and schedule, sharded over ranks. Methods are collectives: call them on all ranks."""

    device: torch.device

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, **kwargs: Any) -> Any:
        """Forward pass."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of `loss`, averaged over ranks."""

    def step(self) -> None:
        """Clip the accumulated gradient, apply it, advance the schedule, clear the gradient."""

    @property
    def learning_rate(self) -> float:
        """The rate that the next step uses."""

    @property
    def grad_norm(self) -> float:
        """Norm of the newest step's gradient before clipping; not finite if that step was not applied."""

    def save(self, folder: Path) -> None:
        """Write weights, optimizer state and schedule."""

    def load(self, folder: Path) -> int | None:
        """Read what `save` wrote, by any number of ranks.

        Returns:
            How many ranks wrote it if it had to be converted; None if it was written by as many ranks as there are.
        """

    def gathered(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        """Inside the block the parameters are whole on every rank."""

    def full_shape(self, parameter: nn.Parameter) -> tuple[int, ...]:
        """Shape of the whole parameter, without gathering it."""

    @property
    def shards_parameters(self) -> bool:
        """Whether parameters exist in full only inside `gathered`."""
