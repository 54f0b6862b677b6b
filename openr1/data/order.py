"""The order in which an epoch visits a dataset."""

import random
from collections.abc import Iterator


def epoch_order(num_rows: int, seed: int, epoch: int) -> list[int]:
    """A shuffle of 0..num_rows - 1 that depends on nothing but the arguments."""
    order = list(range(num_rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def batch_order(
    num_rows: int, batch_size: int, seed: int, num_epochs: int, shuffle: bool = True
) -> Iterator[list[int]]:
    """Row indices of each optimizer step; an epoch's last batch may be smaller."""
    for epoch in range(num_epochs):
        order = epoch_order(num_rows, seed, epoch) if shuffle else list(range(num_rows))
        for start in range(0, num_rows, batch_size):
            yield order[start : start + batch_size]
