"""One rank's model: forward passes, optimizer steps, checkpoints, full weights. Needs a process group.

`build_learner` makes the policy's (`PolicyLearner`) or the critic's (`Learner`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoTokenizer

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import Objective, StepStats
from openr1.algorithms.optimizer_step import optimizer_step
from openr1.errors import PolicyError
from openr1.workers.backend import Backend
from openr1.workers.deepspeed import engine as deepspeed_backend
from openr1.workers.lora import add_adapters, full_weights
from openr1.workers.model import LogProbModel, ValueModel, load_causal_lm
from openr1.workers.settings import LearnerSettings

Sums = TypeVar("Sums", bound=tuple[float, ...])


class Learner:
    """A model on a training backend. Every rank calls each method at the same time."""

    def __init__(self, module: nn.Module, settings: LearnerSettings) -> None:
        """Shard the model."""
        self.settings = settings
        self.module = module
        self.backend: Backend = deepspeed_backend.build(module, settings)

    @torch.no_grad()
    def predict(self, micro_batches: Sequence[TrainBatch]) -> list[Tensor]:
        """Per-token outputs [B, T] of each micro-batch, on the CPU: log-probs of a policy, values of a critic."""
        batches = (micro.to(self.backend.device) for micro in micro_batches)
        return [self._per_token(self.backend(*batch.inputs)).cpu() for batch in batches]

    def step(
        self, micro_batches: Sequence[TrainBatch], objective: Objective[Any, Sums], apply: bool = True
    ) -> StepStats[Sums]:
        """One optimizer step, or with `apply=False` its statistics only; see `optimizer_step`.

        Raises:
            PolicyError: The gradient norm is not finite. The step was then not applied.
        """
        learning_rate = self.backend.learning_rate
        batches = (micro.to(self.backend.device) for micro in micro_batches)
        stats = optimizer_step(self.backend, batches, objective, dist.get_world_size(), apply)
        if not apply:
            return stats
        return StepStats(stats.loss, stats.sums, self._checked_grad_norm(), learning_rate, applied=True)

    def _per_token(self, outputs: Any) -> Tensor:
        values: Tensor = outputs
        return values

    def _checked_grad_norm(self) -> float:
        norm, role = self.backend.grad_norm, self.settings.role
        if not norm < float("inf"):
            section = "critic" if role == "critic" else "optimizer"
            raise PolicyError(
                f"the {role}'s gradient norm is {norm}; lower {section}.learning_rate, or resume from a checkpoint"
            )
        return norm


class PolicyLearner(Learner):
    """The policy: also exports its model and yields full weights for the engines."""

    def __init__(self, settings: LearnerSettings) -> None:
        """Load the model, add adapters if configured, shard it."""
        self.lm = load_causal_lm(settings.model)
        self._adapters = None if settings.model.lora is None else add_adapters(self.lm, settings.model.lora)
        super().__init__(LogProbModel(self.lm, settings.temperature, settings.model.packing), settings)

    def export(self, folder: Path) -> None:
        """Write model and tokenizer in Hugging Face format; rank 0 writes.

        Adapters are merged into the model, and also saved separately in `folder/adapter`, in PEFT's format.
        """
        state = {name: tensor.cpu() for name, tensor in self.weights()}
        adapters = {name: tensor.cpu() for name, tensor in self._adapter_weights()}
        if dist.get_rank() == 0:
            self.lm.save_pretrained(folder, state_dict=state)
            AutoTokenizer.from_pretrained(self.settings.model.path).save_pretrained(folder)
            if self._adapters is not None:
                self._adapters.save_pretrained(folder / "adapter", state_dict=adapters)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Full tensors by their names in the Hugging Face model, gathered one at a time.

        Tied weights come once, under their first name; adapters are merged.
        """
        for weight in full_weights(self.lm):
            with self.backend.gathered(weight.parameters):
                merged = weight.merged()
                # A gathered parameter is freed after the block; a merged one is a tensor of its own already.
                copied = self.backend.shards_parameters and weight.adapter is None
                yield weight.name, merged.clone() if copied else merged

    def weight_shapes(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, type and full shape of what `weights` yields, in the same order, without gathering."""
        return [
            (weight.name, weight.base.dtype, self.backend.full_shape(weight.base)) for weight in full_weights(self.lm)
        ]

    def _per_token(self, outputs: Any) -> Tensor:
        log_probs: Tensor = outputs.log_probs
        return log_probs

    def _adapter_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Adapter tensors by PEFT's names."""
        if self._adapters is not None:
            for name, parameter in self._adapters.named_parameters():
                if parameter.requires_grad:
                    with self.backend.gathered([parameter]):
                        yield name, parameter.data.clone()


def build_learner(settings: LearnerSettings) -> Learner:
    """The learner of the role in `settings`; every rank calls this at the same time."""
    if settings.role == "policy":
        return PolicyLearner(settings)
    lm = load_causal_lm(settings.model)
    if settings.model.lora is not None:
        add_adapters(lm, settings.model.lora)
    return Learner(ValueModel(lm, settings.model.packing), settings)
