"""Advantages from values: by hand, in special cases, and against a loop over the definition; the value loss.

TRL 1.16 has no PPO trainer any more to compare with.
"""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.gae import explained_variance, gae, token_level_rewards
from openr1.algorithms.losses import value_loss
from openr1.algorithms.objectives.policy import value_update
from openr1.config.sections import ModelConfig
from openr1.workers.model import ValueModel, load_causal_lm
from tests.test_gradients import make_batch

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


class TableEngine(nn.Module):
    """A value for each token before, and its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.linspace(-1, 1, 500))
        self.steps = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Tensor:
        """The value of token t is that of token t - 1."""
        return self.table[input_ids].roll(1, dims=1) * response_mask

    def backward(self, loss: Tensor) -> None:
        """Accumulate."""
        loss.backward()

    def step(self) -> None:
        """Only counted."""
        self.steps += 1


def make_value_batch() -> TrainBatch:
    """Eight rows of different lengths, with values and returns."""
    batch, generator = make_batch(), torch.Generator().manual_seed(2)
    values, returns = (torch.randn(batch.input_ids.shape, generator=generator) for _ in range(2))
    return TrainBatch(**{**vars(batch), "values": values, "returns": returns}).with_loss_weights("token", 100)


def value_gradient(micro_batches: list[TrainBatch], num_ranks: int = 1) -> tuple[Tensor, float]:
    engine = TableEngine()
    loss = value_update(engine, micro_batches, 0.4, num_ranks)
    assert engine.steps == 1
    assert engine.table.grad is not None
    return engine.table.grad, loss


def test_cutting_changes_nothing() -> None:
    """Catches a mean per micro-batch or rank, and a loss that is not the mean over all tokens."""
    batch = make_value_batch()
    gradient, loss = value_gradient([batch])
    assert batch.values is not None
    assert batch.returns is not None
    values = TableEngine()(batch.input_ids, batch.attention_mask, batch.response_mask)
    each = value_loss(values, batch.values, batch.returns, 0.4)
    assert loss == pytest.approx(float(each[batch.response_mask].mean().detach()), rel=1e-5)
    cut, cut_loss = value_gradient([batch.select(rows) for rows in ([3, 1], [0, 7, 4], [6, 5, 2], [])])
    torch.testing.assert_close(cut, gradient)
    assert cut_loss == pytest.approx(loss)
    ranks = [value_gradient([batch.select(rows)], num_ranks=2) for rows in ([1, 3, 4], [0, 2, 5, 6, 7])]
    # What data parallelism does with gradients: it averages them.
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, gradient)
    assert ranks[0][1] + ranks[1][1] == pytest.approx(loss)


# Model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_begin_at_zero(tiny_model: Callable[[bool], Path], dtype: str) -> None:
    """Catches a random head, values in bfloat16, a head of the language model that is kept, and a graph that is cut."""
    lm = load_causal_lm(ModelConfig(path=tiny_model(False), dtype=dtype))
    model, batch = ValueModel(lm), make_batch()
    assert not any("lm_head" in name for name, _ in model.named_parameters())
    for mask in (batch.response_mask, torch.zeros_like(batch.response_mask)):
        values = model(batch.input_ids, batch.attention_mask, mask)
        assert values.dtype == torch.float32
        assert not values.any()
        values.sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("packing", [False, True])
def test_value_is_read_before_its_token(tiny_model: Callable[[bool], Path], packing: bool) -> None:
    """Catches a value that knows the token it is compared with, and packed rows that see their neighbours."""
    model = ValueModel(load_causal_lm(ModelConfig(path=tiny_model(True), dtype="float32")), packing)
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    batch = make_batch()
    plain = AutoModelForCausalLM.from_pretrained(tiny_model(True), dtype=torch.float32).model
    with torch.no_grad():
        values = model(batch.input_ids, batch.attention_mask, batch.response_mask)
        for row in range(len(batch)):
            places = batch.response_mask[row].nonzero().flatten().tolist()
            for place in (places[0], places[-1]):
                hidden = plain(batch.input_ids[row : row + 1, :place]).last_hidden_state[0, -1]
                expected = float(hidden @ model.head.weight[0])
                assert float(values[row, place]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert not values[~batch.response_mask].any()
