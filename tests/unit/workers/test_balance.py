"""Shares of rows over ranks: examples by hand, and what holds for any costs."""

from hypothesis import given
from hypothesis import strategies as st

from openr1.workers.balance import greedy_lpt, karmarkar_karp, partition_by_cost, row_cost

costs_and_shares = {"costs": st.lists(st.integers(0, 60), min_size=1, max_size=30), "num_shares": st.integers(1, 6)}


def totals(costs: list[int], shares: list[list[int]]) -> list[int]:
    return sorted(sum(costs[item] for item in share) for share in shares)


def test_two_shares_by_hand() -> None:
    """Catches items joined in another order than the method's: Karmarkar and Karp's example comes out as 16 and 14.

    8 - 7 = 1, 6 - 5 = 1, 4 - 1 = 3, 3 - 1 = 2: so the shares differ by 2. Longest first gives 17 and 13.
    """
    costs = [6, 8, 4, 5, 7]
    assert totals(costs, karmarkar_karp(costs, 2)) == [14, 16]
    assert totals(costs, greedy_lpt(costs, 2)) == [13, 17]
    assert totals(costs, partition_by_cost(costs, 2)) == [14, 16]


def test_three_shares_by_hand() -> None:
    """Catches joined partitions whose large shares meet.

    (8,0,0) and (7,0,0) join to (8,7,0), whose shares still differ most; with (6,0,0) that is (8,7,6). Then (5,0,0) and
    (4,0,0) join to (5,4,0), and both to (5+6, 4+7, 0+8).
    """
    costs = [8, 7, 6, 5, 4]
    assert totals(costs, karmarkar_karp(costs, 3)) == [8, 11, 11]


def test_longest_first_where_it_is_better() -> None:
    """Catches a share that waits longer than that of the simpler method, as differencing alone would have.

    12 - 9 = 3, 9 - 7 = 2, 7 - 5 = 2, 3 - 3 = 0, 2 - 2 = 0, and 2 is left; one after the other they come to 27 each.
    """
    costs = [12, 9, 9, 7, 7, 5, 3, 2]
    assert totals(costs, karmarkar_karp(costs, 2)) == [26, 28]
    assert totals(costs, partition_by_cost(costs, 2)) == [27, 27]


@given(**costs_and_shares)
def test_each_item_once_and_shares_alike(costs: list[int], num_shares: int) -> None:
    """Catches an item that is lost or shared out twice, a share that is missing, and one ahead by more than an item."""
    for shares in (karmarkar_karp(costs, num_shares), partition_by_cost(costs, num_shares)):
        assert len(shares) == num_shares
        assert sorted(item for share in shares for item in share) == list(range(len(costs)))
        sums = totals(costs, shares)
        assert sums[-1] - sums[0] <= max(costs)


def test_cost_of_a_row_by_hand() -> None:
    """Catches attention that counts nothing, or as much in a wide model as in a narrow one.

    Hidden size 4096 gives 24,576 a token. A row of 8,192 tokens then costs 4/3 of its tokens' part, one of 600 in a
    model of 192 more than 3/2.
    """
    assert row_cost(1, 4096) == 24_577
    assert 3 * row_cost(8192, 4096) == 4 * 24_576 * 8192
    assert row_cost(600, 192) == 600 * (1152 + 600)
