"""Our product of an adapter on the CPU against vLLM's own, and against the formula."""

import pytest
import torch
from vllm.config.lora import LoRAConfig
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform
from vllm.utils.import_utils import resolve_obj_by_qualname

from openr1.weight_sync.adapters_on_cpu import OneAdapter, use_one_adapter

RANK, SIZES, INPUTS, TOKENS = 3, (6, 2, 2), 5, 7
ROOM = 8
"""Rank that a layer has room for; what an adapter leaves of it is zero."""


def stacks() -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """A and B of a layer that vLLM has joined from three, as it keeps them."""
    generator = torch.Generator().manual_seed(0)
    a = tuple(torch.zeros(1, 1, ROOM, INPUTS) for _ in SIZES)
    b = tuple(torch.zeros(1, 1, size, ROOM) for size in SIZES)
    for one, other in zip(a, b, strict=True):
        one[0, 0, :RANK] = torch.randn(RANK, INPUTS, generator=generator)
        other[0, 0, :, :RANK] = torch.randn(other.shape[2], RANK, generator=generator)
    return a, b


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_is_that_of_vllm(dtype: torch.dtype) -> None:
    """Catches parts of a joined layer that are mixed up, an output that is replaced instead of added to, and a factor
    that is left out.
    """
    generator = torch.Generator().manual_seed(1)
    a, b = (tuple(one.to(dtype) for one in stack) for stack in stacks())
    x = torch.randn(TOKENS, INPUTS, generator=generator).to(dtype)
    before = torch.randn(TOKENS, sum(SIZES), generator=generator).to(dtype)
    found = []
    for kind in (PunicaWrapperCPU, OneAdapter):
        wrapper = kind(16, max_batches=4, device="cpu", lora_config=LoRAConfig(max_lora_rank=ROOM))
        wrapper.update_metadata(LoRAMapping((1,) * TOKENS, (1,), is_prefill=True), [1], 2, 512)
        y = before.clone()
        wrapper.add_lora_linear(y, x, a, b, 0.5, SIZES)
        found.append(y.float())
    formula = torch.cat([x.float() @ p[0, 0].float().T @ q[0, 0].float().T for p, q in zip(a, b, strict=True)], dim=-1)
    # bfloat16 has 8 significant bits, and both products round more than once.
    bound = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(found[1], before.float() + 0.5 * formula, rtol=0, atol=bound)
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=bound)


def test_vllm_takes_it() -> None:
    """Catches another way by which vLLM chooses the product: it would be slow, and nothing would say so."""
    if not current_platform.is_cpu():
        pytest.skip("for vLLM on the CPU")
    use_one_adapter()
    assert resolve_obj_by_qualname(current_platform.get_punica_wrapper()) is OneAdapter
