"""The DeepSpeed backend: ZeRO stages 0 to 3, and checkpoints that any number of ranks can load."""

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum
from torch import Tensor, nn
from transformers import get_scheduler

from openr1.config.sections import OptimizerConfig
from openr1.errors import PolicyError
from openr1.runtime.faults import FAULTS
from openr1.workers.background import BackgroundWriter
from openr1.workers.deepspeed.checkpoint_engine import BackgroundCheckpointEngine, refusing_code
from openr1.workers.deepspeed.config import deepspeed_config
from openr1.workers.deepspeed.received import ReceivedGradients
from openr1.workers.deepspeed.universal import count_saved_ranks, write_universal
from openr1.workers.settings import LearnerSettings

MOVED_STATES = (OffloadStateTypeEnum.optim_states, OffloadStateTypeEnum.hp_params, OffloadStateTypeEnum.lp_grads)
"""What `offload` moves: all but the weights that forward passes and pushes read."""


def init_process_group(backend: str) -> None:
    """Make DeepSpeed use the existing process group of `torch.distributed` instead of creating one."""
    deepspeed.init_distributed(dist_backend=backend)


def build(module: nn.Module, settings: LearnerSettings, writer: BackgroundWriter) -> "DeepSpeedBackend":
    """Shard a model over the process group. Every rank calls this at the same time."""
    return DeepSpeedBackend(module, settings, writer)


class DeepSpeedBackend:
    """See `workers.backend.Backend`."""

    def __init__(self, module: nn.Module, settings: LearnerSettings, writer: BackgroundWriter) -> None:
        """Shard `module`. Frozen parameters get no optimizer state. `writer` gets the files of `save`."""
        self._settings = settings
        optimizer = settings.optimizer
        adamw = torch.optim.AdamW(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=optimizer.learning_rate,
            betas=optimizer.adam_betas,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self._received = ReceivedGradients(module) if settings.zero_stage == 3 else None
        self._unsharded_norm = float("nan")
        if settings.zero_stage == 0:
            # Without ZeRO, DeepSpeed clips but does not report the gradient norm, so clipping is done here.
            adamw.register_step_pre_hook(lambda *_: self._clip_unsharded(module))
        self._engine, _, _, _ = deepspeed.initialize(
            model=module,
            optimizer=adamw,
            lr_scheduler=lambda opt: build_scheduler(opt, optimizer, settings.total_updates),
            config=deepspeed_config(settings.zero_stage, settings.model.dtype, optimizer.max_norm, optimizer.offload),
        )
        self._engine.checkpoint_engine = BackgroundCheckpointEngine(self._engine._config, writer)
        self._engine.train()
        self.device: torch.device = self._engine.device

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, **kwargs: Any) -> Any:
        """Forward pass."""
        FAULTS.at("forward")
        return self._engine(input_ids, attention_mask, response_mask, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of `loss`."""
        FAULTS.at("backward")
        self._engine.backward(loss)

    def step(self) -> None:
        """Clip, update, advance the schedule and clear the gradient."""
        FAULTS.at("optimizer")
        if self._received is not None:
            self._received.check()
        self._engine.step()

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return float(self._engine.get_lr()[0])

    @property
    def grad_norm(self) -> float:
        """Gradient norm of the most recent step. DeepSpeed skips a step whose norm is not finite."""
        return self._unsharded_norm if self._settings.zero_stage == 0 else float(self._engine.get_global_grad_norm())

    def save(self, folder: Path) -> None:
        """Copy weights, optimizer state and schedule to host memory; the writer writes them."""
        self._engine.save_checkpoint(str(folder), tag=self._settings.role, save_latest=False)

    def load(self, folder: Path) -> int | None:
        """Load what `save` wrote at the same ZeRO stage, converting it first if the number of ranks has changed."""
        role = self._settings.role
        saved = count_saved_ranks(folder / role)
        if saved in (0, dist.get_world_size()):
            self._load(folder)
            return None
        # In the checkpoints folder, where the next save removes any tmp_* that a killed process left behind.
        universal = folder.parent.with_name(f"tmp_universal_{role}")
        if dist.get_rank() == 0:
            shutil.rmtree(universal, ignore_errors=True)
            with refusing_code(folder):
                write_universal(folder / role, universal / role)
        # The other ranks must not look for the converted files before rank 0 has written them.
        dist.barrier()
        # `load_checkpoint` has no argument for this; it reads the setting from the config at every load.
        self._engine._config.load_universal_checkpoint = True
        self._load(universal)
        self._engine._config.load_universal_checkpoint = False
        # Rank 0 must not remove the files while other ranks still read them.
        dist.barrier()
        if dist.get_rank() == 0:
            shutil.rmtree(universal)
        return saved

    def offload(self) -> None:
        """Move optimizer state, master weights and gradients to host memory; see `Backend.offload`.

        Requires ZeRO 2 (`config.checks`), unless `optimizer.offload` keeps all of it in host memory anyway.
        """
        if self._settings.optimizer.offload == "none":
            self._engine.offload_states(include=MOVED_STATES)
        if self.device.type == "cuda":
            # What activations had is cached by this process, and lost to others.
            torch.cuda.empty_cache()

    def reload(self) -> None:
        """Take back what `offload` moved."""
        if self._settings.optimizer.offload == "none":
            self._engine.reload_states()

    def gathered(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        """Inside the block, the full parameters are available on every rank."""
        return deepspeed.zero.GatheredParameters(list(parameters)) if self.shards_parameters else nullcontext()

    def full_shape(self, parameter: nn.Parameter) -> tuple[int, ...]:
        """Shape of the full parameter. Under ZeRO 3 the parameter is empty outside `gathered`, hence `ds_shape`."""
        whole: Any = parameter
        return tuple(whole.ds_shape if self.shards_parameters else whole.shape)

    @property
    def shards_parameters(self) -> bool:
        """True for ZeRO 3 only."""
        return self._settings.zero_stage == 3

    def _load(self, folder: Path) -> None:
        with refusing_code(folder):
            path, _ = self._engine.load_checkpoint(str(folder), tag=self._settings.role)
        if path is None:
            raise PolicyError(f"{folder}: DeepSpeed found no training state; resume from another checkpoint")
        apply_schedule(self._engine.lr_scheduler)

    def _clip_unsharded(self, module: nn.Module) -> None:
        max_norm = self._settings.optimizer.max_norm or float("inf")
        self._unsharded_norm = float(nn.utils.clip_grad_norm_(module.parameters(), max_norm))


def build_scheduler(optimizer: Any, settings: OptimizerConfig, total_updates: int) -> Any:
    """Build the configured Hugging Face learning-rate schedule over `total_updates` optimizer steps."""
    specific = {"min_lr_rate": settings.min_lr_ratio} if settings.lr_scheduler == "cosine_with_min_lr" else None
    name = "constant_with_warmup" if settings.lr_scheduler == "constant" else settings.lr_scheduler
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=total_updates,
        scheduler_specific_kwargs=specific,
    )


def apply_schedule(scheduler: Any) -> None:
    """Set the optimizer's learning rates to those of the schedule at its current step.

    A checkpoint restores the saved rates, which the next update would use. They are wrong if the total number of
    updates, and with it the schedule, has changed since.
    """
    groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, base, share in groups:
        group["lr"] = base * share(scheduler.last_epoch)
