"""Packed rows: responses to a prompt stay together, within a budget of tokens."""

from hypothesis import given
from hypothesis import strategies as st

from openr1.algorithms.batch import TrainBatch
from openr1.workers.balance import row_cost
from openr1.workers.packed_plan import PackedRowCosts, plan_packed

PROMPTS = [[number] * 20 for number in range(9)]
"""Long enough to be shared."""


def batch_of(*rows: tuple[int, int]) -> TrainBatch:
    """Rows of (number of the prompt, length of the response)."""
    return TrainBatch.from_tokens([(PROMPTS[prompt], [50] * length) for prompt, length in rows])


def test_costs_by_hand() -> None:
    """Catches a prompt that counts for each response, one that is shared across another prompt's rows, and attention
    that counts as if keys were shared, too."""
    costs = PackedRowCosts(batch_of((0, 3), (0, 5), (1, 2), (0, 1)), hidden_size=10)
    assert costs.cost([0, 1]) == row_cost(23, 10) + row_cost(25, 10) - 60 * 20
    assert costs.cost([1, 2, 3]) == row_cost(25, 10) + row_cost(22, 10) + row_cost(21, 10)
    short = TrainBatch.from_tokens([([1, 2], [3]), ([1, 2], [4])])
    assert PackedRowCosts(short, 10).cost([0, 1]) == 2 * row_cost(3, 10)


def test_plan_by_hand() -> None:
    """Catches groups that are torn apart by sorting, and a budget of fewer tokens than attention has in memory.

    Prompt 0 with 9 and 3 tokens: 29 + 23 = 52. Prompt 1 with 5 and 4: 25 + 24 = 49. Together 101.
    """
    batch = batch_of((0, 3), (1, 4), (0, 9), (1, 5))
    assert plan_packed(batch, 1, 101, 8) == [[[2, 0, 3, 1]]]
    assert plan_packed(batch, 1, 100, 8) == [[[2, 0, 3], [1]]]
    assert plan_packed(batch, 1, 51, 8) == [[[2], [0, 3], [1]]]
    (one,), (other,) = plan_packed(batch, 2, 100, 8)
    assert {tuple(sorted(one)), tuple(sorted(other))} == {(0, 2), (1, 3)}


def test_a_group_is_cut_where_ranks_would_wait() -> None:
    """Catches a rank with all responses to the only prompt, and another without any."""
    plan = plan_packed(batch_of(*[(0, 30)] * 8), 2, 10_000, 8)
    assert sorted(len(rows) for (rows,) in plan) == [4, 4]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40)), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(1, 300),
)
def test_plans_hold(rows: list[tuple[int, int]], num_ranks: int, budget: int) -> None:
    """Catches a row lost or trained twice, a pass over the budget, and ranks with another number of passes."""
    batch = batch_of(*rows)
    costs = PackedRowCosts(batch, 16)
    plan = plan_packed(batch, num_ranks, budget, 16)
    assert sorted(row for rank in plan for micro in rank for row in micro) == list(range(len(rows)))
    assert len(plan) == num_ranks
    assert len({len(rank) for rank in plan}) == 1
    assert all(costs.tokens(micro) <= budget or len(micro) == 1 for rank in plan for micro in rank if micro)
    # Never worse than rows that are dealt out one by one in the best known way.
    loads = [sum(costs.cost(micro) for micro in rank) for rank in plan]
    assert max(loads) <= sum(row_cost(length, 16) for length in batch.lengths)
