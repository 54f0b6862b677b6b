"""The ledger of pass rates: by hand, and as a whole run keeps and uses it."""

import json
from pathlib import Path

import pytest

from data.prepare.score_files import load_pass_rates
from openr1.data.pass_rates import PassRates
from openr1.errors import ConfigError
from openr1.types import Prompt, ScoredGroup
from tests.fakes import make_group, make_prompt, make_score
from tests.running import ROOT, read_jsonl, run_grpo, write_config

BASE_MODEL = ROOT / "data/models/tiny_base"


def visit(prompt: Prompt, *scores: float | None) -> ScoredGroup:
    """A visit of a prompt with so many responses."""
    return ScoredGroup(make_group(prompt, [1] * len(scores)), tuple(make_score(score) for score in scores))


def test_ledger_by_hand(tmp_path: Path) -> None:
    """Catches a mean of means, a newest rate that is never replaced, and ungraded responses that count as failures."""
    ledger = PassRates()
    prompt = make_prompt(1)
    assert ledger.newest(prompt.id) is None
    ledger.add(visit(prompt, 1.0, 0.0, None))
    assert ledger.newest(prompt.id) == 0.5
    ledger.add(visit(prompt, 1.0))
    ledger.add(visit(prompt, None))
    assert ledger.newest(prompt.id) == 1.0
    path = tmp_path / "pass_rates.jsonl"
    ledger.write(path)
    # Two of three graded responses were right.
    expected = {"id": prompt.id, "attempts": 3, "pass_rate": pytest.approx(2 / 3), "newest_pass_rate": 1.0}
    assert read_jsonl(path) == [expected]
    again = PassRates()
    again.read(path)
    assert again.newest(prompt.id) == 1.0
    assert load_pass_rates([path, path]) == {prompt.id: pytest.approx(2 / 3)}


@pytest.mark.parametrize("row", [{"id": "a", "attempts": 1}, {"attempts": 1, "pass_rate": 1, "newest_pass_rate": 1}])
def test_other_files_are_refused(row: dict[str, object], tmp_path: Path) -> None:
    """Catches a dataset that is given as a ledger, and silently says nothing."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=r"rows\.jsonl:1: not a row of a pass_rates\.jsonl"):
        PassRates().read(path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_passes_over_what_it_solves(countdown_files: Path, tmp_path: Path) -> None:
    """Catches a ledger that training never reads, and one that a resumed run begins anew.

    What may be drawn is worked out from the rollouts: a prompt with a right answer at one visit never comes again.
    """
    prompts = (countdown_files / "train.jsonl").read_text().splitlines(keepends=True)[:24]
    (tmp_path / "train.jsonl").write_text("".join(prompts))
    config = write_config(
        tmp_path / "config.yaml",
        BASE_MODEL,
        tmp_path,
        data={"held_out": None, "max_pass_rate": 0.1},
        rollout={"rollout_batch_size": 4, "generate_max_len": 96},
        policy={"train_batch_size": 16},
        optimizer={"learning_rate": 1.0e-6},
    )
    run_grpo(config, "--num_steps", "5")
    run_grpo(config, "--num_steps", "8", "--resume")
    run = tmp_path / "runs/small"
    solved: set[str] = set()
    visits: list[str] = []
    for step in range(1, 9):
        scores: dict[str, list[float]] = {}
        for row in read_jsonl(run / f"rollouts/step_{step:06d}.jsonl"):
            scores.setdefault(row["id"].rpartition("/")[0], []).append(row["score"])
        assert len(scores) == 4
        assert not scores.keys() & solved, f"step {step} visits what was solved before"
        solved |= {prompt for prompt, values in scores.items() if any(values)}
        visits += scores
    assert solved, "nothing was ever solved; the test has no power"
    assert len(visits) > len(set(visits)), "no prompt was visited twice; the test has no power"
    ledger = {row["id"]: row["newest_pass_rate"] for row in read_jsonl(run / "pass_rates.jsonl")}
    assert ledger.keys() == set(visits)
    assert {prompt for prompt, rate in ledger.items() if rate > 0.1} == solved
