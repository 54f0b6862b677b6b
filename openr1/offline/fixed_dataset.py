"""What SFT and DPO have in common: optimizer steps over a fixed dataset, as `run.Run` drives them."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from threading import Event

from openr1.actors.workers import learner_settings, start_policy
from openr1.config.dpo import DpoConfig
from openr1.config.sft import SftConfig
from openr1.data.template import run_template
from openr1.interfaces import Policy
from openr1.placement.layouts import Demand
from openr1.plan.disk import check_room
from openr1.runtime.console import say
from openr1.runtime.interrupts import INTERRUPTS, Interrupts
from openr1.tracking.checkpoint import Checkpoints, remove_folder, wait_until_written
from openr1.training.run import Run, StepOutput, run_services
from openr1.types import TrainerState

Metrics = dict[str, float]


class FixedDatasetJob:
    """See `run.Job`. The position in the data follows from the step and the config."""

    extend_hint = "--max_epochs or --max_steps"

    def __init__(
        self,
        config: SftConfig | DpoConfig,
        num_steps: int,
        order: Iterator[list[int]],
        policy: Policy,
        train: Callable[[list[int]], Metrics],
        held_out_loss: Callable[[], float] | None = None,
        eval_steps: int = 0,
        interrupts: Interrupts = INTERRUPTS,
    ) -> None:
        """Take the parts.

        Args:
            config: Of the run.
            num_steps: Optimizer steps of the whole run.
            order: Rows of each optimizer step, from the first.
            policy: The model.
            train: Makes an optimizer step on rows; returns its metrics.
            held_out_loss: Loss on held-out data, before the first step and after the last, too; None without any.
            eval_steps: Interval of evaluations, in steps; 0: none in between.
            interrupts: Of this process.
        """
        self.num_steps = num_steps
        self._folder = config.run.folder
        self._order = order
        self._policy = policy
        self._timeout_seconds = config.policy.timeout_seconds
        self._train = train
        self._held_out_loss = held_out_loss
        self._eval_steps = eval_steps
        self._interrupts = interrupts
        self._state = TrainerState(step=0, version=0, prompts={})
        self.holds_state = True

    @property
    def state(self) -> TrainerState:
        """The state after the last complete step."""
        return self._state

    def is_finished(self) -> bool:
        """The model is exported last."""
        return (self._folder / "model").exists()

    def start(self, checkpoint: tuple[Path, TrainerState] | None) -> None:
        """Load a checkpoint if there is one, and go to its place in the data."""
        if checkpoint is not None:
            folder, self._state = checkpoint
            self._policy.load(folder / "policy")
        # Of fewer steps, from before `max_steps` was raised: the checkpoint has it, too.
        remove_folder(self._folder / "model")
        self._order = islice(self._order, self._state.step, None)

    def before_first_step(self) -> None:
        """Evaluate the untrained model."""
        if self._held_out_loss is not None:
            say(f"before the first step: eval/loss {self._held_out_loss():.3f}")

    def step(self) -> StepOutput:
        """One optimizer step."""
        rows = next(self._order)
        with self._interrupts.section():
            self._interrupts.defer()
            self.holds_state = False
            metrics = self._train(rows)
            self._state = TrainerState(step=self._state.step + 1, version=0, prompts={})
            self.holds_state = True
        return StepOutput(metrics)

    def check(self) -> None:
        """A loss that is not finite ends the run in the optimizer step."""

    def evaluate(self) -> Metrics:
        """The held-out loss, every `eval_steps` steps and after the last one."""
        step = self._state.step
        due = step == self.num_steps or (self._eval_steps > 0 and step % self._eval_steps == 0)
        return {"eval/loss": self._held_out_loss()} if due and self._held_out_loss is not None else {}

    def is_best(self, best: int | None) -> bool:
        """The newest checkpoints are kept, not the best one."""
        return False

    def save(self, folder: Path) -> None:
        """Save policy and exported model."""
        self._policy.save(folder / "policy")
        self._policy.export(folder / "model")

    def is_written(self) -> bool:
        """Whether the policy is."""
        return self._policy.is_written()

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Losses and accuracies."""
        shown = [f"{name} {value:.3f}" for name, value in metrics.items() if name.endswith(("loss", "accuracy"))]
        return ", ".join(shown)

    def finish(self, metrics: Mapping[str, float], checkpoints: Checkpoints) -> None:
        """Export the model to `<run folder>/model`, which appears once it is complete."""
        staging = self._folder / "tmp_model"
        with self._interrupts.held_back():
            shutil.rmtree(staging, ignore_errors=True)
            self._policy.export(staging)
            wait_until_written(str(staging), self._policy.is_written, self._timeout_seconds, Event())
            staging.rename(self._folder / "model")
        say(f"after {self.num_steps} updates: {self.describe(metrics)}; the model: {self._folder}/model")


def run_fixed_dataset(
    config: SftConfig | DpoConfig,
    num_steps: int,
    resume: bool,
    data: str,
    make_job: Callable[[Policy], FixedDatasetJob],
) -> None:
    """Start the policy and run the job that `make_job` builds around it; `data` describes the dataset."""
    demand = Demand(ranks=config.policy.num_ranks, engines=0, max_ranks=config.policy.train_batch_size)
    say(data)
    checkpoint_bytes = check_room(config, num_steps)
    with run_services(config, demand, resume) as (places, loggers):
        template = run_template(config)
        learner = learner_settings(config.model, config.optimizer, config.policy, num_steps, template=template)
        policy = start_policy(learner, config.policy, places.policy, config.run.folder / "logs")
        Run(config, make_job(policy), loggers, INTERRUPTS, checkpoint_bytes).go(resume)


def count_steps(config: SftConfig | DpoConfig, num_rows: int) -> int:
    """Optimizer steps of a whole run; an epoch's incomplete last batch is trained on, too."""
    whole = config.max_epochs * -(-num_rows // config.policy.train_batch_size)
    return min(whole, config.max_steps or whole)


def describe_count(count: int, rows: str, dropped: int) -> str:
    """Rows that are used and rows that were dropped for their length: `96 examples (2 longer ones dropped)`."""
    return f"{count} {rows}" + (f" ({dropped} longer ones dropped)" if dropped else "")
