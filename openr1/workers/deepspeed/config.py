"""DeepSpeed's own configuration, from ours."""

from typing import Any


def deepspeed_config(zero_stage: int, dtype: str, max_norm: float) -> dict[str, Any]:
    """Build the configuration of `deepspeed.initialize`.

    Micro-batches vary in size and number and are weighted by the caller, so DeepSpeed must neither count nor
    scale them: `backward` only accumulates and `step` is the boundary.

    Args:
        zero_stage: 0 (none, float32 only) to 3 (optimizer state, gradients and parameters sharded).
        dtype: "bfloat16" (with float32 master weights) or "float32".
        max_norm: Gradient norm above which gradients are scaled down; 0 = no clipping.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # Without ZeRO the learner clips, since DeepSpeed would not tell the norm.
        "gradient_clipping": max_norm if zero_stage > 0 else 0.0,
        "zero_optimization": {"stage": zero_stage, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": dtype == "bfloat16"},
        # Gradients are summed in float32 however many micro-batches there are.
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 10**9,
    }
