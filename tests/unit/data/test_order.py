"""The order in which epochs visit a dataset."""

import os
import random
import subprocess
import sys
from itertools import chain

import pytest

from openr1.data.order import batch_order, epoch_order
from tests.running import ROOT


def test_order_of_the_file() -> None:
    """Catches a curriculum that is shuffled, an incomplete batch that is dropped, or an epoch that is missing."""
    assert list(batch_order(5, 2, seed=0, num_epochs=2, shuffle=False)) == [[0, 1], [2, 3], [4]] * 2
    assert list(batch_order(4, 4, seed=0, num_epochs=1, shuffle=False)) == [[0, 1, 2, 3]]
    assert list(batch_order(1, 8, seed=0, num_epochs=2, shuffle=False)) == [[0], [0]]


@pytest.mark.parametrize(("num_rows", "batch_size"), [(7, 3), (12, 4), (20, 20)])
def test_every_shuffled_epoch_is_a_permutation(num_rows: int, batch_size: int) -> None:
    """Catches rows drawn with repetition or lost at an epoch's end, and epochs that all have the same order."""
    batches = list(batch_order(num_rows, batch_size, seed=3, num_epochs=3))
    sizes = [batch_size] * (num_rows // batch_size) + ([num_rows % batch_size] if num_rows % batch_size else [])
    assert [len(batch) for batch in batches] == sizes * 3
    rows = list(chain.from_iterable(batches))
    epochs = [rows[start : start + num_rows] for start in range(0, len(rows), num_rows)]
    assert all(sorted(epoch) == list(range(num_rows)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs == [epoch_order(num_rows, 3, epoch) for epoch in range(3)]


def test_seed_and_epoch_decide_the_order() -> None:
    """Catches an order that the seed does not decide, and seed + epoch, by which one run repeats another's epochs."""
    orders = {(seed, epoch): tuple(epoch_order(30, seed, epoch)) for seed in range(12) for epoch in range(12)}
    assert len(set(orders.values())) == len(orders)


def test_nothing_else_decides_the_order() -> None:
    """Catches a shuffle by the global generator or by `hash`: a resumed run would see rows again and miss others."""
    expected = epoch_order(30, 5, 2)
    random.seed(1)
    state = random.getstate()
    assert epoch_order(30, 5, 2) == expected
    assert random.getstate() == state
    code = "from openr1.data.order import epoch_order; print(epoch_order(30, 5, 2))"
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == str(expected)
