"""Per-token quantities from hidden states, against hand arithmetic and plain torch."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from openr1.algorithms import token_ops
from openr1.algorithms.token_ops import Chunking, Head, chunking, masked_sum, token_log_probs
from tests.unit.algorithms.plain import gradient_of, leaf

LN2 = math.log(2)
HIDDEN, VOCABULARY = 3, 7
ONE = torch.tensor([[True]])


def make_inputs(rows: int, width: int, seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """A linear head, hidden states with gradient, tokens, and a ragged mask whose column 0 is False."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(HIDDEN, VOCABULARY)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(rows, width, HIDDEN, generator=generator).requires_grad_()
    input_ids = torch.randint(0, VOCABULARY, (rows, width), generator=generator)
    response_mask = torch.rand(rows, width, generator=generator) < 0.6
    response_mask[:, 0] = False
    return head, hidden, input_ids, response_mask


def called(head: nn.Linear) -> Head:
    """The head as `token_log_probs` calls it."""
    return lambda hidden, compute: compute(hidden, head.weight, head.bias)


def plain_log_probs(head: nn.Module, hidden: Tensor, input_ids: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """The definition, token by token, without chunks: token t is predicted at t - 1."""
    logits = head(hidden) / temperature
    result = torch.zeros(input_ids.shape)
    for row, token in mask.nonzero().tolist():
        log_softmax = torch.log_softmax(logits[row, token - 1], dim=0)
        result[row, token] = log_softmax[input_ids[row, token]]
    return result


def test_log_prob_of_a_token_by_hand() -> None:
    """Catches a shift by one, a forgotten temperature, and an entropy of the wrong distribution."""
    head = nn.Linear(3, 3, bias=False)
    nn.init.eye_(head.weight)
    # Position 0 gives logits (ln 2, 0, 0); the others would give another answer for every token.
    hidden = torch.tensor([[[LN2, 0, 0], [0, 5, 0], [0, 0, 9]]])
    input_ids = torch.tensor([[2, 0, 1]])
    mask = torch.tensor([[False, True, False]])
    # Temperature 1: probabilities (2, 1, 1) / 4. Entropy: 1/2 ln 2 + 2 * 1/4 ln 4 = 3/2 ln 2.
    outputs = token_log_probs(called(head), hidden, input_ids, mask, temperature=1.0)
    torch.testing.assert_close(outputs.log_probs, torch.tensor([[0.0, -LN2, 0.0]]))
    torch.testing.assert_close(outputs.entropy, torch.tensor([[0.0, 1.5 * LN2, 0.0]]))
    torch.testing.assert_close(outputs.logsumexp, torch.tensor([[0.0, math.log(4), 0.0]]))
    # Temperature 1/2: logits (2 ln 2, 0, 0), probabilities (4, 1, 1) / 6. Entropy: 2/3 ln 3/2 + 2 * 1/6 ln 6.
    outputs = token_log_probs(called(head), hidden, input_ids, mask, temperature=0.5)
    entropy = 2 / 3 * math.log(3 / 2) + 1 / 3 * math.log(6)
    torch.testing.assert_close(outputs.log_probs, torch.tensor([[0.0, math.log(2 / 3), 0.0]]))
    torch.testing.assert_close(outputs.entropy, torch.tensor([[0.0, entropy, 0.0]]))
    torch.testing.assert_close(outputs.logsumexp, torch.tensor([[0.0, math.log(6), 0.0]]))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.9])
def test_outputs_equal_plain_torch(temperature: float) -> None:
    """Catches a scatter in another order than the gather, and rows of the batch that are mixed up."""
    head, hidden, input_ids, mask = make_inputs(rows=4, width=9)
    outputs = token_log_probs(called(head), hidden, input_ids, mask, temperature)
    torch.testing.assert_close(outputs.log_probs, plain_log_probs(head, hidden, input_ids, mask, temperature))
    distribution = torch.distributions.Categorical(logits=head(hidden) / temperature)
    expected = torch.zeros(mask.shape)
    expected[:, 1:] = distribution.entropy()[:, :-1]
    torch.testing.assert_close(outputs.entropy.detach(), expected.detach() * mask)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_gradients_equal_plain_torch(temperature: float) -> None:
    """Catches a detached factor and a gradient that the recomputation in the backward pass changes."""
    head, hidden, input_ids, mask = make_inputs(rows=4, width=9)
    weights = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1))
    inputs = [hidden, head.weight, head.bias]
    ours = token_log_probs(called(head), hidden, input_ids, mask, temperature).log_probs
    plain = plain_log_probs(head, hidden, input_ids, mask, temperature)
    gradients = torch.autograd.grad((ours * weights).sum(), inputs)
    expected = torch.autograd.grad((plain * weights).sum(), inputs)
    torch.testing.assert_close(gradients, expected)


def test_gradient_equals_finite_differences() -> None:
    """Catches a gradient that is wrong in the same way as another automatic one: this uses values alone."""
    head, hidden, input_ids, mask = make_inputs(rows=2, width=5)
    direction = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))

    def total(shift: float) -> Tensor:
        outputs = token_log_probs(called(head), hidden + shift * direction, input_ids, mask, 0.8)
        return outputs.log_probs.sum() + outputs.logsumexp.sum()

    (gradient,) = torch.autograd.grad(total(0.0), hidden)
    # Central difference: the error is of the order step ** 2 = 1e-4 from curvature and 1e-7 / step from rounding.
    step = 1e-2
    slope = (total(step) - total(-step)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope.detach()), rel=2e-3)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For how many tokens logits were made at a time, one number a call."""
    noted: list[int] = []
    linear = functional.linear

    def counting(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        noted.append(len(hidden))
        return linear(hidden, weight, bias)

    monkeypatch.setattr(functional, "linear", counting)
    return noted


def test_chunks_change_nothing(counts: list[int]) -> None:
    """Catches logits of a whole batch at one time, a chunk that is lost or doubled, and a chunk's gradient that is."""
    head, hidden, input_ids, mask = make_inputs(rows=2, width=2000)
    count = int(mask.sum())
    assert 2000 < count < 3000
    outputs = token_log_probs(called(head), hidden, input_ids, mask, 1.0, chunks=Chunking(1000, 1000))
    assert counts == [1000, 1000, count - 2000]
    plain = torch.zeros(mask.shape)
    plain[:, 1:] = head(hidden)[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(outputs.log_probs, plain * mask)
    inputs = [hidden, head.weight]
    gradients = torch.autograd.grad(outputs.log_probs.square().sum(), inputs)
    expected = torch.autograd.grad((plain * mask).square().sum(), inputs)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-4)


def test_fewer_logits_are_held_of_larger_vocabularies() -> None:
    """Catches logits of gigabytes for a real vocabulary, chunks of no tokens, chunks on the CPU that grow with what may
    exist there, and logits that fill a small GPU. 2 ** 26 / 151,936 = 441.7; a GPU of 192 GB holds eight times as many,
    3,533.6, one of 24 GB 24e9 / 256 / 151,936 = 617.0."""
    assert [chunking(size, None) for size in (151_936, 512, 2**30)] == [(441, 441), (131_072, 2048), (1, 1)]
    assert [chunking(size, 192 * 10**9).held for size in (151_936, 512, 2**30)] == [3533, 2**20, 1]
    assert chunking(151_936, 24 * 10**9) == (617, 617)


def test_limits_are_those_of_vocabulary_and_device(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a limit that is not asked for, or by another size than the vocabulary's."""
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(token_ops, "chunking_on", lambda *sizes: asked.append(sizes) or Chunking(5, 5))
    head, hidden, input_ids, mask = make_inputs(rows=2, width=9)
    token_log_probs(called(head), hidden, input_ids, mask, 1.0)
    assert asked == [(torch.device("cpu"), VOCABULARY)]
    assert max(counts) == 5


def test_logits_are_computed_again_only_where_they_are_too_many(counts: list[int]) -> None:
    """Catches a second pass through the head for logits that fit, and logits that are kept where they do not."""
    head, hidden, input_ids, mask = make_inputs(rows=2, width=9)
    count = int(mask.sum())
    calls, gradients = [], []
    for held in (count, count - 1):
        counts.clear()
        outputs = token_log_probs(called(head), hidden, input_ids, mask, 1.0, chunks=Chunking(held, held))
        outputs.log_probs.sum().backward()
        calls.append(sum(counts))
        gradients.append(gradient_of(hidden))
        hidden.grad = None
    assert calls == [count, 2 * count]
    # Not bit by bit: how a matrix product adds up depends on its number of rows, differently on each CPU.
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_without_entropies_all_else_stays() -> None:
    """Catches an entropy that is computed for nobody, and log-probs that depend on whether it is."""
    head, hidden, input_ids, mask = make_inputs(rows=2, width=9)
    outputs = token_log_probs(called(head), hidden, input_ids, mask, 1.0)
    fewer = token_log_probs(called(head), hidden, input_ids, mask, 1.0, entropy="none")
    assert torch.equal(fewer.log_probs, outputs.log_probs)
    assert torch.equal(fewer.logsumexp, outputs.logsumexp)
    assert outputs.entropy.any()
    assert not fewer.entropy.any()


def test_empty_mask_still_has_a_backward_pass() -> None:
    """Catches a rank without response tokens that skips the backward pass, where the other ranks would wait for it."""
    head, hidden, input_ids, mask = make_inputs(rows=2, width=4)
    outputs = token_log_probs(called(head), hidden, input_ids, torch.zeros_like(mask), 1.0)
    for values in outputs:
        assert torch.equal(values, torch.zeros(2, 4))
    outputs.log_probs.sum().backward()
    for parameter in (hidden, head.weight, head.bias):
        assert torch.equal(gradient_of(parameter), torch.zeros_like(parameter))


def test_padding_changes_nothing() -> None:
    """Catches an answer or a gradient that depends on how far the batch is padded, or on what stands there."""
    head, hidden, input_ids, mask = make_inputs(rows=3, width=6)
    outputs = token_log_probs(called(head), hidden, input_ids, mask, 1.0)
    (gradient,) = torch.autograd.grad(outputs.log_probs.sum(), hidden)
    padded = torch.cat([hidden.detach(), torch.full((3, 2, HIDDEN), 1e4)], dim=1).requires_grad_()
    padded_ids = torch.cat([input_ids, torch.full((3, 2), 5)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(3, 2, dtype=torch.bool)], dim=1)
    wide = token_log_probs(called(head), padded, padded_ids, padded_mask, 1.0)
    (wide_gradient,) = torch.autograd.grad(wide.log_probs.sum(), padded)
    for narrow_values, wide_values in zip(outputs, wide, strict=True):
        torch.testing.assert_close(wide_values[:, :6], narrow_values)
        assert torch.equal(wide_values[:, 6:], torch.zeros(3, 2))
    torch.testing.assert_close(wide_gradient[:, :6], gradient)
    assert not wide_gradient[:, 6:].any()


def test_entropy_carries_no_gradient_unless_asked_for() -> None:
    """Catches an entropy that keeps the graph alive for nobody, and an entropy bonus that trains nothing."""
    head, hidden, input_ids, mask = make_inputs(rows=2, width=4)
    outputs = token_log_probs(called(head), hidden, input_ids, mask, 1.0)
    assert outputs.log_probs.requires_grad
    assert outputs.logsumexp.requires_grad
    assert not outputs.entropy.requires_grad
    entropy = token_log_probs(called(head), hidden, input_ids, mask, 1.0, entropy="gradient").entropy
    torch.testing.assert_close(entropy.detach(), outputs.entropy)
    (gradient,) = torch.autograd.grad(entropy.sum(), hidden)
    distribution = torch.distributions.Categorical(logits=head(hidden)[:, :-1])
    (expected,) = torch.autograd.grad(distribution.entropy()[mask[:, 1:]].sum(), hidden)
    torch.testing.assert_close(gradient, expected)


def test_masked_sum_ignores_what_is_masked() -> None:
    """Catches `(values * mask).sum()`, which is NaN here, and its gradient, which would be too."""
    values = leaf([1.0, float("nan"), 2.0, float("inf")])
    mask = torch.tensor([True, False, True, False])
    total = masked_sum(values, mask)
    assert float(total.detach()) == 3.0
    total.backward()
    assert torch.equal(gradient_of(values), torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert float(masked_sum(values.detach(), torch.zeros(4, dtype=torch.bool))) == 0.0
