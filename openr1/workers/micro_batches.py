"""Splitting a batch into micro-batches: balanced over ranks, within a token budget."""

from collections.abc import Sequence

from openr1.algorithms.batch import TrainBatch
from openr1.workers.balance import partition_by_cost, row_cost
from openr1.workers.packed_plan import plan_packed


def plan_micro_batches(
    lengths: Sequence[int],
    num_ranks: int,
    micro_batch_tokens: int,
    costs: Sequence[int] | None = None,
) -> list[list[list[int]]]:
    """Distribute rows over ranks and split each share into micro-batches within a token budget.

    Shares have about equal cost (`partition_by_cost`). Rows are sorted longest first, and n rows in a micro-batch count
    as n times its longest row, since the others are padded to it. Every rank gets the same number of micro-batches, if
    necessary with empty ones, because each micro-batch involves a collective of all ranks.

    Args:
        lengths: Number of tokens of each row.
        num_ranks: Number of data-parallel ranks.
        micro_batch_tokens: Token budget of a micro-batch. A row that exceeds it gets a micro-batch to itself.
        costs: Estimated cost of a pass over each row; None uses `lengths`.

    Returns:
        [rank][micro_batch] -> row indices. Each row occurs exactly once.
    """
    shares = partition_by_cost(lengths if costs is None else costs, num_ranks)
    by_length = [sorted(share, key=lambda row: (-lengths[row], row)) for share in shares]
    plan = [_cut_by_budget(share, lengths, micro_batch_tokens) for share in by_length]
    most = max(len(micro_batches) for micro_batches in plan)
    return [micro_batches + [[] for _ in range(most - len(micro_batches))] for micro_batches in plan]


def _cut_by_budget(rows: list[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split rows, sorted longest first, so that the tokens of each part, including padding, are within the budget."""
    micro_batches: list[list[int]] = []
    left = 0
    for row in rows:
        padded = lengths[micro_batches[-1][0]] if micro_batches else 0
        if micro_batches and padded <= left:
            micro_batches[-1].append(row)
            left -= padded
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
    """`plan_micro_batches` for a batch in units of `rows_together` consecutive rows, which are never split.

    All rows of a unit count as long as its longest one, since the others are padded to it. For packed rows, see
    `plan_packed`.
    """
    if packing:
        return plan_packed(batch, num_ranks, micro_batch_tokens, hidden_size, rows_together)
    lengths = batch.lengths
    longest = [max(lengths[start : start + rows_together]) for start in range(0, len(lengths), rows_together)]
    tokens = [rows_together * length for length in longest]
    costs = [rows_together * row_cost(length, hidden_size) for length in longest]
    plan = plan_micro_batches(tokens, num_ranks, micro_batch_tokens, costs)
    return [
        [[unit * rows_together + row for unit in units for row in range(rows_together)] for units in rank]
        for rank in plan
    ]


def cut_into_micro_batches(
    batch: TrainBatch, plan: list[list[list[int]]], rows_together: int = 1
) -> list[list[TrainBatch]]:
    """The micro-batches of each rank. Empty ones become placeholders of `rows_together` fully masked rows."""
    return [[batch.select(rows) if rows else batch.placeholder(rows_together) for rows in rank] for rank in plan]
