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


def result_of(step: int, mismatch: float = 0.0, kl: float = 0.0, staleness: float = 0.0) -> StepResult:
    metrics = {"rollout/mismatch_abs_mean": mismatch, "policy/kl_before": kl, "rollout/staleness_max": staleness}
    batch, none = TrainBatch.from_groups([make_group(make_prompt())]), torch.zeros(0, 0)
    return StepResult(Experience(step, [], [], batch, {}, none, none.bool()), metrics)


@pytest.mark.parametrize(("dtype", "fine", "wrong"), [("float32", 2e-3, 5e-3), ("bfloat16", 0.06, 0.3)])
def test_a_mismatch_from_the_start_ends_the_run(tmp_path: Path, dtype: str, fine: float, wrong: float) -> None:
    """Catches hours of training whose engines hold other weights than the trainer."""
    checks_of(tmp_path, dtype).check(result_of(1, mismatch=fine))
    with pytest.raises(
        TrainingError, match=r"step 1: engine and trainer differ by .* likely causes: weights that did not"
    ):
        checks_of(tmp_path, dtype).check(result_of(1, mismatch=wrong))
    # After resuming, too: the first push is checked again.
    with pytest.raises(TrainingError, match="step 41"):
        checks_of(tmp_path, dtype).check(result_of(41, mismatch=wrong))


def test_a_later_mismatch_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run that ends in the night for what a human should weigh, and a line at every step."""
    checks = checks_of(tmp_path)
    for step in range(1, 5):
        checks.check(result_of(step, mismatch=0.5 if step > 1 else 0.0))
    assert capsys.readouterr().out.count("warning: step 2: engine and trainer differ by 0.5 nats") == 1


def test_a_cut_distribution_differs_rightly(tmp_path: Path) -> None:
    """Catches a recipe with top_p below 1 that cannot start."""
    checks_of(tmp_path, rollout={"top_p": 0.9}).check(result_of(1, mismatch=0.5))


def test_older_weights_differ_rightly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a warning about a pipelined run for being one, and one that is no longer watched at all."""
    checks = checks_of(tmp_path)
    checks.check(result_of(1))
    checks.check(result_of(2, mismatch=0.5, staleness=1))
    assert capsys.readouterr().out == ""
    checks.check(result_of(3, mismatch=0.5))
    assert "warning: step 3" in capsys.readouterr().out


def test_the_reference_is_the_policy_at_first(tmp_path: Path) -> None:
    """Catches another reference than the model that the run begins with, also where a step makes several updates."""
    checks_of(tmp_path).check(result_of(1, kl=1e-7))
    with pytest.raises(TrainingError, match="not loaded from the same weights"):
        checks_of(tmp_path).check(result_of(1, kl=1e-5))
    checks_of(tmp_path).check(result_of(2, kl=1.0))
    with pytest.raises(TrainingError, match="not loaded from the same weights"):
        checks_of(tmp_path, policy={"train_batch_size": 2}).check(result_of(1, kl=1e-5))
