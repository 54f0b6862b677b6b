"""The default size of the KV cache on the CPU, by hand."""

import pytest
from transformers import AutoConfig

from openr1.rollout.kv_cache import bytes_per_token, default_on_cpu
from tests.running import ROOT

GIB = 2**30


@pytest.mark.parametrize(
    ("token_bytes", "max_model_len", "max_num_seqs", "expected"),
    [
        # 224 tokens are two blocks of 128; 257 sequences of 256 tokens.
        (1536, 224, 256, 257 * 256 * 1536),
        (1536, 128, 1, 2 * 128 * 1536),
        (1536, 129, 1, 2 * 256 * 1536),
        # 28 layers, 2 heads of 128: 28 KiB a token, of which a gigabyte holds 37,449.
        (28 * 2**10, 4096, 256, GIB),
    ],
)
def test_default_by_hand(token_bytes: int, max_model_len: int, max_num_seqs: int, expected: int) -> None:
    """Catches a gigabyte for a tiny model, parts of blocks, and a default beyond a gigabyte."""
    assert default_on_cpu(token_bytes, max_model_len, max_num_seqs) == expected


def test_bytes_of_a_token() -> None:
    """Catches query heads for key heads, keys without values, and one layer for all.

    The tiny model: keys and values of 4 layers, 3 heads of 192 / 6 numbers, 2 bytes each.
    """
    config = AutoConfig.from_pretrained(ROOT / "data/models/tiny_base")
    assert bytes_per_token(config, 2) == 2 * 4 * 3 * 32 * 2
