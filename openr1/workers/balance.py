"""Load balancing: distribute rows over ranks at equal compute, since every rank waits for the slowest one."""

import heapq
from collections.abc import Sequence


def row_cost(length: int, hidden_size: int) -> int:
    """Estimated cost of a pass over a row of `length` tokens, up to a factor: 6 x hidden_size x length + length^2.

    With hidden size h and s tokens, a layer has about 12 h^2 weights, each used in one multiply-add per token, and two
    products over h values per pair of tokens: 24 h^2 s + 4 h s^2 operations, which is 4 h times the returned value. The
    true ratio of the two terms varies with the model (feed-forward size, grouped queries) and the kernel (one that
    skips masked pairs halves the second term). The output head is not counted.

    Reference:
        Kaplan et al., Scaling Laws for Neural Language Models, arXiv:2001.08361, section 2.1.
    """
    return 6 * hidden_size * length + length**2


def partition_by_cost(costs: Sequence[int], num_shares: int) -> list[list[int]]:
    """Partition items into shares of about equal cost. The shares may have different numbers of items.

    Uses the Karmarkar-Karp largest differencing method, or the greedy LPT partition in the rare case that it is better.
    With either, the costs of any two shares differ by at most the cost of the most expensive item.

    Args:
        costs: Cost of each item, not negative.
        num_shares: Number of shares, at least 1.

    Returns:
        [share] -> indices of its items. Some shares are empty if there are fewer items than shares.
    """
    ways = karmarkar_karp(costs, num_shares), greedy_lpt(costs, num_shares)
    return min(ways, key=lambda shares: max(sum(costs[item] for item in share) for share in shares))


def karmarkar_karp(costs: Sequence[int], num_shares: int) -> list[list[int]]:
    """The largest differencing method for k shares.

    Every item starts as a separate partition, with all shares but one empty. The two partitions with the largest
    difference between their shares are merged, the largest share of one with the smallest of the other and so on, until
    one partition is left. Example: costs 8, 7, 6, 5, 4 over two shares give 16 and 14.

    Reference:
        Karmarkar and Karp, The differencing method of set partitioning, 1982.
    """
    # Heap entries: minus the difference of the shares (a min-heap), a unique tie-breaker, and (cost, items) per share.
    empty: list[tuple[int, list[int]]] = [(0, [])] * (num_shares - 1)
    heap = [(-cost, item, [(cost, [item]), *empty]) for item, cost in enumerate(costs)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (_, tie, one), (_, _, other) = heapq.heappop(heap), heapq.heappop(heap)
        pairs = zip(one, reversed(other), strict=True)
        joined = sorted(((a + b, left + right) for (a, left), (b, right) in pairs), key=lambda share: -share[0])
        heapq.heappush(heap, (joined[-1][0] - joined[0][0], tie, joined))
    return [items for _, items in heap[0][2]]


def greedy_lpt(costs: Sequence[int], num_shares: int) -> list[list[int]]:
    """Longest processing time first: assign items by decreasing cost to the cheapest share so far (Graham, 1969)."""
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    totals = [0] * num_shares
    for item in sorted(range(len(costs)), key=lambda item: -costs[item]):
        share = totals.index(min(totals))
        shares[share].append(item)
        totals[share] += costs[item]
    return shares
