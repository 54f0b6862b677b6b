"""Our configuration as DeepSpeed reads it."""

import pytest
import torch
from deepspeed.runtime.config import DeepSpeedConfig

from openr1.workers.deepspeed.config import deepspeed_config


@pytest.mark.parametrize(("dtype", "zero_stage"), [("bfloat16", 1), ("bfloat16", 2), ("bfloat16", 3), ("float32", 0)])
def test_gradients_are_summed_in_float32(dtype: str, zero_stage: int) -> None:
    """Catches a key that DeepSpeed has renamed and ignores: sums over micro-batches or ranks would be in bfloat16."""
    config = DeepSpeedConfig(deepspeed_config(zero_stage, dtype, 1.0))
    assert config.communication_data_type == torch.float32
    assert config.grad_accum_dtype == "fp32"
    assert config.bfloat16_config.enabled == (dtype == "bfloat16")
    assert config.zero_config.stage == zero_stage
