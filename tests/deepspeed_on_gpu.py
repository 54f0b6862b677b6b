"""What DeepSpeed makes of our settings on a GPU, without one. Run as a program, since its accelerator is global.

`python -m tests.deepspeed_on_gpu config` prints DeepSpeed's reading of the settings on its CUDA accelerator. With
`build` it trains one step in every ZeRO stage with compiled extensions forbidden: on a GPU they would need nvcc, which
the wheels of CUDA do not bring. Both need DeepSpeed's variables for one rank.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.op_builder.builder import OpBuilder
from deepspeed.runtime.config import DeepSpeedConfig
from torch import nn

from openr1.config.sections import ModelConfig, OptimizerConfig
from openr1.workers.background import BackgroundWriter
from openr1.workers.deepspeed import backend
from openr1.workers.deepspeed.config import deepspeed_config
from openr1.workers.model import DTYPES
from openr1.workers.settings import LearnerSettings

CPU_COMMUNICATION = "deepspeed_shm_comm_op"
"""Sums over ranks on the CPU; on a GPU that is NCCL's."""
BUILT = ((0, "none"), (1, "none"), (2, "none"), (3, "none"), (2, "cpu"), (3, "cpu"))
"""ZeRO stages, and where the optimizer state is."""


def read_configs() -> dict[str, Any]:
    """DeepSpeed's reading of our settings, by ZeRO stage."""
    found: dict[str, Any] = {"accelerator": get_accelerator().communication_backend_name()}
    for stage in (1, 2, 3):
        read = DeepSpeedConfig(deepspeed_config(stage, "bfloat16", 1.0, "cpu"))
        found[str(stage)] = {
            "stage": int(read.zero_config.stage),
            "bfloat16": read.bfloat16_config.enabled,
            "gradient type": str(read.grad_accum_dtype),
            "exchange type": str(read.communication_data_type),
            "clipping": read.gradient_clipping,
            "offload": str(read.zero_config.offload_optimizer.device),
            "bucket": int(read.zero_config.reduce_bucket_size),
        }
    return found


def build_without_compiling() -> list[str]:
    """Make a step of a small model in each ZeRO stage; returns the stages."""
    load = OpBuilder.load

    def refuse(self: OpBuilder, *arguments: Any, **kwargs: Any) -> Any:
        if self.name == CPU_COMMUNICATION:
            return load(self, *arguments, **kwargs)
        raise AssertionError(f"DeepSpeed wants to compile {self.name}")

    OpBuilder.load = refuse
    made = []
    for stage, offload in BUILT:
        dtype = "bfloat16" if stage > 0 else "float32"
        model = nn.Linear(8, 8).to(DTYPES[dtype])
        settings = ModelConfig(path=Path("none"), dtype=dtype)  # type: ignore[arg-type]
        optimizer = OptimizerConfig(offload=offload)  # type: ignore[arg-type]
        built = backend.build(_Inputs(model), LearnerSettings(settings, optimizer, stage, 1.0, 1), BackgroundWriter())
        rows = torch.ones(2, 8, dtype=next(model.parameters()).dtype)
        built.backward(built(rows, rows, rows).sum())
        built.step()
        made.append(f"{stage} {offload}")
    return made


class _Inputs(nn.Module):
    """A model with the inputs of ours."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, response_mask: torch.Tensor) -> Any:
        return self.layer(input_ids) * attention_mask * response_mask


if __name__ == "__main__":
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    backend.init_process_group("gloo")
    print(json.dumps(read_configs() if sys.argv[1] == "config" else build_without_compiling()))
