"""Micro-batches of packed rows: responses to one prompt stay together, so that the prompt is computed once for them."""

from collections.abc import Sequence
from itertools import chain, pairwise

import torch

from openr1.algorithms.batch import TrainBatch
from openr1.packing.shared_prefixes import SHORTEST
from openr1.workers.balance import partition_by_cost, row_cost

EVEN_ENOUGH = 1.02
"""Groups are not cut further once the slowest rank has at most so much more work than the average one."""

Unit = tuple[int, ...]
"""Rows that are never split."""


class PackedRowCosts:
    """Cost of rows of a batch when they are packed one after the other.

    A row's prompt is what comes before its first response token. Rows with the same prompt that follow each other share
    it. What else rows have in common (`shared_prefixes`) makes them cheaper still, and is not counted.
    """

    def __init__(self, batch: TrainBatch, hidden_size: int) -> None:
        """Look at the rows of `batch`, for a model of this hidden size."""
        self.lengths = batch.lengths
        self._hidden_size = hidden_size
        masks, tokens = batch.response_mask, batch.input_ids.numpy()
        starts = torch.where(masks.any(-1), masks.int().argmax(-1), batch.attention_mask.sum(-1)).tolist()
        self.prompts = [tokens[row, :start].tobytes() for row, start in enumerate(starts)]
        self._shareable = [start if start >= SHORTEST else 0 for start in starts]

    def _shared(self, rows: Sequence[int]) -> int:
        """Tokens of prompts that are not computed again."""
        same = (row for before, row in pairwise(rows) if self.prompts[before] == self.prompts[row])
        return sum(self._shareable[row] for row in same)

    def tokens(self, rows: Sequence[int]) -> int:
        """Tokens of the rows, each prompt counted for each of its responses."""
        return sum(self.lengths[row] for row in rows)

    def cost(self, rows: Sequence[int]) -> int:
        """Cost of the pass in the unit of `row_cost`: in attention, what is shared still has its part in every row."""
        whole = sum(row_cost(self.lengths[row], self._hidden_size) for row in rows)
        return whole - 6 * self._hidden_size * self._shared(rows)


def plan_packed(
    batch: TrainBatch, num_ranks: int, micro_batch_tokens: int, hidden_size: int, rows_together: int = 1
) -> list[list[list[int]]]:
    """Distribute rows over ranks, and split each share into micro-batches within a token budget.

    Responses to one prompt go to one rank if that keeps the ranks busy; otherwise they are cut into halves, quarters
    and so on: a prompt that is computed twice costs less than ranks that wait.

    Args:
        batch: On the CPU.
        num_ranks: Number of data-parallel ranks.
        micro_batch_tokens: Tokens of a micro-batch. Shared ones count for each row: attention on GPUs and the hidden
            states of the head have them in memory as often. A unit that exceeds it gets a micro-batch to itself.
        hidden_size: Of the model.
        rows_together: So many consecutive rows form a unit, which is never split.

    Returns:
        [rank][micro_batch] -> row indices, as `micro_batches.plan_batch`.
    """
    costs = PackedRowCosts(batch, hidden_size)
    groups: dict[bytes, list[Unit]] = {}
    for start in range(0, len(batch), rows_together):
        unit = tuple(range(start, start + rows_together))
        groups.setdefault(costs.prompts[start], []).append(unit)
    for units in groups.values():
        units.sort(key=lambda unit: (-costs.tokens(unit), unit))
    shares = _balanced(list(groups.values()), num_ranks, costs)
    plan = [_cut_by_budget(units, micro_batch_tokens, costs) for units in shares]
    most = max(len(micro_batches) for micro_batches in plan)
    return [micro_batches + [[] for _ in range(most - len(micro_batches))] for micro_batches in plan]


def _balanced(groups: list[list[Unit]], num_ranks: int, costs: PackedRowCosts) -> list[list[Unit]]:
    """The units of each rank, in parts of groups as large as the smallest maximal cost of a rank allows."""
    best: list[list[Unit]] = [list(chain.from_iterable(groups))]
    lowest: int | None = None
    largest = max(len(group) for group in groups)
    while num_ranks > 1 and largest:
        parts = [group[start : start + largest] for group in groups for start in range(0, len(group), largest)]
        rows = [list(chain.from_iterable(part)) for part in parts]
        shares = partition_by_cost([costs.cost(part) for part in rows], num_ranks)
        highest = max(sum(costs.cost(rows[part]) for part in share) for share in shares)
        if lowest is None or highest < lowest:
            # Parts of one group follow each other again where they meet on a rank.
            best = [[unit for part in sorted(share) for unit in parts[part]] for share in shares]
            lowest = highest
        if highest * num_ranks <= EVEN_ENOUGH * sum(costs.cost(part) for part in rows):
            break
        largest //= 2
    return best


def _cut_by_budget(units: list[Unit], budget: int, costs: PackedRowCosts) -> list[list[int]]:
    micro_batches: list[list[int]] = []
    left = 0
    for unit in units:
        if micro_batches and costs.tokens(unit) <= left:
            micro_batches[-1].extend(unit)
            left -= costs.tokens(unit)
        else:
            micro_batches.append(list(unit))
            left = budget - costs.tokens(unit)
    return micro_batches
