"""Builds DeepSpeed's configuration from ours."""

from typing import Any


def deepspeed_config(zero_stage: int, dtype: str, max_norm: float) -> dict[str, Any]:
    """Build the configuration of `deepspeed.initialize`.

    Micro-batches vary in size and number and are weighted by the caller, so DeepSpeed must neither count nor scale
    them: `backward` only accumulates gradients, and `step` ends the accumulation.

    Args:
        zero_stage: From 0 (no ZeRO, float32 only) to 3 (optimizer state, gradients and parameters sharded).
        dtype: "bfloat16" (with float32 master weights) or "float32".
        max_norm: Maximum gradient norm, to which larger gradients are scaled down; 0 disables clipping.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # Without ZeRO, `DeepSpeedBackend` clips, since DeepSpeed would not report the norm.
        "gradient_clipping": max_norm if zero_stage > 0 else 0.0,
        "zero_optimization": {"stage": zero_stage, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": dtype == "bfloat16"},
        # bfloat16 accumulation would lose precision as the number of micro-batches grows.
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 10**9,
    }
