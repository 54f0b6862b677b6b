"""How a batch is shared out over ranks and cut into micro-batches."""

from collections.abc import Sequence

from openr1.algorithms.batch import TrainBatch
from openr1.workers.balance import partition_by_cost, row_cost


def plan_micro_batches(
    lengths: Sequence[int],
    num_ranks: int,
    micro_batch_tokens: int,
    packing: bool = False,
    costs: Sequence[int] | None = None,
) -> list[list[list[int]]]:
    """Share rows over ranks and cut each share into micro-batches within a token budget.

    Shares cost about the same (`partition_by_cost`). A micro-batch of n rows, cut longest first, counts n times its
    longest row, since it is padded to that. Every rank gets the same number of micro-batches (empty ones where it
    has fewer): the ranks meet in a collective for each.

    Args:
        lengths: Tokens of each row.
        num_ranks: Policy ranks.
        micro_batch_tokens: Budget; a single row above it gets a micro-batch of its own.
        packing: A micro-batch counts its real tokens, since it is not padded.
        costs: What a pass over each row costs; None: its tokens.

    Returns:
        [rank][micro_batch] -> row indices. Each row stands exactly once.
    """
    shares = partition_by_cost(lengths if costs is None else costs, num_ranks)
    by_length = [sorted(share, key=lambda row: (-lengths[row], row)) for share in shares]
    plan = [_cut_by_budget(share, lengths, micro_batch_tokens, packing) for share in by_length]
    most = max(len(micro_batches) for micro_batches in plan)
    return [micro_batches + [[] for _ in range(most - len(micro_batches))] for micro_batches in plan]


def _cut_by_budget(rows: list[int], lengths: Sequence[int], budget: int, packing: bool) -> list[list[int]]:
    """Cut rows, given longest first, so that each part's tokens, padding included, stay within the budget."""
    micro_batches: list[list[int]] = []
    left = 0
    for row in rows:
        cost = lengths[row] if packing or not micro_batches else lengths[micro_batches[-1][0]]
        if micro_batches and cost <= left:
            micro_batches[-1].append(row)
            left -= cost
        else:
            micro_batches.append([row])
            left = budget - lengths[row]
    return micro_batches


def plan_batch(
    batch: TrainBatch,
    num_ranks: int,
    micro_batch_tokens: int,
    hidden_size: int,
    packing: bool = False,
    rows_together: int = 1,
) -> list[list[list[int]]]:
    """`plan_micro_batches` for the rows of a batch, keeping every `rows_together` consecutive rows in one micro-batch.

    Rows that stay together count as the longest of them: the shorter ones are padded to it.
    """
    lengths = batch.lengths
    longest = [max(lengths[start : start + rows_together]) for start in range(0, len(lengths), rows_together)]
    tokens = [rows_together * length for length in longest]
    costs = [rows_together * row_cost(length, hidden_size) for length in longest]
    plan = plan_micro_batches(tokens, num_ranks, micro_batch_tokens, packing, costs)
    return [
        [[unit * rows_together + row for unit in units for row in range(rows_together)] for units in rank]
        for rank in plan
    ]


def cut_into_micro_batches(
    batch: TrainBatch, plan: list[list[list[int]]], rows_together: int = 1
) -> list[list[TrainBatch]]:
    """Each rank's micro-batches; a placeholder of `rows_together` masked rows if it has fewer than the others."""
    return [[batch.select(rows) if rows else batch.placeholder(rows_together) for rows in rank] for rank in plan]
