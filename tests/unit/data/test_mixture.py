"""Several datasets with weights, and pass rates that decide what is visited."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from openr1.config.train import DataConfig
from openr1.data.difficulty import Judge, chance, make_judge
from openr1.data.mixture import MixedStream, Part, check_labels, with_distinct_ids
from openr1.data.pass_rates import PassRate, PassRates
from openr1.data.prompts import PromptStream
from openr1.errors import ConfigError, DatasetExhausted
from openr1.training.metrics import skip_metrics
from openr1.types import Prompt
from tests.fakes import make_prompt

PROMPTS = [make_prompt(number) for number in range(40)]


def named(prompts: list[Prompt], name: str) -> list[Prompt]:
    """The prompts with other ids."""
    return [replace(prompt, id=f"{name}{index}") for index, prompt in enumerate(prompts)]


PARTS = [Part("a", named(PROMPTS[:10], "a"), 3.0), Part("b", named(PROMPTS[10:], "b"), 1.0)]


def mixture(parts: list[Part] = PARTS, judge: Judge | None = None) -> MixedStream:
    """A stream over parts; each has a seed of its own."""
    return MixedStream([(part, PromptStream(part.prompts, f"0/{number}", judge)) for number, part in enumerate(parts)])


def take_ids(stream: MixedStream, count: int, batches: int = 1) -> list[list[str]]:
    """The ids of so many batches."""
    return [[prompt.id for prompt in stream.take(count)] for _ in range(batches)]


def test_prompts_come_in_proportion_to_the_weights() -> None:
    """Catches shares of the files' sizes instead of the weights, and shares that are right only in the long run."""
    taken: Counter[str] = Counter()
    stream = mixture()
    for batch in take_ids(stream, 4, 30):
        assert len(set(batch)) == 4
        assert Counter(prompt_id[0] for prompt_id in batch) == {"a": 3, "b": 1}
        taken.update(batch)
    # 90 prompts of ten, in epochs of nine (three batches, and one prompt that cannot fill the fourth); 30 of thirty.
    assert sum(count for prompt_id, count in taken.items() if prompt_id[0] == "a") == 90
    assert max(taken[f"a{index}"] for index in range(10)) - min(taken[f"a{index}"] for index in range(10)) <= 9
    assert {taken[f"b{index}"] for index in range(30)} == {1}


def test_shares_that_do_not_divide_a_step() -> None:
    """Catches rounding that is the same at every step, so that a small weight never has its turn."""
    parts = [replace(PARTS[0], weight=9.0), replace(PARTS[1], weight=1.0)]
    counts = [Counter(prompt_id[0] for prompt_id in batch)["b"] for batch in take_ids(mixture(parts), 4, 25)]
    assert sum(counts) == 10
    assert max(counts) == 1


@pytest.mark.parametrize("before", [0, 1, 4, 7])
def test_restored_mixture_goes_on_the_same(before: int) -> None:
    """Catches a position that leaves out a file, or whose turn it is; it must survive JSON."""
    stream = mixture()
    take_ids(stream, 5, before)
    state = json.loads(json.dumps(stream.state()))
    expected = take_ids(stream, 5, 6)
    other = mixture()
    take_ids(other, 3, 2)
    other.restore(state)
    assert take_ids(other, 5, 6) == expected


def test_ids_are_made_unique_over_all_files() -> None:
    """Catches groups of two prompts under one id, and ids that change although they are unique."""
    first, second, third = with_distinct_ids(
        [
            Part(name, [replace(PROMPTS[0], id=prompt_id) for prompt_id in ids], 1.0)
            for name, ids in (("a", ["1", "2"]), ("b", ["2", "3"]), ("c", ["2", "4"]))
        ]
    )
    ids = [[prompt.id for prompt in part.prompts] for part in (first, second, third)]
    assert ids == [["1", "2"], ["2#2", "3"], ["2#3", "4"]]
    with pytest.raises(ConfigError, match="b: duplicate id '2#2'"):
        with_distinct_ids(
            [
                Part("a", [replace(PROMPTS[0], id=one) for one in ("2", "2#2")], 1.0),
                Part("b", [replace(PROMPTS[0], id="2")], 1.0),
            ]
        )


def test_one_prompt_with_two_labels_in_two_files() -> None:
    """Catches a question of which one of two answers must be wrong, though each file by itself is in order."""
    same, other_task = replace(PROMPTS[0], id="x"), replace(PROMPTS[0], id="y", task="math", label="7")
    check_labels([Part("a", PROMPTS[:2], 1.0), Part("b", [same, other_task], 1.0)])
    with pytest.raises(ConfigError, match="b: prompt 'x' is in a, too, with another label"):
        check_labels([Part("a", PROMPTS[:2], 1.0), Part("b", [replace(same, label="7")], 1.0)])


def test_a_file_without_enough_prompts_is_named() -> None:
    """Catches a message that does not say which file, or one that repeats prompts in a step instead."""
    parts = [replace(PARTS[0], prompts=PARTS[0].prompts[:2]), PARTS[1]]
    with pytest.raises(DatasetExhausted, match=r"^a: only 2 of 2 prompts"):
        mixture(parts).take(4)


# Pass rates


def rates_of(values: dict[str, float]) -> PassRates:
    """A ledger in which each prompt was visited once."""
    rates = PassRates()
    rates._rates = {name: PassRate(4, value, value) for name, value in values.items()}
    return rates


def judge_of(values: dict[str, float], **data: float) -> Judge:
    """The judge of a run with these settings and pass rates."""
    judge = make_judge(DataConfig.model_validate({"train": "x", **data}), rates_of(values), seed=0)
    assert judge is not None
    return judge


def test_bounds_of_the_pass_rate() -> None:
    """Catches bounds that exclude the bound itself, and prompts that were never visited and never will be."""
    judge = judge_of({"0": 0.0, "1": 0.25, "2": 0.5, "3": 0.75, "4": 1.0}, min_pass_rate=0.25, max_pass_rate=0.75)
    verdicts = [judge(prompt_id, 0) for prompt_id in ("0", "1", "2", "3", "4", "new")]
    assert verdicts == ["hard", "take", "take", "take", "easy", "take"]
    assert make_judge(DataConfig.model_validate({"train": "x"}), PassRates(), 0) is None


def test_chances_by_hand() -> None:
    """Catches a window that is narrower on one side, and a chance of 0, after which no visit corrects the rate."""
    assert [chance(rate, 0.5) for rate in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.1, 0.5, 1.0, 0.5, 0.1]
    assert [chance(rate, 0.25) for rate in (0.0, 0.25, 0.625, 1.0)] == pytest.approx([2 / 3, 1.0, 0.5, 0.1])
    assert chance(0.0, 0.0) == chance(1.0, 1.0) == 1.0


def test_prompts_near_the_target_come_more_often() -> None:
    """Catches weights without effect, or draws that are the same in every epoch.

    Of 40 prompts half are at the target, half at a pass rate of 1, whose chance is 0.1. In 30 epochs the latter have
    600 turns: 60 visits, with a standard deviation of 7.3.
    """
    judge = judge_of(
        {prompt.id: 0.5 if index < 20 else 1.0 for index, prompt in enumerate(PROMPTS)}, target_pass_rate=0.5
    )
    visits = Counter(prompt.id for epoch in range(30) for prompt in PROMPTS if judge(prompt.id, epoch) == "take")
    assert [visits[prompt.id] for prompt in PROMPTS[:20]] == [30] * 20
    far = [visits[prompt.id] for prompt in PROMPTS[20:]]
    assert 60 - 30 < sum(far) < 60 + 30
    assert sum(count > 0 for count in far) > 10


def test_a_target_never_ends_a_run() -> None:
    """Catches a dataset that counts as exhausted since all prompts are far from the target."""
    stream = PromptStream(PROMPTS[:8], 0, judge_of({prompt.id: 1.0 for prompt in PROMPTS[:8]}, target_pass_rate=0.5))
    for _ in range(20):
        assert len({prompt.id for prompt in stream.take(8)}) == 8


def test_skipped_prompts_are_counted() -> None:
    """Catches counts that a resumed run or a step that is made again begins anew or counts twice.

    One epoch is ten prompts, of which two are too hard and three too easy.
    """
    values = {prompt.id: rate for prompt, rate in zip(PROMPTS, [0.0] * 2 + [0.5] * 5 + [1.0] * 3, strict=False)}
    judge = judge_of(values, min_pass_rate=0.1, max_pass_rate=0.9)
    stream = PromptStream(PROMPTS[:10], 0, judge)
    start = stream.state()
    stream.take(5)
    abandoned = stream.state()
    stream.restore(start)
    stream.take(5)
    assert stream.state() == abandoned
    stream.take(5)
    two_epochs = skip_metrics(start, stream.state())
    # The second batch may end before the epoch does; the rest is counted when the third one begins.
    assert two_epochs["rollout/skipped_hard"] <= 4
    assert two_epochs["rollout/skipped_easy"] <= 6
    stream.take(5)
    whole = skip_metrics(start, {**stream.state()})
    assert whole["rollout/skipped_hard"] >= 4
    assert whole["rollout/skipped_easy"] >= 6
    assert whole["rollout/skipped_off_target"] == 0
    restored = PromptStream(PROMPTS[:10], 0, judge)
    restored.restore(json.loads(json.dumps(stream.state())))
    assert restored.state() == stream.state()


def test_skip_metrics_of_a_mixture() -> None:
    """Catches counts of one file only, and metrics where nothing can be skipped."""
    before = {"1.epoch": 0, "1.skipped_easy": 2, "1.skipped_hard": 1, "1.skipped_off_target": 0}
    after = {"1.epoch": 1, "1.skipped_easy": 5, "1.skipped_hard": 1, "1.skipped_off_target": 4, "2.skipped_easy": 7}
    expected = {"rollout/skipped_easy": 10.0, "rollout/skipped_hard": 0.0, "rollout/skipped_off_target": 4.0}
    assert skip_metrics(before, after) == expected
    assert skip_metrics({"epoch": 0, "cursor": 1}, {"epoch": 0, "cursor": 5}) == {}


def test_a_position_behind_the_end() -> None:
    """Catches an IndexError where a run that is resumed has fewer prompts than it began with."""
    stream = PromptStream(PROMPTS, 0)
    stream.take(30)
    with pytest.raises(ConfigError, match=r"prompt 30 of data\.train, which has 10"):
        PromptStream(PROMPTS[:10], 0).restore(stream.state())
