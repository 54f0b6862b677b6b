"""The loop that RL, SFT and DPO runs share: start or resume, steps, records, checkpoints, signals."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from openr1.config.dpo import DpoConfig
from openr1.config.sft import SftConfig
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError, DatasetExhausted, MissingError, NotSaved, OpenR1Error, TrainingError
from openr1.placement.group import Places, reserve
from openr1.placement.layouts import Demand
from openr1.runtime.console import progress, say
from openr1.runtime.faults import FAULTS
from openr1.runtime.interrupts import Interrupted, Interrupts
from openr1.runtime.joining import cluster_address, joined_ray
from openr1.runtime.node_checks import check_nodes
from openr1.runtime.nodes import Cluster
from openr1.runtime.ray_calls import ray_errors
from openr1.runtime.ray_cluster import running_ray
from openr1.tracking.checkpoint import Checkpoints
from openr1.tracking.loggers.client import Loggers, public_settings
from openr1.tracking.recorder import RunRecorder, read_metrics
from openr1.tracking.run_folder import open_run_folder
from openr1.types import TrainerState

RunConfigs = TrainConfig | SftConfig | DpoConfig
Rows = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class StepOutput:
    """What a step leaves to the run.

    `rollouts` makes the rows of rollouts/step_NNNNNN.jsonl; None if the job has no rollouts.
    """

    metrics: dict[str, float]
    rollouts: Callable[[], Rows] | None = None


class Job(Protocol):
    """What a run trains (`rl.RLJob`, `offline.fixed_dataset.FixedDatasetJob`)."""

    num_steps: int
    """Steps of the whole run."""
    extend_hint: str
    """What to raise if a run that is complete is to go on."""

    @property
    def state(self) -> TrainerState:
        """The state after the last complete step."""

    @property
    def holds_state(self) -> bool:
        """Whether the policy holds the weights of `state`: False from the start of an update to the end of its step."""

    def is_finished(self) -> bool:
        """Whether a run whose last checkpoint is of the last step has also written its results."""

    def start(self, checkpoint: tuple[Path, TrainerState] | None) -> None:
        """Get ready for the first step, or for the one after a checkpoint."""

    def before_first_step(self) -> None:
        """Called once, unless the run resumes after a step."""

    def step(self) -> StepOutput:
        """Make a step. Signals are deferred from its point of no return to the end of the caller's section."""

    def check(self) -> None:
        """Raise if the last step shows that the run is broken; called once the step is on record."""

    def evaluate(self) -> dict[str, float]:
        """Evaluate the last complete step if it is due, which may take long; metrics named eval/..."""

    def is_best(self, best: int | None) -> bool:
        """Whether the last evaluation is better than that of the best step so far; False without evaluations."""

    def save(self, folder: Path) -> None:
        """Copy what resuming needs, and the model, which are written in the background until `is_written`."""

    def is_written(self) -> bool:
        """Whether all that was saved is written; raises if it cannot be."""

    def describe(self, metrics: Mapping[str, float]) -> str:
        """A step's metrics in a few words, for the progress bar."""

    def finish(self, metrics: Mapping[str, float], checkpoints: Checkpoints) -> None:
        """Write and print the results; `metrics` are those of the last step."""


@contextmanager
def run_services(config: RunConfigs, demand: Demand, resume: bool) -> Iterator[tuple[Places, Loggers]]:
    """For the block: Ray with the run's GPUs; the run's folder, open for this process only; the loggers."""
    FAULTS.prepare("driver")
    with (
        ray_of(config) as cluster,
        # Before the folder: a refusal leaves nothing behind.
        reserve(config.placement.layout, demand, cluster, config.cluster.interface) as places,
        open_run_folder(config.run.folder, config, resume),
        Loggers(config.tracking, config.run, public_settings(config)) as loggers,
    ):
        placement = places.placement
        say(f"starting {placement.describe()} (layout {placement.layout}); logs in {config.run.folder}/logs")
        yield places, loggers


@contextmanager
def ray_of(config: RunConfigs) -> Iterator[Cluster]:
    """The Ray cluster of a run for the block: one of its own, or a running one whose nodes have been checked."""
    address = cluster_address(config.cluster.address)
    if address is None:
        with running_ray() as cluster:
            yield cluster
        return
    say(f"joining the Ray cluster at {address}")
    with joined_ray(address) as cluster:
        inputs = [config.model.path]
        if isinstance(config, TrainConfig):
            inputs += [model.path for model in config.other_models.values()]
        check_nodes(cluster, inputs, config.run.output_dir, config.cluster.interface)
        say(f"{len(cluster.nodes)} node(s): {', '.join(node.address for node in cluster.nodes)}")
        yield cluster


class Run:
    """Drives a job from start or newest checkpoint to the end, and keeps what its steps leave."""

    def __init__(
        self, config: RunConfigs, job: Job, loggers: Loggers, interrupts: Interrupts, checkpoint_bytes: int = 0
    ) -> None:
        """Take the parts; nothing runs yet. No checkpoint is begun where there is no room for `checkpoint_bytes`."""
        self._folder = config.run.folder
        self._save_steps = config.checkpoint.save_steps
        self._job = job
        self._loggers = loggers
        self._interrupts = interrupts
        self._recorder = RunRecorder(self._folder, config.tracking)
        folder, timeout = self._folder / "checkpoints", config.policy.timeout_seconds
        self._checkpoints = Checkpoints(folder, config.checkpoint, timeout, checkpoint_bytes)
        self._sound = 0
        self._failed_to_save = 0
        self._metrics: dict[str, float] = {}

    def go(self, resume: bool) -> None:
        """Train to the last step; past the first, a signal or an error before an update leaves a checkpoint."""
        try:
            with ray_errors():
                self._go(resume)
        except DatasetExhausted:
            raise
        except (TrainingError, MissingError, OSError) as error:
            if not isinstance(error, NotSaved):
                self._save_after_error()
            kept = self._checkpoints.complete()
            say(f"the last checkpoint is {kept[-1]}; continue with --resume" if kept else "there is no checkpoint yet")
            raise
        finally:
            self._checkpoints.close()

    def _go(self, resume: bool) -> None:
        job = self._job
        job.start(self._newest_checkpoint() if resume else None)
        step = job.state.step
        self._recorder.forget_after(step)
        self._loggers.start(step)
        if step == 0:
            job.before_first_step()
        else:
            self._evaluate_if_missed()
        self._loggers.catch_up()
        try:
            with progress("training", job.num_steps, step) as advance:
                while job.state.step < job.num_steps:
                    self._step()
                    advance(job.describe(self._metrics))
        except (Interrupted, DatasetExhausted):
            # Held back: saving waits for the policy, and every wait would raise the signal again.
            with self._interrupts.held_back():
                self._save_last_step()
            raise
        with self._interrupts.held_back():
            self._checkpoints.finish_last(job.state.step)
        job.finish(self._metrics, self._checkpoints)

    def _step(self) -> None:
        """Make a step, keep what it leaves, and evaluate it if that is due.

        From the update to the checkpoint signals are deferred: a step that was made has its row.
        """
        job = self._job
        rollouts: Callable[[], Rows] | None = None
        made = False
        try:
            with self._interrupts.section():
                output = job.step()
                self._metrics, rollouts, made = self._with_failures(output.metrics), output.rollouts, True
                try:
                    FAULTS.at("record")
                    self._recorder.record_metrics(job.state.step, self._metrics)
                    if rollouts is not None:
                        self._recorder.record_rollouts(job.state.step, rollouts())
                        self._recorder.prune_rollouts(self._loggers.needs_rollouts)
                finally:
                    # Before a checkpoint keeps what is wrong; also of a step of which a full disk takes no record.
                    job.check()
                    self._sound = job.state.step
                self._checkpoints.check()
                if self._is_save_due(job.state.step):
                    self._save()
            self._evaluate()
        finally:
            # Loggers take no step twice, so they get it once, with whatever was evaluated.
            if made:
                self._loggers.log(job.state.step, self._metrics, () if rollouts is None else rollouts())

    def _with_failures(self, metrics: dict[str, float]) -> dict[str, float]:
        failed = self._checkpoints.num_failed
        return metrics | {"checkpoint/failed": float(failed)} if failed else metrics

    def _evaluate(self) -> None:
        """Evaluate if it is due, add the result to the step's row, and keep the checkpoint if it is the best."""
        job, step = self._job, self._job.state.step
        results = job.evaluate()
        if not results:
            return
        # A new dict: the step's own result shares the old one.
        self._metrics = self._metrics | results
        with self._interrupts.held_back():
            self._recorder.add_to_step(step, results)
            best = self._checkpoints.best()
            if job.is_best(best):
                if self._checkpoints.saved < step:
                    self._save()
                self._checkpoints.mark_best(step)

    def _evaluate_if_missed(self) -> None:
        """A signal during an evaluation leaves its step without one: make it now."""
        rows = read_metrics(self._folder / "metrics.jsonl")
        row = rows[-1] if rows else {}
        self._metrics = {name: value for name, value in row.items() if name != "step"}
        if not any(name.startswith("eval/") for name in row):
            self._evaluate()

    def _is_save_due(self, step: int) -> bool:
        return step == self._job.num_steps or (self._save_steps > 0 and step % self._save_steps == 0)

    def _save(self) -> None:
        """Begin a checkpoint of the last complete step."""
        try:
            self._checkpoints.save(self._job.state, self._job.save, self._job.is_written)
        except TrainingError:
            # Ranks may wait for the one that failed, and would never answer.
            self._failed_to_save = self._job.state.step
            raise

    def _save_last_step(self) -> None:
        """Leave a checkpoint of the last complete step, if there is one."""
        step = self._job.state.step
        if step > self._checkpoints.saved:
            self._save()
        self._checkpoints.finish_last(step)
        if step > 0:
            say(f"stopped after step {step}; continue with --resume")

    def _save_after_error(self) -> None:
        """Leave a checkpoint of the last complete step if it was sound, and the policy lives and still holds it."""
        step = self._job.state.step
        tried = step <= max(self._checkpoints.saved, self._failed_to_save)
        if tried or step != self._sound or not self._job.holds_state:
            return
        try:
            with self._interrupts.held_back(), ray_errors():
                self._save()
                self._checkpoints.finish()
        except (OpenR1Error, OSError) as error:
            say(f"step {step} could not be saved: {error}")

    def _newest_checkpoint(self) -> tuple[Path, TrainerState] | None:
        """The checkpoint to resume from; None if the run was stopped before its first."""
        newest, job = self._checkpoints.newest(), self._job
        if newest is None:
            say("no checkpoint yet: starting from the beginning")
            return None
        folder, state = newest
        if state.step > job.num_steps or (state.step == job.num_steps and job.is_finished()):
            raise ConfigError(f"{folder}: all {job.num_steps} steps are done; raise {job.extend_hint} to go on")
        say(f"resuming after step {state.step} from {folder}")
        return newest
