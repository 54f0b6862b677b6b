"""Sharing rows out over ranks so that each has as much to compute: all ranks wait for the one with most."""

import heapq
from collections.abc import Sequence


def row_cost(length: int, hidden_size: int) -> int:
    """What a pass over a row of `length` tokens costs, but for a factor: 6 x hidden_size x length + length^2.

    A layer multiplies each of the s tokens with about 12 h^2 weights, and each pair of tokens twice, over h values:
    24 h^2 s + 4 h s^2 operations, which is 4 h times this. The ratio varies with the model (its feed-forward part,
    grouped queries) and the kernel (one that skips what is masked halves the second term); the head is left out.
    Kaplan et al., Scaling Laws for Neural Language Models, arXiv:2001.08361, section 2.1.
    """
    return 6 * hidden_size * length + length**2


def partition_by_cost(costs: Sequence[int], num_shares: int) -> list[list[int]]:
    """Share out items so that the shares cost about the same; they need not have as many items.

    By the largest differencing method, or longest first where that happens to be better, which is rare. Either way the
    costs of two shares differ by no more than the costliest item.

    Args:
        costs: Of each item; not negative.
        num_shares: How many, at least 1.

    Returns:
        [share] -> indices of its items; empty shares where there are too few items.
    """
    ways = karmarkar_karp(costs, num_shares), greedy_lpt(costs, num_shares)
    return min(ways, key=lambda shares: max(sum(costs[item] for item in share) for share in shares))


def karmarkar_karp(costs: Sequence[int], num_shares: int) -> list[list[int]]:
    """The largest differencing method for k shares (Karmarkar and Karp, The differencing method of set partitioning,
    1982).

    Every item begins as a partition of its own, with all shares but one empty. The two partitions whose shares differ
    most are joined, the largest share of one with the smallest of the other and so on, until one is left. Costs 8, 7,
    6, 5, 4 over two shares: 16 and 14.
    """
    # Of each partition: minus what its shares differ by, a number that settles ties, and (cost, items) of each share.
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
    """Each item, costliest first, to the share that costs least so far (Graham, 1969)."""
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    totals = [0] * num_shares
    for item in sorted(range(len(costs)), key=lambda item: -costs[item]):
        share = totals.index(min(totals))
        shares[share].append(item)
        totals[share] += costs[item]
    return shares
