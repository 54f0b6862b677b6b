"""Loss aggregation, off-policy correction and reward shaping, by hand."""

import math

import pytest
import torch

from openr1.algorithms.aggregation import loss_weights
from openr1.algorithms.off_policy import acceptance_mask, importance_weights
from openr1.algorithms.shaping import clip_rewards, overlong_penalties

MASK = torch.tensor([[True, True, False], [True, False, False]])


# Aggregation


def test_loss_weights_by_hand() -> None:
    """Catches a mean per micro-batch, an empty response that counts, and a divisor of the wrong lengths."""
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    for aggregation, rows in {
        "token": [1 / 4, 1 / 4],
        "sequence": [1 / 6, 1 / 2],
        "constant": [1 / 20, 1 / 20],
    }.items():
        expected = torch.tensor([[rows[0]] * 3, [rows[1], 0, 0], [0, 0, 0]])
        torch.testing.assert_close(loss_weights(mask, aggregation, generate_max_len=10), expected)
        assert not loss_weights(torch.zeros_like(mask), aggregation, 10).any()
    with pytest.raises(ValueError, match="none of token, sequence, constant"):
        loss_weights(mask, "median", 10)


# Off-policy


LOG_WEIGHTS = torch.tensor([[math.log(3), math.log(0.5), math.nan], [math.log(0.1), math.nan, math.nan]])


def test_importance_weights_by_hand() -> None:
    """Catches a ratio the wrong way round, no truncation, and NaN from padding."""
    zero = torch.zeros(2, 3)
    token = importance_weights(LOG_WEIGHTS, zero, MASK, "token", 2.0)
    torch.testing.assert_close(token[MASK], torch.tensor([2.0, 0.5, 0.1]))
    # The product: 3 x 1/2.
    sequence = importance_weights(LOG_WEIGHTS, zero, MASK, "sequence", 2.0)
    torch.testing.assert_close(sequence[MASK], torch.tensor([1.5, 1.5, 0.1]))
    assert importance_weights(LOG_WEIGHTS, zero, MASK, "none", 2.0).tolist() == [[1.0] * 3] * 2
    long = importance_weights(torch.full((1, 900), 1.0), torch.zeros(1, 900), torch.ones(1, 900).bool(), "sequence", 9)
    assert long.tolist() == [[9.0] * 900]


def test_rejection_by_hand() -> None:
    """Catches bounds the wrong way round, and a sequence judged by the product, which depends on its length."""
    zero = torch.zeros(2, 3)
    token = acceptance_mask(LOG_WEIGHTS, zero, MASK, "token", 0.5, 2.0)
    assert token.tolist() == [[False, True, True], [False, True, True]]
    # Geometric means: sqrt(3/2) and 0.1.
    sequence = acceptance_mask(LOG_WEIGHTS, zero, MASK, "sequence", 0.5, 1.4)
    assert sequence[MASK].tolist() == [True, True, False]
    assert acceptance_mask(LOG_WEIGHTS, zero, MASK, "none", 0.5, 2.0).all()


def test_corrections_are_constants() -> None:
    """Catches a gradient through the weights, which would push the policy to where the engine was."""
    log_probs = torch.zeros(1, 2).requires_grad_()
    weights = importance_weights(log_probs, torch.ones(1, 2), torch.ones(1, 2).bool(), "token", 2.0)
    assert not weights.requires_grad


# Shaping


def test_shaping_by_hand() -> None:
    """Catches a penalty outside its buffer, one that grows without bound, and a clip of one side alone."""
    assert clip_rewards(torch.tensor([[-5.0, 0.5, 7.0]]), -1, 2).tolist() == [[-1.0, 0.5, 2.0]]
    lengths = torch.tensor([[80, 90, 95, 100, 120]])
    torch.testing.assert_close(overlong_penalties(lengths, 100, 20), torch.tensor([[0.0, -0.5, -0.75, -1.0, -1.0]]))
