"""How much memory an engine's KV cache takes."""

from transformers import PreTrainedConfig

CPU_BLOCK = 128
"""Tokens of a block of vLLM's cache on the CPU: a sequence takes whole blocks."""
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Entries of `layer_types` in a config."""
LARGEST_ON_CPU = 2**30
"""Default size on the CPU where less would do only if no sequence were as long as it may be."""


def bytes_per_token(text: PreTrainedConfig, itemsize: int) -> int:
    """Keys and values of one token in all layers of a language model, at `itemsize` bytes for each number.

    An upper bound for models whose cache is smaller than that: sliding windows, compressed keys and values.
    """
    shape = text.to_dict()
    heads = shape.get("num_key_value_heads") or text.num_attention_heads
    head_size = shape.get("head_dim") or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * head_size * itemsize)


def default_on_cpu(text: PreTrainedConfig, itemsize: int, max_model_len: int, max_num_seqs: int) -> int:
    """Bytes for `max_num_seqs` sequences of `max_model_len` tokens and a spare one, 1 GiB at most.

    1 GiB for models with other layers than attention, whose states do not grow with the tokens.
    """
    if not ATTENTION_LAYERS.issuperset(text.to_dict().get("layer_types") or ()):
        return LARGEST_ON_CPU
    token_bytes = bytes_per_token(text, itemsize)
    blocks = -(-max_model_len // CPU_BLOCK)
    return min(LARGEST_ON_CPU, (max_num_seqs + 1) * blocks * CPU_BLOCK * token_bytes)
