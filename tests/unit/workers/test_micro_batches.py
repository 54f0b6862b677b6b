"""How rows are shared out over ranks and cut into micro-batches: by hand, and what holds for any lengths."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openr1.algorithms.batch import TrainBatch
from openr1.workers.balance import row_cost
from openr1.workers.micro_batches import cut_into_micro_batches, plan_batch, plan_micro_batches


def test_plan_by_hand() -> None:
    """Catches rows dealt out in turn instead of balanced, and a budget that counts no padding."""
    # 9 stands against 5, which leaves 4; that against row 0 (4) leaves nothing: [9] and [5, 4]. Row 2 (2) to either.
    # Budget 10: 9 alone (2 rows of 9 are 18), 2 alone; 5 and 4 together are 2 x 5 = 10.
    assert plan_micro_batches([4, 9, 2, 5], num_ranks=2, micro_batch_tokens=10) == [[[1], [2]], [[3, 0], []]]


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


def rows_of(*lengths: int) -> TrainBatch:
    """Row i has so many tokens, all i, the first of which is the prompt."""
    return TrainBatch.from_tokens([([row], [row] * (length - 1)) for row, length in enumerate(lengths)])


def flat(plan: Sequence[Sequence[Sequence[int]]]) -> list[int]:
    """All rows of a plan."""
    return [row for rank in plan for rows in rank for row in rows]


def test_pairs_by_hand() -> None:
    """Catches a pair that is torn apart or turned round, and a budget that forgets the padding of the shorter row.

    Pairs of 2 and 4, 3 and 3, 6 and 1 tokens: 2 x 4, 2 x 3 and 2 x 6, longest first. 8 + 8 are 16.
    """
    batch = rows_of(2, 4, 3, 3, 6, 1)
    assert plan_batch(batch, 1, 16, hidden_size=8, rows_together=2) == [[[4, 5], [0, 1, 2, 3]]]
    assert plan_batch(batch, 1, 15, hidden_size=8, rows_together=2) == [[[4, 5], [0, 1], [2, 3]]]


def test_batch_is_planned_by_cost() -> None:
    """Catches a plan that balances tokens, where attention makes the long row cost more than the short ones together.

    6 x 1 x 24 + 24^2 = 720 for the long row, 6 x 6 + 6^2 = 72 for each short one: seven of these cost 504, and their 42
    tokens are more than 24.
    """
    assert (row_cost(24, 1), row_cost(6, 1)) == (720, 72)
    plan = plan_batch(rows_of(6, 6, 6, 24, 6, 6, 6, 6), 2, 1000, hidden_size=1)
    assert sorted(sorted(flat([rank])) for rank in plan) == [[0, 1, 2, 4, 5, 6, 7], [3]]


@given(
    st.lists(st.tuples(st.integers(2, 20), st.integers(2, 20)), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 120),
    st.booleans(),
)
def test_pairs_stay_together(pairs: list[tuple[int, int]], num_ranks: int, budget: int, packing: bool) -> None:
    """Catches a response compared with another pair's, a pair that is lost, and passes over the budget."""
    batch = rows_of(*(length for pair in pairs for length in pair))
    plan = plan_batch(batch, num_ranks, budget, 16, packing, rows_together=2)
    assert sorted(flat(plan)) == list(range(len(batch)))
    assert len({len(rank) for rank in plan}) == 1
    for rank in plan:
        for rows in rank:
            assert rows[1::2] == [row + 1 for row in rows[::2]]
            assert all(row % 2 == 0 for row in rows[::2])
            lengths = [batch.lengths[row] for row in rows]
            tokens = sum(lengths) if packing else len(rows) * max(lengths, default=0)
            assert tokens <= budget or len(rows) == 2


def test_micro_batches_by_hand() -> None:
    """Catches rows of another rank, and a rank without rows that has no pass to make, or one that trains."""
    batch = rows_of(2, 4, 3, 3)
    shares = cut_into_micro_batches(batch, [[[2, 3]], [[0, 1]], [[]]], rows_together=2)
    assert [[micro.input_ids.tolist() for micro in share] for share in shares] == [
        [[[2, 2, 2], [3, 3, 3]]],
        [[[0, 0, 0, 0], [1, 1, 1, 1]]],
        [[[0, 0, 0, 0], [1, 1, 1, 1]]],
    ]
    assert [share[0].num_response_tokens for share in shares] == [4, 4, 0]
    (alone,) = cut_into_micro_batches(batch, [[[]]])[0]
    assert (len(alone), alone.num_response_tokens) == (1, 0)
    assert torch.equal(batch.response_mask, rows_of(2, 4, 3, 3).response_mask)
