"""The default size of the KV cache on the CPU, by hand."""

import pytest
from transformers import AutoConfig

from openr1.rollout.kv_cache import bytes_per_token, default_on_cpu
from tests.running import ROOT

GIB = 2**30
TINY = ROOT / "data/models/tiny_base"


@pytest.mark.parametrize(
    ("max_model_len", "max_num_seqs", "expected"),
    [
        # 1,536 bytes a token; 224 tokens are two blocks of 128; 257 sequences of 256 tokens.
        (224, 256, 257 * 256 * 1536),
        (128, 1, 2 * 128 * 1536),
        (129, 1, 2 * 256 * 1536),
        # A gigabyte holds 699,050 tokens.
        (4096, 256, GIB),
    ],
)
def test_default_by_hand(max_model_len: int, max_num_seqs: int, expected: int) -> None:
    """Catches a gigabyte for a tiny model, parts of blocks, and a default beyond a gigabyte."""
    assert default_on_cpu(AutoConfig.from_pretrained(TINY), 2, max_model_len, max_num_seqs) == expected


def test_states_that_do_not_grow() -> None:
    """Catches a cache that has no room for the states of other layers than attention."""
    config = AutoConfig.from_pretrained(TINY)
    config.layer_types = ["linear_attention", "full_attention"] * 2
    assert default_on_cpu(config, 2, 224, 1) == GIB
    config.layer_types = ["sliding_attention", "full_attention"] * 2
    assert default_on_cpu(config, 2, 224, 1) == 2 * 256 * 1536


def test_bytes_of_a_token() -> None:
    """Catches query heads for key heads, keys without values, and one layer for all.

    The tiny model: keys and values of 4 layers, 3 heads of 192 / 6 numbers, 2 bytes each.
    """
    config = AutoConfig.from_pretrained(TINY)
    assert bytes_per_token(config, 2) == 2 * 4 * 3 * 32 * 2
