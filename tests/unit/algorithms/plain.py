"""Plain PyTorch in place of DeepSpeed, models whose outputs can be worked out by hand, a batch with every tensor."""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.token_ops import TokenOutputs

VOCABULARY = 11
LONGEST = 16
"""Of a response, for weights that are constant."""


def leaf(values: list[float] | list[list[float]]) -> Tensor:
    """A tensor whose gradient is kept."""
    return torch.tensor(values).requires_grad_()


def gradient_of(tensor: Tensor) -> Tensor:
    """The gradient, which must be there."""
    assert tensor.grad is not None
    return tensor.grad


class PlainBackend:
    """What DeepSpeed does on one rank: accumulate, then apply and clear. Notes what is called."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: list[str] = []
        self.graphs: list[bool] = []
        """Whether each forward pass kept what a backward pass needs."""
        self.gradients: list[Tensor] = []
        """Gradients of the newest step, one a parameter."""

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, **kwargs: Any) -> Any:
        """Forward pass."""
        self.graphs.append(torch.is_grad_enabled())
        return self.model(input_ids, attention_mask, response_mask, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate."""
        self.calls.append("backward")
        loss.backward()

    def step(self) -> None:
        """Keep the gradients for the test, apply them by plain SGD, clear them."""
        self.calls.append("step")
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        self.gradients = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        torch.optim.SGD(parameters, lr=0.1).step()
        self.model.zero_grad()

    @property
    def gradient(self) -> Tensor:
        """All gradients of the newest step, in one row."""
        return torch.cat([gradient.flatten() for gradient in self.gradients])


class Bigram(nn.Module):
    """Token t is drawn from the softmax of the table's row of token t - 1."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0)))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, entropy: str = "none"
    ) -> TokenOutputs:
        """All per-token quantities; entropies only if asked for."""
        logits = self.table[input_ids].roll(1, dims=1)
        distribution = torch.distributions.Categorical(logits=logits)
        entropies = {"gradient": distribution.entropy(), "value": distribution.entropy().detach()}.get(entropy)
        outputs = (
            distribution.log_prob(input_ids),
            torch.zeros(input_ids.shape) if entropies is None else entropies,
            logits.logsumexp(-1),
        )
        return TokenOutputs(*(values * response_mask for values in outputs))


class ValueTable(nn.Module):
    """The value of token t is that of token t - 1 in the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.linspace(-1, 1, VOCABULARY))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Tensor:
        """Values."""
        return self.table[input_ids].roll(1, dims=1) * response_mask


class Fixed(nn.Module):
    """Outputs that are themselves the parameters, whatever the tokens: loss and gradient are then sums by hand."""

    def __init__(self, log_probs: Tensor, entropy: Tensor | None = None, logsumexp: Tensor | None = None) -> None:
        super().__init__()
        self.log_probs = nn.Parameter(log_probs.clone())
        self.entropy = nn.Parameter(torch.ones_like(log_probs) if entropy is None else entropy.clone())
        self.logsumexp = nn.Parameter(torch.zeros_like(log_probs) if logsumexp is None else logsumexp.clone())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, entropy: str = "none"
    ) -> TokenOutputs:
        """The parameters; a gradient reaches entropies only if asked for."""
        entropies = self.entropy if entropy == "gradient" else self.entropy.detach()
        return TokenOutputs(self.log_probs, entropies, self.logsumexp)


class FixedValues(nn.Module):
    """Values that are themselves the parameters."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def forward(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Tensor:
        """The parameters."""
        return self.values


def make_batch() -> TrainBatch:
    """Eight rows of different lengths with everything that any objective reads; some ratios are out of bounds.

    Response tokens of each row: 3, 9, 1, 12, 7, 5, 2, 6.
    """
    generator = torch.Generator().manual_seed(1)

    def tokens(count: int) -> list[int]:
        return torch.randint(0, VOCABULARY, (count,), generator=generator).tolist()

    rows = [(tokens(2 + index % 3), tokens(length)) for index, length in enumerate((3, 9, 1, 12, 7, 5, 2, 6))]
    batch = TrainBatch.from_tokens(rows).with_advantages(torch.randn(8, generator=generator))
    with torch.no_grad():
        log_probs = Bigram()(*batch.inputs).log_probs
    first, second, third, fourth, fifth = (
        torch.randn(batch.input_ids.shape, generator=generator) * batch.response_mask for _ in range(5)
    )
    return replace(
        batch.with_loss_weights("token", LONGEST),
        rollout_log_probs=log_probs + 0.2 * first,
        old_log_probs=log_probs + 0.4 * second,
        ref_log_probs=log_probs - 0.2 * third,
        values=0.5 * fourth,
        returns=fifth,
        ref_sequence_log_probs=(log_probs.double() - 0.2 * third).sum(-1),
    )


def fill_outside(batch: TrainBatch, value: float) -> TrainBatch:
    """A copy whose per-token floats are `value` wherever nothing trains."""
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    per_token = {
        name: torch.where(batch.response_mask, tensor, value)
        for name, tensor in tensors.items()
        if tensor is not None and tensor.dim() == 2 and tensor.is_floating_point()
    }
    return replace(batch, **per_token)
