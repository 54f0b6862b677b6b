"""The learner of one rank: forward passes, optimizer steps, checkpoints and full weights. Needs a process group.

`build_learner` returns a `PolicyLearner` for the policy and a `Learner` for the critic.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import Objective, StepStats
from openr1.algorithms.optimizer_step import optimizer_step
from openr1.data.chat import end_token_ids
from openr1.data.model_folder import export_generation_config
from openr1.data.tokenizer import load_tokenizer, save_tokenizer
from openr1.errors import PolicyError
from openr1.runtime.console import say
from openr1.workers.attention_choice import describe_attention
from openr1.workers.backend import Backend
from openr1.workers.background import BackgroundWriter
from openr1.workers.deepspeed import backend as deepspeed_backend
from openr1.workers.lora import KeptUpdate, add_adapters, factors, full_weights
from openr1.workers.model import LogProbModel, ValueModel, load_causal_lm
from openr1.workers.model_cards import adapter_card, merged_card
from openr1.workers.settings import LearnerSettings

Sums = TypeVar("Sums", bound=tuple[float, ...])


class Learner:
    """A model on a training backend. Methods are collectives: call them on all ranks at the same time."""

    def __init__(self, module: nn.Module, settings: LearnerSettings) -> None:
        """Shard `module` over the process group."""
        self.settings = settings
        self.module = module
        self.writer = BackgroundWriter()
        self.backend: Backend = deepspeed_backend.build(module, settings, self.writer)

    @torch.no_grad()
    def predict(self, micro_batches: Sequence[TrainBatch]) -> list[Tensor]:
        """Per-token outputs [B, T] of each micro-batch, on the CPU: log-probs of a policy, values of a critic."""
        batches = (micro.to(self.backend.device) for micro in micro_batches)
        return [self._per_token(self.backend(*batch.inputs)).cpu() for batch in batches]

    def step(
        self, micro_batches: Sequence[TrainBatch], objective: Objective[Any, Sums], apply: bool = True
    ) -> StepStats[Sums]:
        """Run one optimizer step; with `apply=False`, only compute its statistics. See `optimizer_step`.

        Raises:
            PolicyError: The gradient norm is not finite, in which case the step was skipped.
        """
        # Read before the step, which advances the schedule.
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
    """Trains the policy. It also exports the model and yields full weights for the engines."""

    def __init__(self, settings: LearnerSettings) -> None:
        """Load the model, add LoRA adapters if configured, and shard it."""
        self.lm = load_causal_lm(settings.model)
        say(f"attention: {describe_attention(self.lm.config)}")
        self._adapters = None if settings.model.lora is None else add_adapters(self.lm, settings.model.lora)
        super().__init__(LogProbModel(self.lm, settings.temperature), settings)

    def predict_base(self, micro_batches: Sequence[TrainBatch]) -> list[Tensor]:
        """`predict` without the LoRA adapters: log-probs under the weights that the policy started from."""
        assert self._adapters is not None
        with self._adapters.disable_adapter():
            return self.predict(micro_batches)

    def export(self, folder: Path) -> None:
        """Copy the weights to rank 0's host memory; its writer writes model and tokenizer in Hugging Face format.

        LoRA adapters are saved in `folder/adapter` in PEFT format, and merged into the model, which is rounded: a
        README.md in each folder tells how much of the update is left there.
        """
        writes, kept = dist.get_rank() == 0, KeptUpdate()
        state, adapters = copy_to_host(self._merged(kept), writes), copy_to_host(self._adapter_weights(), writes)
        if writes:
            self.writer.submit(folder, lambda: self._write_model(folder, state, adapters, kept.share))

    def _write_model(self, folder: Path, state: dict[str, Tensor], adapters: dict[str, Tensor], share: float) -> None:
        """Write copied weights. Of the model itself, which trains on, only names and configuration are used."""
        model = self.settings.model
        tokenizer = load_tokenizer(model.path, self.settings.template)
        self.lm.generation_config = export_generation_config(model.path, end_token_ids(tokenizer))
        self.lm.save_pretrained(folder, state_dict=state)
        save_tokenizer(tokenizer, folder)
        if self._adapters is not None:
            self._adapters.save_pretrained(folder / "adapter", state_dict=adapters)
            # In place of PEFT's, which is a form to fill in.
            (folder / "adapter/README.md").write_text(adapter_card(model), encoding="utf-8")
            (folder / "README.md").write_text(merged_card(model, share), encoding="utf-8")
            say(f"{folder}: merged and rounded to {model.dtype}, {share:.1%} of the adapters' update is left")

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what engines need, gathered one tensor at a time: full weights, or with LoRA the adapters (`Factor`).

        Names are those of the Hugging Face model. Tied weights are yielded once, under their first name.
        """
        if self._adapters is None:
            yield from self._merged(KeptUpdate())
            return
        for factor in factors(self.lm):
            with self.backend.gathered([factor.parameter]):
                yield factor.name, factor.value()

    def _merged(self, kept: KeptUpdate) -> Iterator[tuple[str, Tensor]]:
        """Yield the full tensors with LoRA adapters merged into them; `kept` counts what rounding leaves of these."""
        for weight in full_weights(self.lm):
            with self.backend.gathered(weight.parameters):
                merged = weight.merged()
                if weight.adapter is not None:
                    kept.add(weight, merged)
                # A gathered parameter is freed when the block ends, so it must be copied; a merged one is a copy.
                copied = self.backend.shards_parameters and weight.adapter is None
                yield weight.name, merged.clone() if copied else merged

    def weight_shapes(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, dtype and full shape of each tensor of `weights`, in the same order, without gathering."""
        if self._adapters is None:
            named = [(weight.name, weight.base) for weight in full_weights(self.lm)]
        else:
            named = [(factor.name, factor.parameter) for factor in factors(self.lm)]
        return [(name, parameter.dtype, self.backend.full_shape(parameter)) for name, parameter in named]

    def _per_token(self, outputs: Any) -> Tensor:
        log_probs: Tensor = outputs.log_probs
        return log_probs

    def _adapter_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the full adapter tensors with their names in PEFT."""
        if self._adapters is not None:
            for name, parameter in self._adapters.named_parameters():
                if parameter.requires_grad:
                    with self.backend.gathered([parameter]):
                        yield name, parameter.data.clone()


def copy_to_host(tensors: Iterator[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
    """Read all tensors, and keep them in host memory only if `keep`; otherwise the result is empty.

    Every rank must read them all, since each is gathered by a collective. If all kept them, the ranks of one machine
    would hold as many copies of the model.
    """
    # Copied on the CPU, too: what is written later must not train on.
    return {name: tensor.to("cpu", copy=True) for name, tensor in tensors if keep}


def build_learner(settings: LearnerSettings) -> Learner:
    """Build the learner for `settings.role`. Every rank calls this at the same time."""
    if settings.role == "policy":
        return PolicyLearner(settings)
    lm = load_causal_lm(settings.model)
    say(f"attention: {describe_attention(lm.config)}")
    if settings.model.lora is not None:
        add_adapters(lm, settings.model.lora)
    return Learner(ValueModel(lm), settings)
