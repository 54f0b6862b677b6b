"""Notices parameters that get no gradient in a step, which ZeRO 3 would update with their last one.

At ZeRO 3, DeepSpeed 0.19.8 keeps each parameter's gradient in a buffer that only the next gradient overwrites. A layer
that takes no part in a step then moves in the direction of an older step.
"""

from functools import partial

from torch import Tensor, nn

from openr1.errors import PolicyError


class ReceivedGradients:
    """Which trainable parameters of a module have received a gradient since the last `check`."""

    def __init__(self, module: nn.Module) -> None:
        """Watch the parameters that require a gradient; adds one call to each of their backward passes."""
        self._names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        self._received: set[str] = set()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(partial(self._note, name))

    def _note(self, name: str, gradient: Tensor) -> None:
        self._received.add(name)

    def check(self) -> None:
        """Call before each update.

        Raises:
            PolicyError: A parameter has received none; nothing has been updated.
        """
        missing = [name for name in self._names if name not in self._received]
        self._received.clear()
        if missing:
            raise PolicyError(
                f"{len(missing)} of {len(self._names)} parameters, such as {missing[0]}, got no gradient in this step, "
                "and DeepSpeed would take an older one at policy.zero_stage 3: take zero_stage 2"
            )
