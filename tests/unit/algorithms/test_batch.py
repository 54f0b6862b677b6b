"""The layout of a batch by hand, and the properties of how it is cut."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openr1.algorithms.batch import TrainBatch
from openr1.types import Group
from openr1.workers.micro_batches import plan_micro_batches
from tests.fakes import make_prompt, make_response


def make_batch() -> TrainBatch:
    """Three rows of 4, 2 and 3 tokens; the first response holds the pad id 0, inside and at its end."""
    long, short = make_prompt(0, token_ids=(5, 6)), make_prompt(1, token_ids=(7,))
    groups = [
        Group(long, (make_response(0, 0, log_prob=-0.5),)),
        Group(short, (make_response(8, log_prob=-1.5), make_response(0, 9, log_prob=-2.5))),
    ]
    return TrainBatch.from_groups(groups)


def test_layout_by_hand() -> None:
    """Catches a response mask made from `!= pad`, log-probs shifted by one, and rows in another order."""
    batch = make_batch()
    assert batch.input_ids.tolist() == [[5, 6, 0, 0], [7, 8, 0, 0], [7, 0, 9, 0]]
    assert batch.attention_mask.int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert batch.response_mask.int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0]]
    assert batch.rollout_log_probs.tolist() == [[0, 0, -0.5, -0.5], [0, -1.5, 0, 0], [0, -2.5, -2.5, 0]]
    assert (batch.advantages, batch.ref_log_probs, batch.old_log_probs) == (None, None, None)
    assert (len(batch), batch.lengths, batch.num_response_tokens) == (3, [4, 2, 3], 5)


def test_types() -> None:
    """Catches float64 or int32 tensors, which a model on a device refuses or slows down."""
    batch = make_batch().with_advantages(torch.tensor([1.0, 2.0, 3.0]))
    assert batch.advantages is not None
    types = (batch.input_ids.dtype, batch.response_mask.dtype, batch.rollout_log_probs.dtype, batch.advantages.dtype)
    assert types == (torch.int64, torch.bool, torch.float32, torch.float32)


def test_rows_of_tokens() -> None:
    """Catches a supervised row whose prompt trains, or padding at the left."""
    batch = TrainBatch.from_tokens([([1, 2, 3], [4]), ([5], [])])
    assert batch.input_ids[:, 0].tolist() == [1, 5]
    assert batch.attention_mask.int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch.response_mask.int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert not batch.rollout_log_probs.any()


def test_advantages_stand_on_response_tokens_alone() -> None:
    """Catches advantages on the prompt, which would train it."""
    batch = make_batch().with_advantages(torch.tensor([1.0, -2.0, 0.5]))
    assert batch.advantages is not None
    assert batch.advantages.tolist() == [[0, 0, 1, 1], [0, -2, 0, 0], [0, 0.5, 0.5, 0]]


def test_select_trims_and_keeps_order() -> None:
    """Catches rows that come back sorted, padding that is never cut, and tensors that are not cut alike."""
    batch = make_batch().with_advantages(torch.tensor([1.0, -2.0, 0.5]))
    chosen = batch.select([2, 1])
    assert chosen.input_ids.tolist() == [[7, 0, 9], [7, 8, 0]]
    assert chosen.attention_mask.int().tolist() == [[1, 1, 1], [1, 1, 0]]
    assert chosen.response_mask.int().tolist() == [[0, 1, 1], [0, 1, 0]]
    assert chosen.rollout_log_probs.tolist() == [[0, -2.5, -2.5], [0, -1.5, 0]]
    assert chosen.advantages is not None
    assert chosen.advantages.tolist() == [[0, 0.5, 0.5], [0, -2, 0]]
    assert chosen.ref_log_probs is None
    assert chosen.lengths == [3, 2]


def test_select_nothing_trains_nothing() -> None:
    """Catches an empty micro-batch that trains its stand-in row a second time, or that a model cannot take."""
    batch = make_batch()
    empty = batch.select([])
    assert len(empty) == 1
    assert empty.num_response_tokens == 0
    assert empty.attention_mask.any()
    # The batch itself is as before.
    assert batch.num_response_tokens == 5


def test_plan_by_hand() -> None:
    """Catches rows dealt out in turn instead of balanced, and a budget that counts no padding."""
    # 9 stands against 5, which leaves 4; that against row 0 (4) leaves nothing: [9] and [5, 4]. Row 2 (2) to either.
    # Budget 10: 9 alone (2 rows of 9 are 18), 2 alone; 5 and 4 together are 2 x 5 = 10.
    assert plan_micro_batches([4, 9, 2, 5], num_ranks=2, micro_batch_tokens=10) == [[[1], [2]], [[3, 0], []]]


def test_packed_plan_by_hand() -> None:
    """Catches a budget that counts padding where there is none."""
    # 5, 3 and 2 are 10 real tokens; padded to 5 they would be 15.
    assert plan_micro_batches([2, 5, 3], num_ranks=1, micro_batch_tokens=10, packing=True) == [[[1, 2, 0]]]
    assert plan_micro_batches([2, 5, 3], num_ranks=1, micro_batch_tokens=9, packing=True) == [[[1, 2], [0]]]


def test_plan_by_cost() -> None:
    """Catches shares of as many tokens where the long row costs more than the short ones together, and lost order."""
    # 6 tokens cost as much as 2, 2, 2 and 2 together: by tokens, the long row would get one of them.
    plan = plan_micro_batches([2, 6, 2, 2, 2], num_ranks=2, micro_batch_tokens=8, costs=[9, 36, 9, 9, 9])
    assert plan == [[[1]], [[0, 2, 3, 4]]]


lengths_and_cuts = {
    "lengths": st.lists(st.integers(1, 50), min_size=1, max_size=40),
    "num_ranks": st.integers(1, 5),
    "budget": st.integers(1, 200),
}


@given(**lengths_and_cuts)
def test_plan_holds_each_row_once(lengths: list[int], num_ranks: int, budget: int) -> None:
    """Catches a row that is lost, or trained twice."""
    plan = plan_micro_batches(lengths, num_ranks, budget)
    assert sorted(row for rank in plan for micro_batch in rank for row in micro_batch) == list(range(len(lengths)))


@given(**lengths_and_cuts)
def test_ranks_have_the_same_number_of_micro_batches(lengths: list[int], num_ranks: int, budget: int) -> None:
    """Catches a rank that makes one pass less, for which the others wait in a collective for ever."""
    plan = plan_micro_batches(lengths, num_ranks, budget)
    assert len(plan) == num_ranks
    assert len({len(rank) for rank in plan}) == 1
    # And no more passes than some rank needs.
    assert any(all(rank) for rank in plan)


@given(**lengths_and_cuts)
def test_micro_batches_stay_within_the_budget(lengths: list[int], num_ranks: int, budget: int) -> None:
    """Catches a budget of real tokens, which padding exceeds, and a row that is dropped because it is too long."""
    for rank in plan_micro_batches(lengths, num_ranks, budget):
        for micro_batch in rank:
            padded = len(micro_batch) * max((lengths[row] for row in micro_batch), default=0)
            assert padded <= budget or len(micro_batch) == 1


@given(**lengths_and_cuts)
def test_ranks_have_about_the_same_work(lengths: list[int], num_ranks: int, budget: int) -> None:
    """Catches a rank that is given the long rows, for which all others wait."""
    loads = [
        sum(lengths[row] for micro_batch in rank for row in micro_batch)
        for rank in plan_micro_batches(lengths, num_ranks, budget)
    ]
    assert max(loads) - min(loads) <= max(lengths)


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_plan_is_repeatable(num_ranks: int) -> None:
    """Catches a plan by chance: the driver plans log-probs and the update apart, and both must agree."""
    lengths = [3, 3, 3, 1, 1, 2, 2]
    assert plan_micro_batches(lengths, num_ranks, 6) == plan_micro_batches(lengths, num_ranks, 6)
