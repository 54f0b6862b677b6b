"""Bounds that each step must keep: what ends the run at once, what is told once, what is as it should be."""

from pathlib import Path
from typing import Any

import pytest
import torch

from openr1.algorithms.batch import TrainBatch
from openr1.errors import TrainingError
from openr1.rollout.experience import Experience, StepResult
from openr1.training.sanity_checks import SanityChecks
from tests.fakes import make_config, make_group, make_prompt


def checks_of(folder: Path, dtype: str = "float32", **sections: Any) -> SanityChecks:
    return SanityChecks(make_config(folder, model={"path": "m", "dtype": dtype}, **sections))


def result_of(
    step: int, mismatch: float = 0.0, kl: float = 0.0, staleness: float = 0.0, entropy: float = 1.0
) -> StepResult:
    metrics = {
        "rollout/mismatch_abs_mean": mismatch,
        "policy/kl_before": kl,
        "policy/entropy": entropy,
        "rollout/staleness_max": staleness,
    }
    batch, none = TrainBatch.from_groups([make_group(make_prompt())]), torch.zeros(0, 0)
    return StepResult(Experience(step, [], [], batch, {}, none, none.bool()), metrics)


@pytest.mark.parametrize(
    ("dtype", "fine", "wrong"), [("float32", 0.015, 0.025), ("bfloat16", 0.3, 0.4), ("float32", 0.0, float("nan"))]
)
@pytest.mark.parametrize("step", [1, 41])
def test_a_mismatch_that_cannot_be_rounding_ends_the_run(
    tmp_path: Path, dtype: str, fine: float, wrong: float, step: int
) -> None:
    """Catches hours of training whose engines hold other weights than the trainer, from the start or from some step on,
    and NaN, which is above no bound.
    """
    checks_of(tmp_path, dtype).check(result_of(step, mismatch=fine))
    with pytest.raises(
        TrainingError, match=rf"step {step}: engine and trainer differ by .* likely causes: weights that did not"
    ):
        checks_of(tmp_path, dtype).check(result_of(step, mismatch=wrong))


# Measured on the CPU in bfloat16, (entropy, mismatch): the tiny model, SmolLM2-135M, random weights.
ROUNDING = [(0.20, 0.00094), (0.21, 0.00165), (1.78, 0.0289), (2.5, 0.036), (11.9, 0.00067)]


def test_rounding_is_no_alarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a bound that suits one size of model: rounding grows with entropy and depth.

    Twice the measured rounding is still silent. Ten times that of the tiny model is told, which a fixed bound for the
    larger one lets pass.
    """
    for entropy, mismatch in ROUNDING:
        checks_of(tmp_path, "bfloat16").check(result_of(1, mismatch=2 * mismatch, entropy=entropy))
    assert capsys.readouterr().out == ""
    checks_of(tmp_path, "bfloat16").check(result_of(1, mismatch=0.02, entropy=0.2))
    assert "differ by 0.02 nats per token, more than 0.016" in capsys.readouterr().out


def test_a_mismatch_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a line at every step, and a nearly certain model that is held to a bound of almost 0."""
    checks = checks_of(tmp_path)
    checks.check(result_of(1, mismatch=4e-4, entropy=1e-3))
    assert capsys.readouterr().out == ""
    for step in range(2, 5):
        checks.check(result_of(step, mismatch=0.01))
    assert capsys.readouterr().out.count("warning: step 2: engine and trainer differ by 0.01 nats") == 1


def test_a_cut_distribution_differs_rightly(tmp_path: Path) -> None:
    """Catches a recipe with top_p below 1 that cannot start."""
    checks_of(tmp_path, rollout={"top_p": 0.9}).check(result_of(1, mismatch=0.5))


def test_older_weights_differ_rightly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a warning about a pipelined run for being one, and one that is no longer watched at all."""
    checks = checks_of(tmp_path)
    checks.check(result_of(1))
    checks.check(result_of(2, mismatch=0.5, staleness=1))
    assert capsys.readouterr().out == ""
    checks.check(result_of(3, mismatch=0.01))
    assert "warning: step 3" in capsys.readouterr().out


def test_the_reference_is_the_policy_at_first(tmp_path: Path) -> None:
    """Catches another reference than the model that the run begins with, also where a step makes several updates."""
    checks_of(tmp_path).check(result_of(1, kl=1e-7))
    with pytest.raises(TrainingError, match="not loaded from the same weights"):
        checks_of(tmp_path).check(result_of(1, kl=1e-5))
    with pytest.raises(TrainingError, match="not loaded from the same weights"):
        checks_of(tmp_path).check(result_of(1, kl=float("nan")))
    checks_of(tmp_path).check(result_of(2, kl=1.0))
    with pytest.raises(TrainingError, match="not loaded from the same weights"):
        checks_of(tmp_path, policy={"train_batch_size": 2}).check(result_of(1, kl=1e-5))


def test_a_teacher_is_another_model(tmp_path: Path) -> None:
    """Catches a run that ends because its teacher knows more than the policy."""
    with pytest.raises(TrainingError, match="not loaded from the same weights"):
        checks_of(tmp_path).check(result_of(1, kl=0.5))
    checks_of(tmp_path, reference={"path": "m"}).check(result_of(1))
    with pytest.raises(TrainingError, match="not loaded from the same weights"):
        checks_of(tmp_path, reference={"path": "m"}).check(result_of(1, kl=0.5))
    checks_of(tmp_path, reference={"path": "teacher"}).check(result_of(1, kl=0.5))
