"""The shadow grader: what it grades, what it reports, when it raises the alarm; it never touches what trains."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from openr1.config.train import ShadowConfig
from openr1.errors import RewardServerUnavailable
from openr1.rollout.experience import Experience
from openr1.tracking.shadow import Pair, ShadowGrading, ShadowReport, is_chosen, lower_bound
from openr1.types import Grade, Group
from tests.fakes import FakeRewards, make_config, make_group, make_prompt, make_score, make_stages

EVERY = ShadowConfig(task="shadow", share=1.0)


def by_task(shadow: Callable[[Group], list[Grade]]) -> Callable[[Group], list[Grade]]:
    """The first grader calls every response right."""
    return lambda group: shadow(group) if group.prompt.task == "shadow" else [make_score(1.0)] * len(group.responses)


def experience_of(grading: ShadowGrading, steps: list[Group], folder: Path) -> Experience:
    """An experience that was graded by `grading`."""
    from openr1.data.prompts import PromptStream
    from openr1.rollout.producer import ExperienceProducer
    from tests.fakes import FakeRollout

    groups = {group.prompt.id: group for group in steps}
    config = make_config(folder, rollout={"rollout_batch_size": len(steps)})
    stages = make_stages(config)
    prompts = PromptStream([group.prompt for group in steps], seed=0)
    rollout = FakeRollout(make=lambda prompt: groups[prompt.id])
    return ExperienceProducer(config, prompts, rollout, grading, None, stages.interrupts).next(1)


def test_the_choice_depends_on_the_response_alone() -> None:
    """Catches a share that changes with the order or the process, and one that is not the share that was asked for."""
    chosen = [is_chosen(f"p{number}/0", "text", 0.1) for number in range(10_000)]
    assert chosen == [is_chosen(f"p{number}/0", "text", 0.1) for number in range(10_000)]
    # 1000 expected, with a standard deviation of 30
    assert 850 < sum(chosen) < 1150
    assert all(is_chosen(f"p{number}/0", "text", 1.0) for number in range(100))
    assert all(is_chosen(f"p{number}/0", "text", 0.2) for number in range(10_000) if chosen[number])
    assert len({is_chosen("p/0", text, 0.5) for text in "abcdefgh"}) == 2


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    # 5 of 10 and 10 of 100: Wilson intervals (0.2366, 0.7634) and (0.0552, 0.1744), as textbooks print them.
    [(0, 0, 0.0), (0, 50, 0.0), (5, 10, 0.2366), (10, 100, 0.0552)],
)
def test_lower_bound(successes: int, trials: int, expected: float) -> None:
    """Catches a bound with another formula, and a division by zero."""
    assert lower_bound(successes, trials) == pytest.approx(expected, abs=5e-5)


def test_training_sees_the_first_grades_only(tmp_path: Path) -> None:
    """Catches a shadow grade that trains, one that goes to another response, and a task of the row that is changed."""
    rewards = FakeRewards(score=by_task(lambda group: [make_score(0.0)] * len(group.responses)))
    grading = ShadowGrading(rewards, EVERY)
    groups = [make_group(make_prompt(number)) for number in range(2)]
    experience = experience_of(grading, groups, tmp_path)
    assert experience.rewards.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert {scored.group.prompt.task for scored in experience.scored} == {"countdown"}
    pairs = grading.pairs(experience)
    assert sorted(pair.row for pair in pairs) == ["p0/0", "p0/1", "p1/0", "p1/1"]
    assert {(pair.first.score, pair.shadow.score, pair.disagrees) for pair in pairs} == {(1.0, 0.0, True)}
    assert grading.pairs(experience) == []  # each is taken once


def test_only_the_share_is_requested(tmp_path: Path) -> None:
    """Catches a shadow that grades everything, or pairs a grade with the wrong one of a group's responses."""
    settings = ShadowConfig(task="shadow", share=0.5)
    seen: list[str] = []

    def shadow(group: Group) -> list[Grade]:
        seen.extend(response.text for response in group.responses)
        return [make_score(float(len(response.token_ids))) for response in group.responses]

    grading = ShadowGrading(FakeRewards(score=by_task(shadow)), settings)
    groups = [make_group(make_prompt(number), lengths=(1, 2, 3, 4)) for number in range(8)]
    pairs = grading.pairs(experience_of(grading, groups, tmp_path))
    assert 0 < len(pairs) < 32
    assert sorted(seen) == sorted(pair.response for pair in pairs)
    assert [pair.shadow.score for pair in pairs] == [float(len(pair.response.split())) for pair in pairs]


def test_a_shadow_that_fails_stops_nothing(tmp_path: Path) -> None:
    """Catches a second opinion that ends the run, or counts as a disagreement when there is none."""

    def broken(group: Group) -> list[Grade]:
        raise RewardServerUnavailable("it is gone")

    grading = ShadowGrading(FakeRewards(score=by_task(broken)), EVERY)
    pairs = grading.pairs(experience_of(grading, [make_group(make_prompt(0)), make_group(make_prompt(1))], tmp_path))
    metrics = ShadowReport(tmp_path, EVERY).add(1, pairs)
    expected = {"shadow/compared": 0.0, "shadow/failed": 4.0, "shadow/disagreement": 0.0, "shadow/wrongly_paid": 0.0}
    assert metrics == expected
    assert not (tmp_path / "shadow").exists()


def pairs_of(tmp_path: Path, wrong: int, total: int) -> list[Pair]:
    """`total` responses that the first grader calls right, of which the shadow calls `wrong` wrong."""
    scores = iter([0.0] * wrong + [1.0] * (total - wrong))
    rewards = FakeRewards(score=by_task(lambda group: [make_score(next(scores)) for _ in group.responses]))
    grading = ShadowGrading(rewards, EVERY)
    groups = [make_group(make_prompt(number), lengths=(1,) * 10) for number in range(total // 10)]
    return list(grading.pairs(experience_of(grading, groups, tmp_path)))


def test_the_alarm_needs_more_than_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an alarm in honest runs, one that never comes, and one that repeats every step."""
    report = ShadowReport(tmp_path, EVERY)
    # 1 of 20 is 5 %, which the limit allows; 3 of 40 are 7.5 %, but their interval begins at 2.6 %.
    report.add(1, pairs_of(tmp_path, 1, 20))
    report.add(2, pairs_of(tmp_path, 2, 20))
    assert "alarm" not in capsys.readouterr().out
    # 13 of 60: 21.7 %, from 13.1 % on
    metrics = report.add(3, pairs_of(tmp_path, 10, 20))
    assert metrics["shadow/compared"] == 20
    assert (metrics["shadow/disagreement"], metrics["shadow/wrongly_paid"], metrics["shadow/compared"]) == (
        0.5,
        0.5,
        20,
    )
    assert "alarm: step 3: the shadow grader shadow disagrees on 13 of 60 responses" in capsys.readouterr().out
    report.add(4, pairs_of(tmp_path, 10, 20))
    assert capsys.readouterr().out == ""


def test_the_files_list_what_the_two_disagree_on(tmp_path: Path) -> None:
    """Catches rows that agree in the list, and a list of a repeated step that keeps what is no longer true."""
    report = ShadowReport(tmp_path, EVERY)
    report.add(7, pairs_of(tmp_path, 2, 20))
    rows = [json.loads(line) for line in (tmp_path / "shadow/step_000007.jsonl").read_text().splitlines()]
    assert [(row["score"], row["shadow_score"], row["verdict"], row["shadow_verdict"]) for row in rows] == [
        (1.0, 0.0, "correct", "wrong")
    ] * 2
    assert {"id", "prompt", "label", "response", "advantage", "reward"} <= rows[0].keys()
    report.add(7, pairs_of(tmp_path, 0, 20))
    assert not (tmp_path / "shadow/step_000007.jsonl").exists()


def test_the_most_rewarded_come_first(tmp_path: Path) -> None:
    """Catches a list in which a reader must search for what training likes best."""
    pairs = pairs_of(tmp_path, 20, 20)
    ordered = [replace(pair, advantage=float(number)) for number, pair in enumerate(pairs)]
    ShadowReport(tmp_path, EVERY).add(1, ordered)
    rows = [json.loads(line) for line in (tmp_path / "shadow/step_000001.jsonl").read_text().splitlines()]
    assert [row["advantage"] for row in rows] == [float(number) for number in range(19, -1, -1)]
