"""Deterministic shuffling: the order in which each epoch visits a dataset."""

import random
from collections.abc import Iterator


def epoch_order(num_rows: int, seed: int | str, epoch: int) -> list[int]:
    """Permutation of 0..num_rows - 1, a pure function of the arguments."""
    order = list(range(num_rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def batch_order(
    num_rows: int, batch_size: int, seed: int, num_epochs: int, shuffle: bool = True
) -> Iterator[list[int]]:
    """Yield the row indices of each optimizer step. The last batch of an epoch may be smaller."""
    for epoch in range(num_epochs):
        order = epoch_order(num_rows, seed, epoch) if shuffle else list(range(num_rows))
        for start in range(0, num_rows, batch_size):
            yield order[start : start + batch_size]
