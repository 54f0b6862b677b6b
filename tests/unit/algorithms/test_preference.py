"""Losses of pairs: by hand, by finite differences, and against TRL's own functions."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from openr1.algorithms.preference import PREFERENCE_LOSSES, dpo_loss, orpo_loss, simpo_loss


def test_dpo_by_hand() -> None:
    """Catches chosen and rejected swapped, and a beta outside of the sigmoid."""
    # beta 1/2: margin (ln 9 - ln 1) / 2 = ln 3, sigmoid 3 / 4. Second pair: margin 0, loss ln 2.
    loss, margin = dpo_loss(torch.tensor([math.log(9), 1.0]), torch.tensor([0.0, 1.0]), 0.5, 9.0)
    torch.testing.assert_close(loss, torch.tensor([math.log(4 / 3), math.log(2)]))
    torch.testing.assert_close(margin, torch.tensor([math.log(3), 0.0]))


def test_simpo_by_hand() -> None:
    """Catches a target margin that is multiplied by beta, or added.

    beta 2: 2 x (-1 + 2) - (2 - ln 3) = ln 3; 2 x (-1 + 1) - (2 - ln 3) = ln 3 - 2.
    """
    loss, margin = simpo_loss(torch.tensor([-1.0, -1.0]), torch.tensor([-2.0, -1.0]), 2.0, 2 - math.log(3))
    torch.testing.assert_close(margin, torch.tensor([math.log(3), math.log(3) - 2]))
    torch.testing.assert_close(loss, torch.tensor([math.log(4 / 3), math.log(1 + math.exp(2) / 3)]))


def test_orpo_by_hand() -> None:
    """Catches probabilities for odds, a missing part of SFT, and beta on the wrong part.

    Probabilities 3/4 and 1/4 have the odds 3 and 1/3, whose ratio is 9: sigmoid(ln 9) = 9/10. Equal ones: 1/2.
    """
    chosen, rejected = torch.tensor([0.75, 0.5]).log(), torch.tensor([0.25, 0.5]).log()
    loss, margin = orpo_loss(chosen, rejected, 0.5, 9.0)
    torch.testing.assert_close(margin, torch.tensor([math.log(9), 0.0]))
    expected = [math.log(4 / 3) + 0.5 * math.log(10 / 9), math.log(2) + 0.5 * math.log(2)]
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_odds_stay_finite() -> None:
    """Catches infinite odds of a response that is certain, and NaN in the gradient."""
    chosen, rejected = torch.tensor([0.0, -1e-9, -80.0], requires_grad=True), torch.tensor([-80.0, -1.0, 0.0])
    loss, _ = orpo_loss(chosen, rejected, 0.1, 0.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert chosen.grad is not None
    assert chosen.grad.isfinite().all()


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_gradients_against_finite_differences(name: str) -> None:
    """Catches a gradient that is not the loss's own."""
    generator = torch.Generator().manual_seed(1)
    scores = (-0.1 - torch.rand(2, 4, generator=generator, dtype=torch.float64)).requires_grad_()

    def total(scores: Tensor) -> Tensor:
        return PREFERENCE_LOSSES[name](scores[0], scores[1], 0.7, 0.3).loss.sum()

    assert torch.autograd.gradcheck(total, scores)


def test_losses_are_those_of_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches another formula than TRL's, for log-probs near 0 and far from it."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    generator = torch.Generator().manual_seed(2)
    chosen, rejected = -torch.rand(2, 50, generator=generator) * torch.logspace(-3, 1, 50)
    settings = SimpleNamespace(
        beta=2.0,
        loss_type="simpo",
        simpo_gamma=0.6,
        label_smoothing=0.0,
        alpha=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )
    expected, _, _ = CPOTrainer.cpo_loss(settings, chosen, rejected)
    torch.testing.assert_close(simpo_loss(chosen, rejected, 2.0, 0.6).loss, expected)
    # TRL adds the part of SFT elsewhere, and takes this one with the opposite sign.
    odds = ORPOTrainer.odds_ratio_loss(settings, chosen, rejected)[0]
    torch.testing.assert_close(orpo_loss(chosen, rejected, 2.0, 0.0).loss, -chosen - odds, rtol=1e-4, atol=1e-5)
