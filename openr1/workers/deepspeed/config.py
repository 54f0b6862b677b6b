"""Builds DeepSpeed's configuration from ours."""

from typing import Any, Literal

REDUCE_BUCKET_ELEMENTS = 10**8
"""Gradients that are reduced over ranks at one time. DeepSpeed's default, 5e8, takes 2 GB of every GPU in float32."""


def deepspeed_config(
    zero_stage: int, dtype: str, max_norm: float, offload: Literal["none", "cpu"] = "none"
) -> dict[str, Any]:
    """Build the configuration of `deepspeed.initialize`.

    Micro-batches vary in size and number and are weighted by the caller, so DeepSpeed must neither count nor scale
    them: `backward` only accumulates gradients, and `step` ends the accumulation.

    Args:
        zero_stage: From 0 (no ZeRO, float32 only) to 3 (optimizer state, gradients and parameters sharded).
        dtype: "bfloat16" (with float32 master weights) or "float32".
        max_norm: Maximum gradient norm, to which larger gradients are scaled down; 0 disables clipping.
        offload: "cpu" keeps master weights and optimizer state in host memory (stages 1 to 3).
    """
    # Pinned memory is copied faster; without a GPU DeepSpeed ignores the setting.
    offloaded = {"offload_optimizer": {"device": "cpu", "pin_memory": True}} if offload == "cpu" else {}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # Without ZeRO, `DeepSpeedBackend` clips, since DeepSpeed would not report the norm.
        "gradient_clipping": max_norm if zero_stage > 0 else 0.0,
        "zero_optimization": {
            "stage": zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": REDUCE_BUCKET_ELEMENTS,
            **offloaded,
        },
        "zero_allow_untested_optimizer": True,
        # With offload it insists on its own Adam otherwise, which each machine must compile; PyTorch's is fused, too.
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == "bfloat16"},
        # bfloat16 accumulation would lose precision as the number of micro-batches grows.
        "data_types": {"grad_accum_dtype": "fp32"},
        # So would bfloat16 sums over ranks, DeepSpeed's default for a bfloat16 model.
        "communication_data_type": "fp32",
        "steps_per_print": 10**9,
    }
