"""Settings of worker processes. Built by the driver, so nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openr1.config.sections import ModelConfig, OptimizerConfig
from openr1.data.template import OWN_TEMPLATE, ChatTemplate


@dataclass(frozen=True)
class WorkerSettings:
    """Rank and resources of a training worker's process; `interface` is for `use_interface`."""

    rank: int
    num_ranks: int
    threads: int
    on_gpu: bool
    interface: str | None
    timeout_seconds: float
    log_path: Path


@dataclass(frozen=True)
class LearnerSettings:
    """What a learner trains and how; the same on every rank. The tokenizer is exported with `template`."""

    model: ModelConfig
    optimizer: OptimizerConfig
    zero_stage: int
    temperature: float
    total_updates: int
    role: Literal["policy", "critic"] = "policy"
    template: ChatTemplate = OWN_TEMPLATE


@dataclass(frozen=True)
class ReferenceSettings:
    """Model and resources of the reference worker."""

    model: ModelConfig
    temperature: float
    micro_batch_tokens: int
    threads: int
    on_gpu: bool
    log_path: Path
