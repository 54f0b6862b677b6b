"""What worker processes need to start. Imports nothing heavy: the driver builds these."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openr1.config.sections import ModelConfig, OptimizerConfig


@dataclass(frozen=True)
class WorkerSettings:
    """Which rank of how many a process is, and the resources it may use."""

    rank: int
    num_ranks: int
    threads: int
    on_gpu: bool
    timeout_seconds: float
    log_path: Path


@dataclass(frozen=True)
class LearnerSettings:
    """What a rank trains, and how; the same on every rank."""

    model: ModelConfig
    optimizer: OptimizerConfig
    zero_stage: int
    temperature: float
    total_updates: int
    role: Literal["policy", "critic"] = "policy"


@dataclass(frozen=True)
class ReferenceSettings:
    """What the reference worker holds."""

    model: ModelConfig
    temperature: float
    micro_batch_tokens: int
    threads: int
    on_gpu: bool
    log_path: Path
