"""TRL's GRPOTrainer as a Ray actor that performs a few steps at a time with timed phases and fixed response lengths."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, TrainerCallback

from benchmarks.machine import ROOT

METHODS = ("generate", "continuous")
"""Generation methods of TRL: transformers' `generate` on all responses at once, or its continuous batching."""


@dataclass(frozen=True)
class TrlSettings:
    """Settings shared with openr1, and the length of each response by position in the batch."""

    model: Path
    dtype: str
    group: int
    lengths: list[int]
    temperature: float
    beta: float
    learning_rate: float
    threads: int
    folder: Path


class FixedLengths(LogitsProcessor):  # type: ignore[misc]
    """Forces row i to end at token number `lengths[i]`, and not before."""

    def __init__(self, lengths: list[int], end: int) -> None:
        self._lengths, self._end, self._tokens = torch.tensor(lengths), end, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._tokens += 1
        ending = self._lengths == self._tokens
        scores[:, self._end] = float("-inf")
        scores[ending] = float("-inf")
        scores[ending, self._end] = 0.0
        return scores


class StepTimes(TrainerCallback):  # type: ignore[misc]
    """Records the seconds of each step and of its phases."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._phases: defaultdict[str, float] = defaultdict(float)
        self._start = 0.0

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its wall time is added to the phase."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                self._phases[phase] += time.monotonic() - start

        return call

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock before the first micro-batch; the rows of the step have been read."""
        self._phases.clear()
        self._start = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock after the optimizer step."""
        step = time.monotonic() - self._start
        inputs = self._phases.pop("inputs")
        self.steps.append({**self._phases, "update": step - inputs, "step": step})


class TrlActor:
    """One trainer per generation method and micro-batch size, created on first use."""

    def __init__(self, settings: TrlSettings) -> None:
        torch.set_num_threads(settings.threads)
        self._settings = settings
        self._trainers: dict[tuple[str, int], tuple[Any, StepTimes]] = {}

    def steps(self, method: str, rows: int, batches: list[list[dict[str, str]]]) -> list[dict[str, float]]:
        """Perform one step per batch of prompts; returns the seconds of generate, reward, reference and update.

        `update` is the rest of the step, of which forward and backward are parts.
        """
        from datasets import Dataset  # type: ignore[import-untyped]

        if (method, rows) not in self._trainers:
            self._trainers[method, rows] = self._make(method, rows)
        trainer, times = self._trainers[method, rows]
        trainer.train_dataset = Dataset.from_list([row for batch in batches for row in batch])
        trainer.args.max_steps = len(batches)
        times.steps.clear()
        trainer.train()
        return list(times.steps)

    def _make(self, method: str, rows: int) -> tuple[Any, StepTimes]:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        from reward_server.compat.adapters import trl_reward

        settings = self._settings
        arguments = GRPOConfig(
            output_dir=str(settings.folder),
            use_cpu=True,
            # The model computes in the type in which it is loaded; autocast would only add conversions.
            bf16=False,
            model_init_kwargs={"dtype": settings.dtype},
            gradient_checkpointing=False,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=len(settings.lengths) // rows,
            num_generations=settings.group,
            max_completion_length=max(settings.lengths),
            temperature=settings.temperature,
            beta=settings.beta,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant",
            shuffle_dataset=False,
            use_transformers_continuous_batching=method == "continuous",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            max_steps=1,
        )
        times = StepTimes()
        trainer = GRPOTrainer(
            model=str(settings.model),
            args=arguments,
            reward_funcs=trl_reward("countdown"),
            train_dataset=Dataset.from_list([{"prompt": "", "label": ""}]),
            callbacks=[times],
        )
        self._time_phases(trainer, times)
        if method == "continuous":
            self._fix_lengths_of_requests()
        else:
            self._fix_lengths_of_rows(trainer)
        return trainer, times

    @staticmethod
    def _time_phases(trainer: Any, times: StepTimes) -> None:
        trainer._prepare_inputs = times.timed("inputs", trainer._prepare_inputs)
        trainer._generate_single_turn = times.timed("generate", trainer._generate_single_turn)
        trainer._calculate_rewards = times.timed("reward", trainer._calculate_rewards)
        trainer.compute_loss = times.timed("forward", trainer.compute_loss)
        trainer.accelerator.backward = times.timed("backward", trainer.accelerator.backward)
        log_probs = trainer._get_per_token_logps_and_entropies
        reference = times.timed("reference", log_probs)
        # Log-probs of the policy itself are part of the forward pass.
        trainer._get_per_token_logps_and_entropies = lambda model, *args, **kwargs: (
            reference if model is trainer.ref_model else log_probs
        )(model, *args, **kwargs)

    def _fix_lengths_of_rows(self, trainer: Any) -> None:
        generate, end = trainer.model.generate, trainer.processing_class.eos_token_id
        trainer.model.generate = lambda **kwargs: generate(
            logits_processor=LogitsProcessorList([FixedLengths(self._settings.lengths, end)]), **kwargs
        )

    def _fix_lengths_of_requests(self) -> None:
        from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

        add, lengths = ContinuousBatchingManager.add_request, self._settings.lengths

        def add_request(manager: Any, **request: Any) -> Any:
            index = int(request["request_id"].removeprefix("req_"))
            return add(manager, **request | {"max_new_tokens": lengths[index], "eos_token_id": -1})

        ContinuousBatchingManager.add_request = add_request


ENVIRONMENT = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
