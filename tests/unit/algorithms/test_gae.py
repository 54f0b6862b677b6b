"""Advantages from values: by hand, in special cases, and against a loop over the definition; the value loss.

TRL 1.16 has no PPO trainer any more to compare with.
"""

import math
import random

import pytest
import torch
from torch import nn

from openr1.algorithms.gae import explained_variance, gae, length_adaptive_lambda, token_level_rewards
from openr1.algorithms.losses import value_loss

MASK = torch.tensor([[False, True, True, True]])
REWARDS = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
VALUES = torch.tensor([[0.0, 0.5, 0.25, 0.75]])


def test_advantages_by_hand() -> None:
    """Catches gamma and lambda swapped or squared, and a value after the last token.

    gamma 1/2, lambda 1/4. delta: 1 - 3/4 = 1/4; 1/2 x 3/4 - 1/4 = 1/8; 1/2 x 1/4 - 1/2 = -3/8. From the end, with
    gamma lambda = 1/8: 1/4; 1/8 + 1/32 = 5/32; -3/8 + 5/256 = -91/256. Returns add the values.
    """
    advantages, returns = gae(REWARDS, VALUES, MASK, 0.5, 0.25)
    assert advantages.tolist() == [[0.0, -91 / 256, 5 / 32, 1 / 4]]
    assert returns.tolist() == [[0.0, 37 / 256, 13 / 32, 1.0]]


def test_lambda_one_is_return_minus_value() -> None:
    """Catches a sum that is cut off: without discount every token's return is the reward at the end."""
    advantages, returns = gae(REWARDS, VALUES, MASK, 1.0, 1.0)
    assert returns.tolist() == [[0.0, 1.0, 1.0, 1.0]]
    assert advantages.tolist() == [[0.0, 0.5, 0.75, 0.25]]


def test_lambda_zero_is_the_error_of_one_value() -> None:
    """Catches errors of later values that leak in: 0 + 1/4 - 1/2, 0 + 3/4 - 1/4, 1 + 0 - 3/4."""
    advantages, _ = gae(REWARDS, VALUES, MASK, 1.0, 0.0)
    assert advantages.tolist() == [[0.0, -0.25, 0.5, 0.25]]


def test_each_row_has_a_lambda_of_its_own() -> None:
    """Catches the lambda of one response for all, and returns that do not follow."""
    rows = [torch.cat([tensor, tensor]) for tensor in (REWARDS, VALUES, MASK)]
    advantages, returns = gae(*rows, 1.0, torch.tensor([1.0, 0.0]))
    assert advantages.tolist() == [[0.0, 0.5, 0.75, 0.25], [0.0, -0.25, 0.5, 0.25]]
    assert returns.tolist() == [[0.0, 1.0, 1.0, 1.0], [0.0, 0.25, 0.75, 1.0]]


def test_lambda_by_length() -> None:
    """Catches the width of the batch for the tokens of a response, and a lambda below 0 of short ones."""
    mask = torch.zeros(4, 100, dtype=torch.bool)
    for row, length in enumerate((100, 40, 10, 0)):
        mask[row, :length] = True
    assert length_adaptive_lambda(mask, 0.05).tolist() == pytest.approx([0.8, 0.5, 0.0, 0.0])


def advantages_by_definition(rewards: list[float], values: list[float], gamma: float, lambd: float) -> list[float]:
    """Equation 16: the sum over l of (gamma lambda)^l delta[t + l], for one response."""
    after = [*values[1:], 0.0]
    deltas = [reward + gamma * later - value for reward, value, later in zip(rewards, values, after, strict=True)]
    return [
        math.fsum((gamma * lambd) ** (end - start) * deltas[end] for end in range(start, len(deltas)))
        for start in range(len(deltas))
    ]


@pytest.mark.parametrize(("gamma", "lambd"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.7), (0.5, 0.0)])
def test_random_rows_are_those_of_the_definition(gamma: float, lambd: float) -> None:
    """Catches rows that read each other, what stands in padding, and a prompt that counts."""
    draw = random.Random(3)
    rows = [(draw.randrange(1, 4), draw.randrange(1, 9)) for _ in range(12)]
    width = max(start + length for start, length in rows)
    # Outside the responses stands what must not be read.
    rewards, values = torch.full((12, width), math.nan), torch.full((12, width), math.nan)
    mask = torch.zeros(12, width, dtype=torch.bool)
    expected = torch.zeros(12, width)
    for row, (start, length) in enumerate(rows):
        given = [[draw.uniform(-1, 1) for _ in range(length)] for _ in range(2)]
        end = start + length
        rewards[row, start:end], values[row, start:end] = (torch.tensor(numbers) for numbers in given)
        mask[row, start:end] = True
        expected[row, start:end] = torch.tensor(advantages_by_definition(*given, gamma, lambd))
    advantages, returns = gae(rewards, values, mask, gamma, lambd)
    torch.testing.assert_close(advantages, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(returns, torch.where(mask, expected + values, 0.0), rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing() -> None:
    """Catches a last token that is taken for the last column."""
    wide = [nn.functional.pad(tensor, (0, 3)) for tensor in (REWARDS, VALUES, MASK)]
    for padded, plain in zip(gae(*wide, 0.5, 0.25), gae(REWARDS, VALUES, MASK, 0.5, 0.25), strict=True):
        assert padded.tolist() == [[*plain[0].tolist(), 0.0, 0.0, 0.0]]


def test_inserted_tokens_are_skipped() -> None:
    """Catches a discount for a tool's tokens, an advantage of theirs, and a response that ends at the first of them."""
    mask = torch.tensor([[False, True, False, True, False, True, False]])
    places = [1, 3, 5]
    rewards, values = torch.full((1, 7), math.nan), torch.full((1, 7), math.nan)
    rewards[0, places], values[0, places] = REWARDS[0, 1:], VALUES[0, 1:]
    spread, plain = gae(rewards, values, mask, 0.5, 0.25), gae(REWARDS, VALUES, MASK, 0.5, 0.25)
    for wide, narrow in zip(spread, plain, strict=True):
        assert wide[mask].tolist() == narrow[MASK].tolist()
        assert not wide[~mask].any()
    given = token_level_rewards(torch.tensor([1.0]), torch.full((1, 7), 0.25), mask)
    assert given.tolist() == [[0.0, -0.25, 0.0, -0.25, 0.0, 0.75, 0.0]]


def test_rewards_of_tokens_by_hand() -> None:
    """Catches a score at every token, or after the end, costs that are lost at the last token, and a masked row."""
    mask = torch.tensor([[False, True, True, False], [False, False, True, True], [False, False, False, False]])
    costs = torch.tensor([[0.0, 0.25, 0.5, 0.0], [0.0, 0.0, -0.125, 0.0], [9.0, 9.0, 9.0, 9.0]])
    rewards = token_level_rewards(torch.tensor([1.0, -2.0, 5.0]), costs, mask)
    assert rewards.tolist() == [[0.0, -0.25, 0.5, 0.0], [0.0, 0.0, 0.125, -2.0], [0.0, 0.0, 0.0, 0.0]]


def test_explained_variance_by_hand() -> None:
    """Catches a bias that counts as variance, and returns that are equal up to rounding as a divisor.

    Returns 0, 1, 2 have variance 2/3. Errors 0, 0, 1 have 2/9: a third is left. A constant explains nothing.
    """
    mask = torch.tensor([[True, True, True, False]])
    returns = torch.tensor([[0.0, 1.0, 2.0, math.nan]])
    assert explained_variance(torch.tensor([[0.0, 1.0, 1.0, 0.0]]), returns, mask) == pytest.approx(2 / 3)
    assert explained_variance(returns + 5, returns, mask) == pytest.approx(1.0)
    assert explained_variance(torch.full((1, 4), 7.0), returns, mask) == pytest.approx(0.0)
    almost = torch.tensor([[1e-17, 0.0, -1e-17, 0.0]])
    assert explained_variance(torch.tensor([[0.1, 0.2, 0.3, 0.0]]), almost, mask) == 0
    assert explained_variance(returns, returns, torch.zeros_like(mask)) == 0


# Value loss


def test_value_loss_by_hand() -> None:
    """Catches the smaller error in place of the larger one, a bound round the return, and a missing half.

    Old values 0, returns 2, bound 1/2. 1 counts as 1/2: 1.5^2 / 2, without gradient. 1/4 is within: 1.75^2 / 2. -1 has
    gone the wrong way: 3^2 / 2, with its gradient.
    """
    values = torch.tensor([[1.0, 0.25, -1.0]], requires_grad=True)
    loss = value_loss(values, torch.zeros(1, 3), torch.full((1, 3), 2.0), 0.5)
    assert loss.tolist() == [[1.125, 1.53125, 4.5]]
    loss.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, -1.75, -3.0]]
    assert value_loss(values, torch.zeros(1, 3), torch.full((1, 3), 2.0), None).tolist() == [[0.5, 1.53125, 4.5]]


@pytest.mark.parametrize("clip", [None, 0.3])
def test_gradient_of_the_value_loss_is_its_slope(clip: float | None) -> None:
    """Catches a gradient through old values or returns, and one that is not that of the loss."""
    generator = torch.Generator().manual_seed(0)
    values, old, returns = (torch.randn(4, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda tensor: value_loss(tensor, old, returns, clip), (values,))
