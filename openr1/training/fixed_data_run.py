"""Training on what is written already (supervised, preferences): the shared loop from start to exported model."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from openr1.config.fixed_data import DpoConfig, SftConfig
from openr1.errors import ConfigError
from openr1.runtime.console import progress, say
from openr1.runtime.files import to_line, write_objects
from openr1.runtime.interrupts import INTERRUPTS, Interrupted, Interrupts
from openr1.tracking.checkpoint import Checkpoints
from openr1.tracking.loggers.client import Trackers, flat_settings
from openr1.tracking.recorder import read_metrics
from openr1.tracking.run_folder import opened
from openr1.training.cluster import check_machine, running_ray, start_policy
from openr1.training.trainer import TrainerState
from openr1.workers.group import PolicyGroup
from openr1.workers.model import hidden_size
from openr1.workers.settings import LearnerSettings

Batch = TypeVar("Batch")
Metrics = dict[str, float]


@contextmanager
def started(config: SftConfig | DpoConfig, updates: int, resume: bool, data: str) -> "Iterator[OfflineRun]":
    """A run whose folder is open and whose policy stands, for the block; `data` says what it trains on."""
    on_gpu = check_machine(config.policy.num_ranks)
    folder = config.run.folder
    with (
        opened(folder, config, resume),
        running_ray(),
        Trackers(config.tracking, config.run, flat_settings(config)) as trackers,
    ):
        say(f"{data}; starting {config.policy.num_ranks} policy rank(s); logs in {folder}/logs")
        learner = LearnerSettings(config.model, config.optimizer, config.policy.zero_stage, 1.0, updates)
        actors = start_policy(learner, config.policy, on_gpu, folder / "logs")
        size, packing = hidden_size(config.model), config.model.packing
        tokens, limit = config.policy.micro_batch_tokens, config.policy.timeout_seconds
        policy = PolicyGroup(actors, tokens, limit, size, packing=packing)
        yield OfflineRun(config, updates, policy, trackers, INTERRUPTS)


class OfflineRun:
    """Steps, measures, saves. The place in the data follows from the step and the config."""

    def __init__(
        self,
        config: SftConfig | DpoConfig,
        updates: int,
        policy: PolicyGroup,
        trackers: Trackers,
        interrupts: Interrupts,
    ) -> None:
        """`updates` is the number of optimizer steps of the whole run."""
        self.policy = policy
        self._config = config
        self._updates = updates
        self._trackers = trackers
        self._interrupts = interrupts
        self._folder = config.run.folder
        self._checkpoints = Checkpoints(self._folder / "checkpoints", config.checkpoint.keep)
        self._step = 0
        self._saved = 0

    def go(
        self,
        batches: Iterable[Batch],
        train: Callable[[Batch], Metrics],
        measure: Callable[[], Metrics] | None,
        eval_steps: int,
        resume: bool,
    ) -> None:
        """Train from the start or from the newest checkpoint, write metrics.jsonl, and export the model.

        Args:
            batches: What each optimizer step trains on, from the first.
            train: Makes an optimizer step, and returns its metrics.
            measure: Metrics on held-out data; None where there is none. Before the first step and after the last, too.
            eval_steps: Steps from one measurement to the next; 0: none on the way.
            resume: Go on after the newest checkpoint.
        """
        if resume:
            self._load_newest()
        path = self._folder / "metrics.jsonl"
        write_objects(path, [row for row in read_metrics(path) if row["step"] <= self._step])
        self._trackers.start(self._step)
        self._trackers.catch_up()
        if measure is not None and self._step == 0:
            say(f"before the first step: {_show(measure())}")
        try:
            metrics = self._train(islice(batches, self._step, self._updates), train, measure, eval_steps)
        except Interrupted:
            with self._interrupts.held_back():
                if self._step > self._saved:
                    self._save()
            if self._step > 0:
                say(f"stopped after step {self._step}; continue with --resume")
            raise
        with self._interrupts.held_back():
            self.policy.export(self._folder / "model")
        say(f"after {self._updates} updates: {_show(metrics)}; the model: {self._folder}/model")

    def _train(
        self,
        batches: Iterable[Batch],
        train: Callable[[Batch], Metrics],
        measure: Callable[[], Metrics] | None,
        eval_steps: int,
    ) -> Metrics:
        """All steps that are left; returns the metrics of the last."""
        metrics: Metrics = {}
        path = self._folder / "metrics.jsonl"
        with progress("training", self._updates, self._step) as advance, path.open("a", encoding="utf-8") as file:
            for batch in batches:
                metrics = {}
                try:
                    with self._interrupts.held_back():
                        metrics = train(batch)
                        self._step += 1
                        if self._due(self._config.checkpoint.save_steps):
                            self._save()
                    # Long, and changes nothing: an interrupt may come here.
                    if measure is not None and self._due(eval_steps):
                        metrics |= measure()
                finally:
                    # A step that was made has its row, whatever came after it.
                    if metrics:
                        file.write(to_line({"step": self._step, **metrics}))
                        file.flush()
                        self._trackers.log(self._step, metrics)
                advance(_show(metrics))
        return metrics

    def _due(self, every: int) -> bool:
        """Whether something happens after this step: every so many, and after the last."""
        return self._step == self._updates or (every > 0 and self._step % every == 0)

    def _save(self) -> None:
        """Write a checkpoint of the last complete step."""
        state = TrainerState(step=self._step, version=0, prompts={})
        self._checkpoints.save(state, self.policy.save, self.policy.export)
        self._saved = self._step

    def _load_newest(self) -> None:
        newest = self._checkpoints.newest()
        if newest is None:
            say("no checkpoint yet: starting from the beginning")
            return
        folder, state = newest
        if state.step > self._updates or (state.step == self._updates and (self._folder / "model").exists()):
            raise ConfigError(f"{folder}: all {self._updates} updates are done; raise --max_epochs or --max_steps")
        say(f"resuming after step {state.step} from {folder}")
        self.policy.load(folder / "policy")
        self._step = self._saved = state.step


def num_updates(config: SftConfig | DpoConfig, num_rows: int) -> int:
    """Optimizer steps of a whole run; an epoch's incomplete last batch is trained on too."""
    whole = config.max_epochs * -(-num_rows // config.policy.train_batch_size)
    return min(whole, config.max_steps or whole)


def told(count: int, rows: str, dropped: int) -> str:
    """Rows that are there and rows that were dropped for their length: `96 examples (2 longer ones dropped)`."""
    return f"{count} {rows}" + (f" ({dropped} longer ones dropped)" if dropped else "")


def _show(metrics: Metrics) -> str:
    """Losses and accuracies, for the console."""
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if name.endswith(("loss", "accuracy")))
