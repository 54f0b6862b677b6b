"""One run of reinforcement learning from start to summary: checks, stages, evaluation, steps, checkpoints."""

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openr1.config.checks import check_train
from openr1.config.train import TrainConfig
from openr1.data.pass_rates import LEDGER, PassRates
from openr1.data.prompts import PromptStream, Wording, load_prompts, load_tokenizer
from openr1.errors import ConfigError, OutOfPrompts
from openr1.rewards.client import RewardClient
from openr1.rollout.producer import Rewards
from openr1.rollout.sampling_params import Sampling
from openr1.runtime.console import Advance, ignore, print_table, progress, say
from openr1.runtime.files import write_whole
from openr1.runtime.interrupts import INTERRUPTS, Interrupted, Interrupts
from openr1.tracking.checkpoint import Checkpoints
from openr1.tracking.loggers.client import Trackers, check_tracking, flat_settings
from openr1.tracking.recorder import Tracker, read_metrics, rollout_rows
from openr1.tracking.run_folder import check_unused, opened
from openr1.training.cluster import Stages, check_machine, gpus_needed, running_ray, shared_memory_folder
from openr1.training.evaluation import Measurement, measure, read_measurements, write_measurements
from openr1.training.replay import Recording, Replay
from openr1.training.sanity_checks import Watch
from openr1.training.trainer import StepRecord, Trainer, TrainerState
from openr1.types import Prompt
from openr1.weight_sync.verify import WeightCheck
from openr1.workers.rope import check_positions


@dataclass(frozen=True)
class Datasets:
    """What the run trains on and is measured on."""

    train: list[Prompt]
    held_out: list[Prompt]


def run_training(config: TrainConfig, resume: bool) -> None:
    """Train, and leave everything in the run folder; what can be wrong with files, numbers and services comes first.

    Raises:
        OpenR1Error: With one line on what is wrong; past the first step a checkpoint can be resumed from.
        Interrupted: A signal came; past the first step a checkpoint was written.
    """
    with INTERRUPTS.installed():
        check_train(config)
        check_tracking(config.tracking)
        datasets = load_datasets(config)
        on_gpu = check_machine(gpus_needed(config))
        check_unused(config.run.folder, resume)
        replay = None if config.debug.replay is None else Replay(config, config.debug.replay, resume)
        recording = None if config.debug.record is None else Recording(config, config.debug.record, resume)
        with (
            ready_rewards(config, replay) as rewards,
            opened(config.run.folder, config, resume),
            shared_memory_folder() as shared,
            running_ray(),
            Trackers(config.tracking, config.run, flat_settings(config)) as trackers,
        ):
            actors = f"{config.num_engines} engine(s), {config.policy.num_ranks} policy rank(s)"
            actors += ", as many of a critic" if config.has_critic else ""
            say(f"starting {actors}; logs in {config.run.folder}/logs")
            stages = Stages(config, on_gpu, shared)
            with closing(Run(config, datasets, stages, rewards, trackers, INTERRUPTS, replay or recording)) as run:
                run.go(resume)


@contextmanager
def ready_rewards(config: TrainConfig, replay: Replay | None) -> Iterator[Rewards]:
    """What scores: a client whose servers are ready, or the records."""
    if replay is not None and config.debug.reads("reward"):
        yield replay
        return
    with reward_client(config) as client:
        client.wait_until_ready()
        yield client


def load_datasets(config: TrainConfig) -> Datasets:
    """Load prompts and check that there are enough, and that no held-out prompt is trained on."""
    tokenizer = load_tokenizer(config.model.path)
    data = config.data
    for model in (config.model, config.critic_model):
        check_positions(model, data.prompt_max_len + config.rollout.generate_max_len)
    if load_tokenizer(config.critic_model.path).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(f"critic.path {config.critic.path} has other tokens than model.path {config.model.path}")
    wording = Wording(data.system_prompt, data.assistant_prefix)
    train = load_prompts(data.train, tokenizer, data.prompt_max_len, wording)
    if len(train) < config.rollout.rollout_batch_size:
        raise ConfigError(
            f"dataset {data.train}: {len(train)} prompts, fewer than "
            f"rollout.rollout_batch_size {config.rollout.rollout_batch_size}"
        )
    if data.held_out is not None and config.debug.replay is not None:
        say("debug.replay starts no engines: held-out prompts are not measured")
    if data.held_out is None or config.debug.replay is not None:
        return Datasets(train, [])
    held_out = load_prompts(data.held_out, tokenizer, data.prompt_max_len, wording)
    shared = {prompt.text for prompt in train} & {prompt.text for prompt in held_out}
    if shared:
        raise ConfigError(
            f"{data.held_out}: {len(shared)} prompts also stand in {data.train}; held-out prompts must be unseen"
        )
    return Datasets(train, held_out)


def reward_client(config: TrainConfig) -> RewardClient:
    """The client for the config's reward server."""
    if config.reward.url is None:
        raise ConfigError(
            "reward.url is missing; scripts/grpo.sh starts a server and fills it in, or give --reward.url"
        )
    return RewardClient(config.reward.url, config.reward.deadline_seconds, config.reward.ready_timeout_seconds)


class Run:
    """A run whose stages stand: evaluates, steps, saves, sums up."""

    def __init__(
        self,
        config: TrainConfig,
        datasets: Datasets,
        stages: Stages,
        rewards: Rewards,
        trackers: Trackers,
        interrupts: Interrupts,
        debug: Replay | Recording | None = None,
    ) -> None:
        """Take the parts; nothing runs yet."""
        self._config = config
        self._datasets = datasets
        self._stages = stages
        self._rewards = rewards
        self._trackers = trackers
        self._folder = config.run.folder
        self._interrupts = interrupts
        self._tracker = Tracker(self._folder)
        self._watch = Watch(config)
        self._weights = WeightCheck(config, stages.single_engines, stages.policy, datasets.train)
        self._advance: Advance = ignore
        self._record: StepRecord | None = None  # of a step that the trackers do not have yet
        self._saved = 0
        self._checkpoints = Checkpoints(self._folder / "checkpoints", config.checkpoint.keep)
        self._start = time.monotonic()
        self._pass_rates = PassRates()
        if config.data.pass_rates is not None:
            self._pass_rates.read(config.data.pass_rates)
        self._trainer = Trainer(
            config,
            PromptStream(datasets.train, config.run.seed, self._is_solved),
            debug if isinstance(debug, Replay) else stages.rollout,
            rewards,
            stages.reference,
            stages.policy,
            interrupts,
            self._on_step,
            stages.critic,
            None if debug is None else debug.estimated,
        )

    def close(self) -> None:
        """End what still samples; the stages can be stopped then."""
        self._trainer.close()

    def go(self, resume: bool) -> None:
        """Train from the start or from the newest checkpoint, and write the summary."""
        state = (self._load_newest() if resume else None) or self._trainer.state
        # The first push comes before the first rollout: a broken path for weights shows within the first minute.
        self._trainer.restore(state)
        self._weights.check(state.step)
        self._tracker.forget_after(state.step)
        self._trackers.start(state.step)
        self._saved = state.step
        before = self._evaluate(0) if state.step == 0 else self._read(0)
        if state.step > 0 and not self._evaluation_path(state.step).exists():
            self._evaluate_on_the_way()
        self._trackers.catch_up()
        try:
            with progress("training", self._config.num_steps, state.step) as self._advance:
                while self._trainer.state.step < self._config.num_steps:
                    self._step()
        except (Interrupted, OutOfPrompts):
            # Held back: saving waits for the policy, and every wait would raise the signal again.
            with self._interrupts.held_back():
                self._save_last_step()
            raise
        after = self._read(self._config.num_steps)
        # Its turn may have come on the way.
        self._sum_up(before, after if "greedy" in after else self._evaluate(self._config.num_steps))

    def _step(self) -> None:
        """Make a step, measure it if its turn has come, and hand it to the trackers, which take no step twice."""
        held_out: dict[str, float] = {}
        try:
            self._trainer.step()
            held_out = self._evaluate_on_the_way()
        finally:
            # A step that was made has its row, whatever came after it.
            if self._record is not None:
                self._trackers.log(self._record.step, self._record.metrics | held_out, rollout_rows(self._record))
                self._record = None

    def _evaluate_on_the_way(self) -> dict[str, float]:
        """Measure the step that is complete, if its turn has come, and keep its checkpoint if it is the best."""
        step, every = self._trainer.state.step, self._config.evaluation.eval_steps
        if every == 0 or step % every or not self._datasets.held_out:
            return {}
        best = self._checkpoints.best()
        # Nothing is known of a best one whose file in eval/ was removed.
        known = {} if best is None else self._read(best)
        accuracy = self._evaluate(step)["sampled"].accuracy
        if not known or accuracy > known["sampled"].accuracy:
            with self._interrupts.held_back():
                if self._saved < step:
                    self._save()
                self._checkpoints.mark_best(step)
        say(f"step {step}: held-out accuracy {accuracy:.3f}; best: step {self._checkpoints.best()}")
        return {"eval/accuracy": accuracy}

    def _on_step(self, record: StepRecord) -> None:
        """Keep what the step leaves."""
        for group, scores in [*zip(record.groups, record.scores, strict=True), *record.dropped]:
            self._pass_rates.add(group, scores)
        self._tracker.log(record)
        self._record = record
        # Before a checkpoint keeps what is wrong.
        self._watch.check(record)
        verify = self._config.rollout.verify_steps
        if verify > 0 and record.step % verify == 0:
            self._weights.check(record.step)
        every = self._config.checkpoint.save_steps
        if record.step == self._config.num_steps or (every > 0 and record.step % every == 0):
            self._save()
        self._advance(f"accuracy {record.metrics['reward/accuracy']:.2f}")

    def _save(self) -> None:
        """Write a checkpoint of the last complete step."""
        state = self._trainer.state
        policy = self._stages.policy
        self._pass_rates.write(self._folder / LEDGER)
        self._checkpoints.save(state, policy.save, policy.export, self._save_more)
        self._saved = state.step

    def _save_more(self, folder: Path) -> None:
        """Add to a checkpoint what else resuming needs."""
        if self._stages.critic is not None:
            self._stages.critic.save(folder / "critic")
        # Once more, since a resumed run needs the one of just this step.
        self._pass_rates.write(folder / LEDGER)

    def _is_solved(self, prompt_id: str) -> bool:
        """Whether a prompt is passed over."""
        limit, newest = self._config.data.max_pass_rate, self._pass_rates.newest(prompt_id)
        return limit is not None and newest is not None and newest > limit

    def _save_last_step(self) -> None:
        """Leave a checkpoint of the last complete step, if there is one."""
        step = self._trainer.state.step
        if step > self._saved:
            self._save()
        if step > 0:
            say(f"stopped after step {step}; continue with --resume")

    def _load_newest(self) -> TrainerState | None:
        """Give the policy its newest checkpoint; None where the run was stopped before its first."""
        newest = self._checkpoints.newest()
        if newest is None:
            say("no checkpoint yet: starting from the beginning")
            return None
        folder, state = newest
        done = state.step == self._config.num_steps and (self._folder / "summary.json").exists()
        if done or state.step > self._config.num_steps:
            raise ConfigError(
                f"{folder}: step {state.step} of num_steps {self._config.num_steps} is done; raise --num_steps to go on"
            )
        say(f"resuming after step {state.step} from {folder}")
        self._stages.policy.load(folder / "policy")
        if self._stages.critic is not None:
            self._stages.critic.load(folder / "critic")
        self._pass_rates.read(folder / LEDGER)
        return state

    def _evaluation_path(self, step: int) -> Path:
        return self._folder / "eval" / f"step_{step:06d}.json"

    def _read(self, step: int) -> dict[str, Measurement]:
        """What was measured at a step; nothing where there is no file of it."""
        path = self._evaluation_path(step)
        return read_measurements(path) if path.exists() else {}

    def _samplings(self, step: int) -> dict[str, Sampling]:
        """How held-out prompts are sampled: as in training; before the first step and after the last greedily, too."""
        evaluation, sampling = self._config.evaluation, Sampling.of_training(self._config, "eval")
        sampled = replace(sampling, n_samples_per_prompt=evaluation.n_samples_per_prompt)
        kinds = {"sampled": sampled}
        if step in (0, self._config.num_steps):
            kinds["greedy"] = replace(sampled, n_samples_per_prompt=1, temperature=0.0, top_p=1.0)
        if step == 0 and evaluation.base_pass_at > 0:
            kinds["base"] = replace(sampled, n_samples_per_prompt=evaluation.base_pass_at, seed_stream="eval/base")
        return kinds

    def _evaluate(self, step: int) -> dict[str, Measurement]:
        """Measure the weights of the step that is complete, and keep what comes out; nothing without held-out prompts.

        Raises:
            TrainingError: More responses stayed ungraded than `reward.max_failed_fraction` allows.
        """
        prompts, allowed = self._datasets.held_out, self._config.reward.max_failed_fraction
        if not prompts:
            return {}
        kinds, results = self._samplings(step), {}
        with progress(f"evaluating step {step}", len(kinds) * len(prompts)) as advance:
            for kind, sampling in kinds.items():
                results[kind] = measure(prompts, self._stages.rollout, self._rewards, sampling, allowed, advance)
        write_measurements(self._evaluation_path(step), results)
        return results

    def _sum_up(self, before: dict[str, Measurement], after: dict[str, Measurement]) -> None:
        """Write summary.json and print its table."""
        metrics = read_metrics(self._folder / "metrics.jsonl")
        seconds = time.monotonic() - self._start
        summary = summarize(metrics, before, after) | {"wall_seconds": seconds}
        write_whole(self._folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        if before:
            print_table(f"held-out accuracy ({summary['eval_size']} problems)", TABLE_HEADER, table_rows(before, after))
        say(f"{summary['steps']} steps in {seconds:.0f} s, {summary['tokens_per_second']:.0f} tokens/s in training")
        say(f"run folder: {self._folder}")
        say("  summary.json, metrics.jsonl, rollouts/, eval/, logs/")
        say(f"  the trained model: {self._checkpoints.complete()[-1]}/model")


TABLE_HEADER = ("", "before", "after")


def table_rows(before: dict[str, Measurement], after: dict[str, Measurement]) -> list[list[str]]:
    """The result as a person reads it."""

    def accuracy(measurement: Measurement) -> str:
        low, high = measurement.ci95
        return f"{measurement.accuracy:.3f} [{low:.3f}, {high:.3f}]"

    sampled = (before["sampled"], after["sampled"])
    rows = [
        [f"accuracy, temperature {sampled[0].temperature:g} (95 % interval)", *map(accuracy, sampled)],
        ["accuracy, greedy (95 % interval)", accuracy(before["greedy"]), accuracy(after["greedy"])],
        ["mean response length, tokens", *(f"{measurement.response_length:.1f}" for measurement in sampled)],
        ["truncated", *(f"{measurement.truncated_fraction:.1%}" for measurement in sampled)],
    ]
    if any(measurement.num_failed for measurement in sampled):
        rows.append(
            ["could not be graded, counted as wrong", *(str(measurement.num_failed) for measurement in sampled)]
        )
    if "base" in before:
        base = before["base"]
        rows.append([f"pass@{base.n_samples_per_prompt}", f"{base.pass_at_k:.3f}", ""])
    return rows


def summarize(
    metrics: list[dict[str, float]], before: dict[str, Measurement], after: dict[str, Measurement]
) -> dict[str, Any]:
    """The numbers of summary.json, but for the wall time; without held-out prompts those of accuracy are left out."""
    step_seconds = sum(row["time/step_seconds"] for row in metrics)
    tokens = sum(row["throughput/tokens_per_second"] * row["time/step_seconds"] for row in metrics)
    # Of older weights log-probs are others; the first step is always fresh.
    fresh = [row for row in metrics if row["rollout/staleness_max"] == 0]
    summary: dict[str, Any] = {
        "steps": int(metrics[-1]["step"]),
        "weight_version": int(metrics[-1]["sync/version"]),
        "tokens_per_second": tokens / step_seconds,
        "mismatch_kl_max": max(row["rollout/mismatch_kl"] for row in fresh),
        "mismatch_abs_mean_max": max(row["rollout/mismatch_abs_mean"] for row in fresh),
    }
    for name, measurements in (("before", before), ("after", after)):
        if measurements:
            sampled = measurements["sampled"]
            summary |= {
                f"accuracy_{name}": sampled.accuracy,
                f"ci95_{name}": list(sampled.ci95),
                f"response_length_{name}": sampled.response_length,
                f"greedy_{name}": measurements["greedy"].accuracy,
                "eval_size": sampled.num_prompts,
            }
    if "base" in before:
        summary[f"base_pass_at_{before['base'].n_samples_per_prompt}"] = before["base"].pass_at_k
    return summary
