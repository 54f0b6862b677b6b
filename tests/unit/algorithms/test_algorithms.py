"""Per-token quantities, advantages, KL and the surrogate, against hand arithmetic and plain torch."""

import math
from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from openr1.algorithms.advantages import group_normalized_advantages, has_reward_variance, update_running_reward
from openr1.algorithms.kl import k3
from openr1.algorithms.losses import ClipBounds, clipped_surrogate
from openr1.algorithms.token_ops import Head, masked_sum, max_logits_tokens, token_log_probs
from openr1.errors import TrainingError
from openr1.types import RunningReward

LN2 = math.log(2)
HIDDEN, VOCABULARY = 3, 7
BOUNDS = ClipBounds(low=0.2, high=0.3)
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


def leaf(values: list[float] | list[list[float]]) -> Tensor:
    """A tensor whose gradient is kept."""
    return torch.tensor(values).requires_grad_()


def gradient_of(tensor: Tensor) -> Tensor:
    """The gradient, which must be there."""
    assert tensor.grad is not None
    return tensor.grad


# token_ops


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
    outputs = token_log_probs(called(head), hidden, input_ids, mask, 1.0, max_tokens_held=1000)
    assert counts == [1000, 1000, count - 2000]
    plain = torch.zeros(mask.shape)
    plain[:, 1:] = head(hidden)[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(outputs.log_probs, plain * mask)
    inputs = [hidden, head.weight]
    gradients = torch.autograd.grad(outputs.log_probs.square().sum(), inputs)
    expected = torch.autograd.grad((plain * mask).square().sum(), inputs)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-4)


def test_fewer_logits_are_held_of_larger_vocabularies() -> None:
    """Catches logits of gigabytes for a real vocabulary, and chunks of no tokens. 2 ** 26 / 151,936 = 441.7."""
    assert (max_logits_tokens(151_936), max_logits_tokens(512), max_logits_tokens(2**30)) == (441, 131_072, 1)


def test_logits_are_computed_again_only_where_they_are_too_many(counts: list[int]) -> None:
    """Catches a second pass through the head for logits that fit, and logits that are kept where they do not."""
    head, hidden, input_ids, mask = make_inputs(rows=2, width=9)
    count = int(mask.sum())
    calls, gradients = [], []
    for max_tokens_held in (count, count - 1):
        counts.clear()
        outputs = token_log_probs(called(head), hidden, input_ids, mask, 1.0, max_tokens_held=max_tokens_held)
        outputs.log_probs.sum().backward()
        calls.append(sum(counts))
        gradients.append(gradient_of(hidden))
        hidden.grad = None
    assert calls == [count, 2 * count]
    assert torch.equal(*gradients)


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


# Advantages


def advantages_of(*groups: list[float], eps: float = 1e-6) -> Tensor:
    """Advantages where every response was graded."""
    rewards = torch.tensor(groups, dtype=torch.float32)
    return group_normalized_advantages(rewards, torch.ones_like(rewards, dtype=torch.bool), eps=eps)


def test_advantages_by_hand() -> None:
    """Catches division by n instead of n - 1, one baseline for all groups, and a missing scale."""
    # [1, 0, 0, 0]: mean 1/4, squares 9/16 + 3 * 1/16 = 3/4, std with n - 1 = 3: sqrt(1/4) = 1/2.
    # (3/4) / (1/2) = 1.5 and (-1/4) / (1/2) = -0.5. With n it would be 1.73 and -0.58.
    # [10, 30, 10, 30]: mean 20, squares 4 * 100, std sqrt(400 / 3) = 20 / sqrt(3): 10 / (20 / sqrt(3)) = sqrt(3) / 2.
    root = math.sqrt(3) / 2
    expected = torch.tensor([[1.5, -0.5, -0.5, -0.5], [-root, root, -root, root]])
    result = advantages_of([1, 0, 0, 0], [10, 30, 10, 30])
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=0)
    assert result.dtype == torch.float32


def test_advantages_add_eps_to_the_deviation() -> None:
    """Catches eps inside the square root, which would give 3/4 / sqrt(1/4 + 1/2) = 0.87."""
    # (3/4) / (1/2 + 1/2) = 3/4 and (-1/4) / 1 = -1/4.
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25]])
    torch.testing.assert_close(advantages_of([1, 0, 0, 0], eps=0.5), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 3, 7, 8])
@pytest.mark.parametrize("reward", [0.1, 1.1, 0.0, -0.3, 1e8])
def test_equal_rewards_give_exactly_zero(reward: float, size: int, dtype: torch.dtype) -> None:
    """Catches a rounded mean: 0.1 in float32 is then 1e-8 off, which eps turns into an advantage of 0.01."""
    rewards = torch.full((1, size), reward, dtype=dtype)
    result = group_normalized_advantages(rewards, torch.ones_like(rewards, dtype=torch.bool))
    assert torch.equal(result, torch.zeros(1, size))


def test_group_of_one_gives_zero() -> None:
    """Catches the NaN of a standard deviation over n - 1 = 0, and a raw reward as advantage."""
    assert torch.equal(advantages_of([5.0], [0.0]), torch.zeros(2, 1))


@pytest.mark.parametrize("ungraded", [0.0, 7.0, float("nan"), float("inf")])
def test_ungraded_responses_leave_the_statistics(ungraded: float) -> None:
    """Catches a failed response that counts as a 0, shifts the mean, or spreads NaN."""
    rewards = torch.tensor([[1.0, 0.0, ungraded], [1.0, ungraded, ungraded], [ungraded, ungraded, ungraded]])
    valid = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    # Row 0: mean 1/2, std sqrt(2 * 1/4 / 1) = sqrt(1/2): 1/2 / sqrt(1/2) = sqrt(1/2). The others compare nothing.
    root = math.sqrt(0.5)
    expected = torch.tensor([[root, -root, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(group_normalized_advantages(rewards, valid), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
def test_graded_rewards_must_be_finite(reward: float) -> None:
    """Catches a NaN reward that turns a whole group's advantages, and so all weights, into NaN."""
    with pytest.raises(TrainingError, match="NaN or infinite"):
        advantages_of([1.0, reward])


# Eighths: sums and shifts of them are exact in float32, so that only the function itself is tested.
eighths = st.lists(st.integers(-80, 80), min_size=2, max_size=10).map(lambda numbers: [n / 8 for n in numbers])


@given(eighths, st.integers(-1000, 1000))
def test_a_shift_of_rewards_changes_nothing(rewards: list[float], shift: int) -> None:
    """Catches a baseline other than the group's mean, and a mean that loses digits."""
    torch.testing.assert_close(advantages_of([reward + shift for reward in rewards]), advantages_of(rewards))


@given(eighths, st.randoms(use_true_random=False))
def test_order_within_a_group_changes_nothing(rewards: list[float], random: Random) -> None:
    """Catches an advantage that depends on a response's place in its group."""
    order = list(range(len(rewards)))
    random.shuffle(order)
    shuffled = advantages_of([rewards[index] for index in order])
    torch.testing.assert_close(shuffled, advantages_of(rewards)[:, order])


@given(eighths)
def test_advantages_are_centered_with_unit_deviation(rewards: list[float]) -> None:
    """Catches advantages that push all responses of a group in one direction, or in the wrong order."""
    (result,) = advantages_of(rewards).double()
    if len(set(rewards)) == 1:
        assert not result.any()
        return
    assert float(result.sum()) == pytest.approx(0, abs=1e-5)
    assert float(result.square().sum()) == pytest.approx(len(rewards) - 1, rel=1e-4)
    ranked = [value for _, value in sorted(zip(rewards, result.tolist(), strict=True))]
    assert all(low <= high for low, high in pairwise(ranked))


def test_reward_variance_by_hand() -> None:
    """Catches a group that counts as teaching though it has one graded response, or graded ones that are all equal."""
    rewards = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    valid = torch.tensor([[True] * 3, [True] * 3, [True, True, False], [True, False, False], [False] * 3])
    assert has_reward_variance(rewards, valid).tolist() == [True, False, False, False, False]


def test_running_reward_by_hand() -> None:
    """Catches a momentum that weighs the wrong side, and a step that enters its own past."""
    rewards, valid = torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool)
    # The group: mean 1/2, deviation sqrt(1/2). The past: mean 0.9, deviation 0.1. A quarter of the past:
    mean, std = 0.75 * 0.5 + 0.25 * 0.9, 0.75 * math.sqrt(0.5) + 0.25 * 0.1
    past = RunningReward(mean=0.9, std=0.1)
    advantages = group_normalized_advantages(rewards, valid, past, 0.25, eps=0.0)
    torch.testing.assert_close(advantages, torch.tensor([[(1 - mean) / std, -mean / std]]))
    assert group_normalized_advantages(rewards, valid, past, 0.0).tolist() == (
        group_normalized_advantages(rewards, valid).tolist()
    )
    # A group of equal rewards is better than the past: (1 - (0.75 + 0.225)) / 0.025 = 1.
    equal = group_normalized_advantages(torch.ones(1, 2), valid, past, 0.25, eps=0.0)
    torch.testing.assert_close(equal, torch.ones(1, 2))
    half = torch.tensor([[True, False]])
    assert group_normalized_advantages(torch.ones(1, 2), half, past, 0.25)[0, 1] == 0

    # Past rewards that were all equal have no scale: the group's own counts alone, not a division by eps.
    flat = group_normalized_advantages(torch.ones(1, 2), valid, RunningReward(mean=0.0, std=0.0), 0.25)
    assert flat.tolist() == [[0.0, 0.0]]

    first = update_running_reward(None, 0.25, rewards[valid])
    assert first == RunningReward(mean=0.5, std=pytest.approx(math.sqrt(0.5)))
    second = update_running_reward(RunningReward(0.9, 0.1), 0.25, rewards[valid])
    assert second is not None
    assert (second.mean, second.std) == pytest.approx((0.25 * 0.9 + 0.75 * 0.5, 0.25 * 0.1 + 0.75 * math.sqrt(0.5)))
    assert update_running_reward(past, 0.25, torch.tensor([1.0])) is past


# KL


def test_k3_by_hand() -> None:
    """Catches a sign of the difference that is turned round, and a missing -1."""
    # other - policy = ln 2: 2 - ln 2 - 1. other - policy = -ln 2: 1/2 + ln 2 - 1. Equal: 0.
    result = k3(torch.tensor([-2.0, -2.0, -2.0]), torch.tensor([-2.0 + LN2, -2.0 - LN2, -2.0]))
    torch.testing.assert_close(result, torch.tensor([1 - LN2, LN2 - 0.5, 0.0]))
    assert result[2] == 0


def test_k3_is_unbiased_for_samples_of_the_policy() -> None:
    """Catches KL(other || policy) where KL(policy || other) is meant."""
    policy, other = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    # Expectation under the policy = KL(policy || other) = 1/2 ln 2 + 0 + 1/4 ln 1/2 = 1/4 ln 2.
    expectation = (policy * k3(policy.log(), other.log())).sum()
    assert float(expectation) == pytest.approx(LN2 / 4, rel=1e-6)


def test_k3_gradient_by_hand() -> None:
    """Catches a gradient that pushes away from the reference: d/dx of exp(y - x) - (y - x) - 1 is 1 - exp(y - x)."""
    log_probs = leaf([-2.0, -2.0, -2.0])
    k3(log_probs, torch.tensor([-2.0 + LN2, -2.0 - LN2, -2.0])).sum().backward()
    torch.testing.assert_close(gradient_of(log_probs), torch.tensor([-1.0, 0.5, 0.0]))


@example(-1e-6, 0.0)
@given(st.floats(-20, 0, width=32), st.floats(-20, 0, width=32))
def test_k3_is_not_negative(log_prob: float, other_log_prob: float) -> None:
    """Catches the estimate k1, which can be negative, and rounding that makes k3 so."""
    assert float(k3(torch.tensor(log_prob), torch.tensor(other_log_prob))) >= 0


@pytest.mark.parametrize("difference", [1e-3, -1e-3, 1e-4, -1e-4])
def test_k3_of_small_differences(difference: float) -> None:
    """Catches exp(d) - d - 1 in float32, whose rounding (6e-8) is larger than the value: about d * d / 2.

    The mismatch of engine and trainer is of this size, and is reported and bounded by this function.
    """
    result = k3(torch.tensor(0.0), torch.tensor(difference))
    # exp(d) - d - 1 = d ** 2 / 2 + d ** 3 / 6 + d ** 4 / 24 + ...; the rest is below 1e-9 of it.
    expected = difference**2 / 2 + difference**3 / 6 + difference**4 / 24
    assert float(result) == pytest.approx(expected, rel=1e-2)


# The surrogate


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "clipped", "gradient"),
    [
        # Bounds 0.8 and 1.3. Good responses: min(r * 2, clip(r) * 2).
        (2.0, 0.5, -1.0, False, -1.0),  # min(1.0, 1.6) = 1.0: still raised from below the bound, with -r * A
        (2.0, 0.9, -1.8, False, -1.8),
        (2.0, 1.0, -2.0, False, -2.0),
        (2.0, 1.25, -2.5, False, -2.5),  # inside; a bound of 1 + 0.2 would clip it
        (2.0, 1.5, -2.6, True, 0.0),  # min(3.0, 2.6) = 2.6: raised enough
        # Bad responses: min(r * -2, clip(r) * -2).
        (-2.0, 0.5, 1.6, True, 0.0),  # min(-1.0, -1.6) = -1.6: lowered enough
        (-2.0, 0.75, 1.6, True, 0.0),  # a bound of 1 - 0.3 would not clip it
        (-2.0, 0.9, 1.8, False, 1.8),
        (-2.0, 1.0, 2.0, False, 2.0),
        (-2.0, 1.5, 3.0, False, 3.0),  # min(-3.0, -2.6) = -3.0: still lowered from above the bound
        # Nothing to learn.
        (0.0, 0.5, 0.0, False, 0.0),
        (0.0, 1.5, 0.0, False, 0.0),
    ],
)
def test_surrogate_by_hand(advantage: float, ratio: float, loss: float, clipped: bool, gradient: float) -> None:
    """Catches a maximum for a minimum, swapped bounds, one bound used for both, and a gradient where it is clipped."""
    log_probs = leaf([[-1.0 + math.log(ratio)]])
    old, advantages = torch.tensor([[-1.0]]), torch.tensor([[advantage]])
    values, is_clipped = clipped_surrogate(log_probs, old, advantages, ONE, BOUNDS)
    values.sum().backward()
    assert float(values.detach()) == pytest.approx(loss, rel=1e-5)
    assert bool(is_clipped) is clipped
    assert float(gradient_of(log_probs)) == pytest.approx(gradient, rel=1e-5)


@settings(deadline=None)
@given(st.floats(-2, 2, width=32), st.floats(-5, 5, width=32))
def test_clipped_tokens_are_those_without_gradient(log_ratio: float, advantage: float) -> None:
    """Catches a `clipped` that counts tokens outside the bounds although their gradient is alive."""
    log_probs = leaf([[log_ratio]])
    old, advantages = torch.tensor([[0.0]]), torch.tensor([[advantage]])
    values, clipped = clipped_surrogate(log_probs, old, advantages, ONE, BOUNDS)
    values.sum().backward()
    if abs(advantage) > 1e-30:
        assert bool(clipped) == (float(gradient_of(log_probs)) == 0)
