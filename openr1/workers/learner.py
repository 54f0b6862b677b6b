"""Weights, optimizer and schedule of policy or critic under DeepSpeed: one learner on every rank.

Called directly: no strategy layer lies between a method here and `deepspeed`. Needs an initialised process group.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoTokenizer, get_scheduler

from openr1.algorithms.batch import PairBatch, TrainBatch
from openr1.algorithms.losses import preference_loss
from openr1.algorithms.token_ops import TokenOutputs, masked_sum
from openr1.config.train import OptimizerConfig
from openr1.errors import PolicyError
from openr1.workers.deepspeed.config import deepspeed_config
from openr1.workers.deepspeed.universal import saved_ranks, write_universal
from openr1.workers.lora import add_adapters, full_weights
from openr1.workers.model import TokenModel, ValueModel, load_causal_lm
from openr1.workers.settings import LearnerSettings
from openr1.workers.update import LossSettings, policy_update, value_update


class Learner:
    """A DeepSpeed engine around a model, and what policy and critic do alike with it."""

    def __init__(self, module: nn.Module, settings: LearnerSettings) -> None:
        """Shard the model; every rank calls this at the same time."""
        self._settings = settings
        optimizer = settings.optimizer
        adamw = torch.optim.AdamW(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=optimizer.learning_rate,
            betas=optimizer.adam_betas,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self._unsharded_norm = float("nan")
        if settings.zero_stage == 0:
            # Without ZeRO, DeepSpeed would clip but not tell the norm.
            adamw.register_step_pre_hook(lambda *_: self._clip_unsharded(module))
        self._engine, _, _, _ = deepspeed.initialize(
            model=module,
            optimizer=adamw,
            lr_scheduler=lambda opt: build_scheduler(opt, optimizer, settings.total_updates),
            config=deepspeed_config(settings.zero_stage, settings.model.dtype, optimizer.max_norm),
        )
        self._engine.train()

    def save(self, folder: Path) -> None:
        """Write optimizer, schedule and weights for resuming; every rank calls this."""
        self._engine.save_checkpoint(str(folder), tag=self._settings.role, save_latest=False)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, by any number of ranks but at the same ZeRO stage; every rank calls this."""
        role = self._settings.role
        if saved_ranks(folder / role) in (0, dist.get_world_size()):
            self._load(folder)
            return
        # Where the next checkpoint removes what a killed process left.
        universal = folder.parent.with_name(f"tmp_universal_{role}")
        if dist.get_rank() == 0:
            shutil.rmtree(universal, ignore_errors=True)
            write_universal(folder / role, universal / role)
        dist.barrier()
        # DeepSpeed has no argument for it, and reads this again at every load.
        self._engine._config.load_universal_checkpoint = True
        self._load(universal)
        self._engine._config.load_universal_checkpoint = False
        dist.barrier()
        if dist.get_rank() == 0:
            shutil.rmtree(universal)

    def _load(self, folder: Path) -> None:
        path, _ = self._engine.load_checkpoint(str(folder), tag=self._settings.role)
        if path is None:
            raise PolicyError(f"{folder}: DeepSpeed found no training state to load")
        follow_schedule(self._engine.lr_scheduler)

    def _to_device(self, batch: TrainBatch) -> TrainBatch:
        tensors = {name: value.to(self._engine.device) for name, value in vars(batch).items() if value is not None}
        return replace(batch, **tensors)

    def _clip_unsharded(self, module: nn.Module) -> None:
        max_norm = self._settings.optimizer.max_norm or float("inf")
        self._unsharded_norm = float(nn.utils.clip_grad_norm_(module.parameters(), max_norm))

    def _checked_grad_norm(self) -> float:
        norm = self._unsharded_norm if self._settings.zero_stage == 0 else float(self._engine.get_global_grad_norm())
        if not norm < float("inf"):
            section = "critic" if self._settings.role == "critic" else "optimizer"
            raise PolicyError(
                f"the {self._settings.role}'s gradient norm is {norm}; lower {section}.learning_rate, or resume from a "
                "checkpoint"
            )
        return norm


class CriticLearner(Learner):
    """A learner of values."""

    def __init__(self, settings: LearnerSettings) -> None:
        """Load the model and shard it; every rank calls this at the same time."""
        lm = load_causal_lm(settings.model)
        if settings.model.lora is not None:
            add_adapters(lm, settings.model.lora)
        super().__init__(ValueModel(lm, settings.model.packing), settings)

    @torch.no_grad()
    def values(self, micro_batches: Sequence[TrainBatch]) -> list[Tensor]:
        """Values [B, T] of each micro-batch under the current weights; see `ValueModel`."""
        batches = [self._to_device(micro) for micro in micro_batches]
        return [self._engine(*batch.inputs).cpu() for batch in batches]

    def update(self, micro_batches: Sequence[TrainBatch], clip: float | None) -> dict[str, float]:
        """One optimizer step of the value loss; returns as `PolicyLearner.update` does, with `loss` alone as a sum."""
        learning_rate = float(self._engine.get_lr()[0])
        batches = [self._to_device(micro) for micro in micro_batches]
        loss = value_update(self._engine, batches, clip, dist.get_world_size())
        return {"loss": loss, "grad_norm": self._checked_grad_norm(), "learning_rate": learning_rate}


class PolicyLearner(Learner):
    """A learner of what to write."""

    def __init__(self, settings: LearnerSettings) -> None:
        """Load the model and shard it; every rank calls this at the same time."""
        self._lm = load_causal_lm(settings.model)
        self._adapters = None if settings.model.lora is None else add_adapters(self._lm, settings.model.lora)
        module = TokenModel(self._lm, settings.temperature, settings.model.packing, settings.entropy_gradient)
        super().__init__(module, settings)

    @torch.no_grad()
    def log_probs(self, micro_batches: Sequence[TrainBatch]) -> list[Tensor]:
        """Log-probs [B, T] of each micro-batch under the current weights."""
        batches = [self._to_device(micro) for micro in micro_batches]
        return [self._without_entropy(batch).log_probs.cpu() for batch in batches]

    def update(self, micro_batches: Sequence[TrainBatch], loss: LossSettings) -> dict[str, float]:
        """One optimizer step of the policy loss; see `policy_update` for arguments and sums.

        Returns:
            This rank's sums, and `grad_norm` (before clipping) and `learning_rate`, the same on every rank.

        Raises:
            PolicyError: The gradient norm is not finite. DeepSpeed has then not applied the step.
        """
        learning_rate = float(self._engine.get_lr()[0])
        batches = [self._to_device(micro) for micro in micro_batches]
        sums = policy_update(self._engine, batches, loss, dist.get_world_size())
        return sums | {"grad_norm": self._checked_grad_norm(), "learning_rate": learning_rate}

    @torch.no_grad()
    def measure(self, micro_batches: Sequence[TrainBatch], loss: LossSettings) -> dict[str, float]:
        """The sums of `update`, without one: nothing is learned; gradient norm and learning rate are 0."""
        batches = [self._to_device(micro) for micro in micro_batches]
        sums = policy_update(self._engine, batches, loss, dist.get_world_size(), learn=False)
        return sums | {"grad_norm": 0.0, "learning_rate": 0.0}

    def supervised_update(
        self, micro_batches: Sequence[TrainBatch], z_loss_coef: float, num_tokens: int
    ) -> dict[str, float]:
        """One optimizer step of the mean negative log-likelihood of response tokens; returns as `update` does.

        `z_loss_coef` weighs the square of the softmax's log-normalizer (Chowdhery et al., PaLM, arXiv:2204.02311,
        section 5); `loss` in the answer is without it.
        """
        learning_rate = float(self._engine.get_lr()[0])
        total = 0.0
        for micro in micro_batches:
            batch = self._to_device(micro)
            outputs = self._without_entropy(batch)
            likelihood = -masked_sum(outputs.log_probs, batch.response_mask)
            loss = likelihood + z_loss_coef * masked_sum(outputs.logsumexp.square(), batch.response_mask)
            self._engine.backward(loss * (dist.get_world_size() / num_tokens))
            total += float(likelihood.detach())
        self._engine.step()
        return {"loss": total, "grad_norm": self._checked_grad_norm(), "learning_rate": learning_rate}

    def preference_update(self, micro_batches: Sequence[PairBatch], beta: float, num_pairs: int) -> dict[str, float]:
        """One optimizer step of the mean `preference_loss`; returns as `update` does, with sums over pairs."""
        learning_rate = float(self._engine.get_lr()[0])
        sums: Counter[str] = Counter()
        for micro in micro_batches:
            rows = self._to_device(micro.rows)
            log_probs = self._without_entropy(rows).log_probs
            gained = (log_probs * rows.response_mask).sum(-1) - micro.reference.to(log_probs)
            chosen, rejected = gained[::2], gained[1::2]
            loss, margin = preference_loss(chosen, rejected, beta)
            self._engine.backward(micro.weight * loss.sum() * (dist.get_world_size() / num_pairs))
            values = {
                "loss": loss,
                "accurate": (margin > 0).float(),
                "margin": margin,
                "chosen": beta * chosen,
                "rejected": beta * rejected,
            }
            sums.update({name: micro.weight * float(value.detach().sum()) for name, value in values.items()})
        self._engine.step()
        return {**sums, "grad_norm": self._checked_grad_norm(), "learning_rate": learning_rate}

    def _without_entropy(self, batch: TrainBatch) -> TokenOutputs:
        outputs: TokenOutputs = self._engine(*batch.inputs, with_entropy=False)
        return outputs

    def export(self, folder: Path) -> None:
        """Write model and tokenizer in Hugging Face format; every rank calls this, rank 0 writes.

        Adapters are merged into the model, and stand by themselves in `folder/adapter`, in PEFT's format.
        """
        state = {name: tensor.cpu() for name, tensor in self.weights()}
        adapters = {name: tensor.cpu() for name, tensor in self._adapter_weights()}
        if dist.get_rank() == 0:
            self._lm.save_pretrained(folder, state_dict=state)
            AutoTokenizer.from_pretrained(self._settings.model.path).save_pretrained(folder)
            if self._adapters is not None:
                self._adapters.save_pretrained(folder / "adapter", state_dict=adapters)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Full tensors by their names in the Hugging Face model, gathered one at a time; a collective under ZeRO 3.

        Tied weights come once, under their first name; adapters are merged.
        """
        for weight in full_weights(self._lm):
            with self._gathered(weight.parameters):
                # A merged weight is a tensor of its own; a gathered one is gone after the block.
                merged = weight.merged()
                yield weight.name, merged.clone() if self._sharded and weight.adapter is None else merged

    def weight_shapes(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, type and full shape of what `weights` yields, in the same order, without gathering."""
        return [
            (weight.name, weight.base.dtype, tuple(weight.base.ds_shape if self._sharded else weight.base.shape))
            for weight in full_weights(self._lm)
        ]

    def _adapter_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The adapters alone, by PEFT's names."""
        if self._adapters is not None:
            for name, parameter in self._adapters.named_parameters():
                if parameter.requires_grad:
                    with self._gathered([parameter]):
                        yield name, parameter.data.clone()

    @property
    def _sharded(self) -> bool:
        return self._settings.zero_stage == 3

    def _gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager[object]:
        """For the block, parameters that are whole on every rank."""
        return deepspeed.zero.GatheredParameters(parameters) if self._sharded else nullcontext()


def build_scheduler(optimizer: Any, settings: OptimizerConfig, total_updates: int) -> Any:
    """The learning-rate schedule of Hugging Face's name, over `total_updates` optimizer steps."""
    specific = {"min_lr_rate": settings.min_lr_ratio} if settings.lr_scheduler == "cosine_with_min_lr" else None
    name = "constant_with_warmup" if settings.lr_scheduler == "constant" else settings.lr_scheduler
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=total_updates,
        scheduler_specific_kwargs=specific,
    )


def follow_schedule(scheduler: Any) -> None:
    """Set the optimizer's learning rates to those of the scheduler's place.

    A checkpoint brings the rates of the schedule that it was saved under, and the next update would still use them:
    another one where the number of updates has changed since.
    """
    groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, base, share in groups:
        group["lr"] = base * share(scheduler.last_epoch)
