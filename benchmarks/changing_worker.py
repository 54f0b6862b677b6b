"""A policy rank whose weights can be changed from outside, to see whether engines notice."""

import contextlib
import re

import torch

from openr1.workers.worker import TrainWorker


class ChangingWorker(TrainWorker):
    """A policy rank whose weights can be changed, at any ZeRO stage and with adapters."""

    def parameter_names(self) -> list[str]:
        """Names of all parameters, tied ones once."""
        return [name for name, _ in self.policy.lm.named_parameters()]

    def change(self, pattern: str = "") -> int:
        """Add noise of a tenth of its size, at least 0.05, to every parameter that matches; returns how many.

        A collective. Ranks of one seed add the same.
        """
        generator = torch.Generator().manual_seed(0)
        parameters = [(name, one) for name, one in self.policy.lm.named_parameters() if re.search(pattern, name)]
        self._before: list[torch.Tensor] = []
        for _, parameter in parameters:
            with self._whole(parameter):
                self._before.append(parameter.data.clone())
                scale = max(0.1 * float(parameter.data.std()) if parameter.numel() > 1 else 0.0, 0.05)
                parameter.data += scale * torch.randn(parameter.shape, generator=generator)
        self._changed = [parameter for _, parameter in parameters]
        return len(parameters)

    def undo(self) -> None:
        """Take the last change back."""
        for parameter, before in zip(self._changed, self._before, strict=True):
            with self._whole(parameter):
                parameter.data.copy_(before)

    def _whole(self, parameter: torch.nn.Parameter) -> contextlib.AbstractContextManager[object]:
        # Imported late: it looks at the devices, whose choice is that of the worker's process.
        import deepspeed

        if not self.policy.backend.shards_parameters:
            return contextlib.nullcontext()
        whole: contextlib.AbstractContextManager[object] = deepspeed.zero.GatheredParameters(
            [parameter], modifier_rank=0
        )
        return whole
