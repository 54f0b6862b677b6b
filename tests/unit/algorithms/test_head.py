"""The head's product of bfloat16 operands: emulated on the CPU against float64; what CUDA is asked, on fake tensors."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from openr1.algorithms import head
from openr1.algorithms.head import bfloat16_projection, float32_product, float32_projection, keeps_bfloat16, projection
from openr1.algorithms.token_ops import Chunking, token_log_probs

TOKENS, HIDDEN, VOCABULARY = 48, 256, 640
ROUNDING = 2**-8
"""Largest relative error of rounding to bfloat16, which has 8 significant bits."""


def make_operands(requires_grad: bool = True) -> tuple[Tensor, Tensor]:
    """Hidden states [TOKENS, HIDDEN] and a weight [VOCABULARY, HIDDEN] in bfloat16, of the size that models have."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator).bfloat16()
    weight = (0.05 * torch.randn(VOCABULARY, HIDDEN, generator=generator)).bfloat16()
    return hidden.requires_grad_(requires_grad), weight.requires_grad_(requires_grad)


def in_chunks(hidden: Tensor, weight: Tensor, size: int, bias: Tensor | None = None) -> Tensor:
    """Logits of all tokens, computed in chunks."""
    project = bfloat16_projection(weight, bias)
    return torch.cat([project(part) for part in hidden.split(size)])


def distance(value: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to the expected norm."""
    exact = expected.detach().double()
    return float((value.detach().double() - exact).norm() / exact.norm())


def fail(*_: Any) -> None:
    """Stands for what must not be called."""
    raise AssertionError("called")


class Calls(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.noted.append(str(func))
        return func(*args, **(kwargs or {}))


# What is computed


def test_cuda_multiplies_bfloat16_and_returns_float32() -> None:
    """Catches float32 copies of the operands on a GPU, and logits that are rounded to bfloat16. Shapes alone are
    computed, which needs no GPU; autograd would need one."""
    with FakeTensorMode(), torch.no_grad(), Calls() as calls:
        hidden, weight = (torch.empty(size, 8, device="cuda", dtype=torch.bfloat16) for size in (4, 6))
        logits = projection(weight, None)(hidden)
        of_weight = float32_product(logits.bfloat16().T, hidden)
    assert (logits.device.type, logits.dtype, logits.shape) == ("cuda", torch.float32, (4, 6))
    assert (of_weight.dtype, of_weight.shape) == (torch.float32, (6, 8))
    assert [name for name in calls.noted if "mm" in name] == ["aten.mm.dtype"] * 2
    # The one conversion is this test's own.
    assert sum("_to_copy" in name for name in calls.noted) == 1


def test_only_bfloat16_on_cuda_is_multiplied_as_it_is() -> None:
    """Catches the product without float32 copies where it does not exist, and a float32 model that is rounded."""
    with FakeTensorMode():
        cases = {
            (device, dtype): keeps_bfloat16(torch.empty(2, 2, device=device, dtype=dtype))
            for device in ("cpu", "cuda")
            for dtype in (torch.bfloat16, torch.float32)
        }
    assert [case for case, keeps in cases.items() if keeps] == [("cuda", torch.bfloat16)]


def test_elsewhere_float32_copies_are_multiplied() -> None:
    """Catches a CPU run whose log-probs change by a bit with the code of GPUs."""
    hidden, weight = make_operands()
    bias = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = functional.linear(hidden.float(), weight.float(), bias.float())
    assert torch.equal(projection(weight, bias)(hidden), expected)


def test_logits_have_the_accuracy_of_float32() -> None:
    """Catches logits that are rounded to bfloat16 on their way, by up to 2^-8, and a bias that is lost."""
    hidden, weight = make_operands()
    bias = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)).bfloat16()
    logits = in_chunks(hidden, weight, TOKENS, bias)
    assert logits.dtype == torch.float32
    assert distance(logits, functional.linear(hidden.double(), weight.double(), bias.double())) < 1e-6


@pytest.mark.parametrize("size", [TOKENS, 7, 1])
def test_gradients_are_rounded_once(size: int) -> None:
    """Catches a sum over chunks in bfloat16, which rounds once for each, and a chunk that is lost or counted twice.

    Expected, in float64: products of the logits' gradient, rounded to bfloat16. The result is that rounded to
    bfloat16: off by 2^-8 of itself at most, and by float32 sums of `TOKENS` (or `VOCABULARY`) terms, each of which
    rounds to 2^-24 of what is added up so far.
    """
    hidden, weight = make_operands()
    of_logits = torch.randn(TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad(in_chunks(hidden, weight, size), [hidden, weight], of_logits)
    rounded = of_logits.bfloat16().double()
    pairs = [(rounded, weight.detach().double()), (rounded.T, hidden.detach().double())]
    for gradient, (left, right) in zip(gradients, pairs, strict=True):
        assert gradient.dtype == torch.bfloat16
        expected, terms = left @ right, left.shape[1]
        bound = ROUNDING * expected.abs() + terms * 2**-24 * (left.abs() @ right.abs())
        assert ((gradient.double() - expected).abs() <= bound).all()


def test_many_small_shares_by_hand() -> None:
    """Catches a weight's gradient that is summed in bfloat16: next to 256 its numbers are 2 apart, so 1/2 is lost.

    With 256 at both ends it does not matter where the backward pass begins.
    """
    hidden = torch.ones(18, 1).bfloat16()
    weight = torch.ones(1, 1).bfloat16().requires_grad_()
    of_logits = torch.tensor([[256.0], *[[0.5]] * 16, [256.0]])
    (gradient,) = torch.autograd.grad(in_chunks(hidden, weight, 1), [weight], of_logits)
    assert gradient.tolist() == [[256 + 16 / 2 + 256]]


# What autograd is told


def test_autograd_gets_the_weights_gradient_once() -> None:
    """Catches a gradient of the weight's size for each chunk."""
    hidden, weight = make_operands()
    seen: list[torch.dtype] = []
    weight.register_hook(lambda gradient: seen.append(gradient.dtype))
    in_chunks(hidden, weight, 7).sum().backward()
    assert seen == [torch.bfloat16]


def test_backward_passes_do_not_count_each_other() -> None:
    """Catches a sum that is kept from one backward pass to the next, or from one that did not ask for it."""
    hidden, weight = make_operands()
    logits = in_chunks(hidden, weight, 7).square().sum()
    (first,) = torch.autograd.grad(logits, [weight], retain_graph=True)
    torch.autograd.grad(logits, [hidden], retain_graph=True)
    assert torch.equal(torch.autograd.grad(logits, [weight])[0], first)


def test_no_buffer_where_the_weight_does_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a gradient of gigabytes for a frozen head (LoRA) or without a backward pass, and hidden states that get
    none."""
    monkeypatch.setattr(head._WeightGradient, "add", fail)
    hidden, weight = make_operands()
    with torch.no_grad():
        assert not in_chunks(hidden, weight, 7).requires_grad
    frozen = weight.detach()
    in_chunks(hidden, frozen, 7).sum().backward()
    assert hidden.grad is not None
    assert distance(hidden.grad, weight.detach().double().sum(0).expand(TOKENS, -1)) < ROUNDING


def test_a_weight_trains_under_frozen_hidden_states() -> None:
    """Catches a gradient that the weight gets only together with the hidden states."""
    hidden, weight = make_operands()
    in_chunks(hidden.detach(), weight, 7).sum().backward()
    assert weight.grad is not None
    assert distance(weight.grad, hidden.detach().double().sum(0).expand(VOCABULARY, -1)) < ROUNDING


def test_tied_weights_get_both_gradients() -> None:
    """Catches a gradient of the head that replaces the embedding's, or is added to it twice."""
    _, weight = make_operands()
    token_ids = torch.arange(TOKENS)

    def gradient(project: Any, hidden: Tensor) -> Tensor:
        logits = project(weight, None)(hidden)
        return torch.autograd.grad(logits.log_softmax(-1)[:, 3].sum(), [weight])[0]

    both = gradient(bfloat16_projection, weight[token_ids])
    assert distance(both, gradient(float32_projection, weight[token_ids])) < 2 * ROUNDING
    assert distance(gradient(bfloat16_projection, weight.detach()[token_ids]), both) > 0.1, "the test has no power"


# Through log-probs


def outputs_and_gradients(
    weight: nn.Parameter, bias: nn.Parameter | None, held: int, temperature: float
) -> Sequence[Tensor]:
    """Log-probs and entropies of a ragged batch, then the gradients of a weighted sum of both."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(3, 20, HIDDEN, generator=generator).to(weight.dtype).requires_grad_()
    input_ids = torch.randint(0, VOCABULARY, (3, 20), generator=generator)
    mask = torch.rand(3, 20, generator=generator) < 0.7
    mask[:, 0] = False
    weights = torch.randn(3, 20, generator=generator)
    outputs = token_log_probs(
        lambda rows, compute: compute(rows, weight, bias),
        hidden,
        input_ids,
        mask,
        temperature,
        "gradient",
        Chunking(held, held),
    )
    total = ((outputs.log_probs - 0.3 * outputs.entropy) * weights).sum()
    inputs = [hidden, weight] if bias is None else [hidden, weight, bias]
    return [outputs.log_probs.detach(), outputs.entropy.detach(), *torch.autograd.grad(total, inputs)]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_their_gradients(temperature: float, with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a temperature, bias or entropy whose gradient is lost, and chunks that are computed again differently.

    Against float32 copies of the same numbers. Gradients are rounded twice, the logits' and then their own.
    """
    weight = nn.Parameter(make_operands()[1].detach())
    bias = nn.Parameter(torch.linspace(-1, 1, VOCABULARY).bfloat16()) if with_bias else None
    expected = outputs_and_gradients(weight, bias, 1000, temperature)
    monkeypatch.setattr(head, "keeps_bfloat16", lambda _: True)
    kept, again = (outputs_and_gradients(weight, bias, held, temperature) for held in (1000, 9))
    for values, exact in zip(kept[:2], expected[:2], strict=True):
        torch.testing.assert_close(values, exact, rtol=1e-5, atol=1e-5)
    for one, other in zip(kept, again, strict=True):
        assert distance(one, other) < 1e-3
    for gradient, exact in zip(kept[2:], expected[2:], strict=True):
        assert gradient.dtype == torch.bfloat16
        assert distance(gradient, exact) < 2 * ROUNDING


def test_no_tokens_still_have_a_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a rank without response tokens whose head gets no gradient, for which the other ranks would wait."""
    monkeypatch.setattr(head, "keeps_bfloat16", lambda _: True)
    _, weight = make_operands()
    hidden = torch.ones(1, 4, HIDDEN).bfloat16().requires_grad_()
    mask = torch.zeros(1, 4, dtype=torch.bool)
    outputs = token_log_probs(
        lambda rows, compute: compute(rows, weight, None), hidden, torch.zeros(1, 4, dtype=torch.int64), mask, 1.0
    )
    outputs.log_probs.sum().backward()
    for tensor in (hidden, weight):
        assert tensor.grad is not None
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))
