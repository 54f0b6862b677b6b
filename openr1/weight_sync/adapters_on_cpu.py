"""The product of an adapter on the CPU, for engines all of whose requests have the same one.

vLLM's own product copies A and B once for every token of a batch, since each may have other adapters
(docs/decisions/0015-lora-in-engines.md).
"""

from typing import Any

from torch import Tensor
from torch.nn.functional import linear
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform


class OneAdapter(PunicaWrapperCPU):
    """Two matrix products for all tokens. Without an adapter in service, A and B are zero."""

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add scale x B A x to `y` [N, out], in place; a layer that vLLM has joined has one A and B for each part.

        Args:
            y: What the layer computed without adapters.
            x: Its input [N, in].
            lora_a_stacked: A of each part, [1, 1, rank, in].
            lora_b_stacked: B of each part, [1, 1, out of the part, rank].
            scale: Factor.
            output_slices: Outputs of each part.
        """
        start = 0
        for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            y[:, start : start + size].add_(linear(linear(x, a[0, 0]), b[0, 0]), alpha=scale)
            start += size


def use_one_adapter() -> None:
    """Have vLLM take `OneAdapter` in this process, if it computes on the CPU."""
    if current_platform.is_cpu():
        type(current_platform).get_punica_wrapper = classmethod(lambda _: f"{__name__}.{OneAdapter.__name__}")
