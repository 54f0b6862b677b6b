"""Loss aggregation: the weight of each token's loss, from counts over the whole mini-batch.

The weights are computed once for all ranks and micro-batches, and the loss is the sum over tokens of weight x loss, so
the way a mini-batch is cut does not change the gradient. Fully masked responses are excluded from every count.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

AGGREGATIONS = ("token", "sequence", "constant")


def loss_weights(response_mask: Bool[Tensor, "B T"], aggregation: str, generate_max_len: int) -> Float[Tensor, "B T"]:
    """Weight of each token's loss [B, T], equal within a response; 0 outside the mask.

    Args:
        response_mask: [B, T], True on tokens that train.
        aggregation: `token`: the mean over tokens (DAPO, arXiv:2503.14476, section 3.3). `sequence`: the mean over
            responses of the means over their tokens (GRPO, arXiv:2402.03300, equation 3). `constant`: the sum divided
            by responses x `generate_max_len` (Dr. GRPO, arXiv:2503.20783, section 3.2).
        generate_max_len: Maximum response length in tokens; used by `constant` only.

    Returns:
        [B, T] float32. `token` and `sequence` weights sum to 1; all are 0 for an empty mask.
    """
    lengths = response_mask.sum(-1, keepdim=True).double()
    responses = (lengths > 0).sum().clamp(min=1)
    if aggregation == "token":
        weights = torch.ones_like(lengths) / lengths.sum().clamp(min=1)
    elif aggregation == "sequence":
        weights = 1 / (responses * lengths.clamp(min=1))
    elif aggregation == "constant":
        weights = torch.ones_like(lengths) / (responses * generate_max_len)
    else:
        raise ValueError(f"aggregation {aggregation!r} is none of {', '.join(AGGREGATIONS)}")
    return (weights * response_mask).float()
