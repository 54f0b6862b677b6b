"""One run of reinforcement learning, from config to summary."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path

from openr1.actors.rl import Actors, train_demand
from openr1.config.checks import check_train
from openr1.config.train import TrainConfig
from openr1.data.difficulty import make_judge
from openr1.data.pass_rates import PASS_RATE_FILE, PassRates
from openr1.inputs.datasets import Datasets, load_datasets, prompt_stream
from openr1.inputs.reward_tasks import check_known, default_task, with_reward_task
from openr1.interfaces import RewardSource
from openr1.plan.disk import check_room
from openr1.rewards.client import RewardClient
from openr1.rewards.process import WaitForAddress, starting_reward_server
from openr1.rollout.experience import StepResult
from openr1.rollout.producer import ExperienceProducer
from openr1.runtime.console import print_table, say
from openr1.runtime.files import write_whole
from openr1.runtime.interrupts import INTERRUPTS
from openr1.runtime.joining import cluster_address
from openr1.runtime.ray_cluster import shared_memory_folder
from openr1.tracking.checkpoint import Checkpoints
from openr1.tracking.data_record import check_data, record_data
from openr1.tracking.loggers.client import check_tracking
from openr1.tracking.recorder import read_metrics, rollout_rows
from openr1.tracking.run_folder import check_unused
from openr1.tracking.shadow import ShadowGrading, ShadowReport
from openr1.training.advantage_stage import AdvantageEstimation
from openr1.training.evaluation import Evaluator
from openr1.training.replay import Recording, Replay, replay_stages
from openr1.training.run import Run, StepOutput, run_services
from openr1.training.sanity_checks import SanityChecks
from openr1.training.stages import Stages
from openr1.training.summary import TABLE_HEADER, summarize, table_rows
from openr1.training.trainer import Trainer
from openr1.training.weight_check import WeightCheck
from openr1.types import TrainerState
from openr1.workers.model import weights_bytes


def run_training(config: TrainConfig, resume: bool) -> None:
    """Train, and leave everything in the run folder. Files, settings and services are validated before anything starts.

    Raises:
        OpenR1Error: With one line on what is wrong; past the first step a checkpoint can be resumed from.
        Interrupted: A signal came; past the first step a checkpoint was written.
    """
    with INTERRUPTS.installed():
        check_train(config)
        check_tracking(config.tracking)
        check_unused(config.run.folder, resume)
        # It starts while the data is read.
        with own_reward_server(config) as wait_for_address:
            _train(config, resume, wait_for_address)


def _train(config: TrainConfig, resume: bool, wait_for_address: WaitForAddress | None) -> None:
    datasets = with_reward_task(load_datasets(config, default_task(config.reward)), config.reward)
    checkpoint_bytes = check_room(config, config.num_steps)
    if resume:
        check_data(config.run.folder, datasets.fingerprints)
    pushed_bytes = weights_bytes(config.model) if pushes_files(config) else 0
    replay = None if config.debug.replay is None else Replay(config, config.debug.replay, resume)
    recording = None if config.debug.record is None else Recording(config, config.debug.record, resume)
    with (
        shared_memory_folder(pushed_bytes) as shared,
        ready_rewards(config, replay, datasets, wait_for_address) as rewards,
        run_services(config, train_demand(config), resume) as (places, loggers),
    ):
        record_data(config.run.folder, datasets.fingerprints)
        with_reference = config.has_reference and not config.debug.reads("advantage")
        actors = Actors(config, places, shared, with_reference=with_reference)
        stages = Stages.of_actors(actors, rewards, AdvantageEstimation(config.algorithm, actors.critic))
        stages = replay_stages(stages, replay, recording, config.debug.rollout_only)
        with closing(RLJob(config, datasets, stages)) as job:
            Run(config, job, loggers, INTERRUPTS, checkpoint_bytes).go(resume)


def pushes_files(config: TrainConfig) -> bool:
    """Whether weights will certainly travel through this machine's shared memory, whose room is checked first."""
    is_alone = cluster_address(config.cluster.address) is None
    return is_alone and config.weight_sync.backend in ("auto", "shm") and not config.debug.reads("rollout")


def without_repetition(config: TrainConfig) -> TrainConfig:
    """With `debug.rollout_only` one epoch will do: weights that do not change give the same numbers in every epoch."""
    if not config.debug.rollout_only:
        return config
    algorithm = config.algorithm.model_copy(update={"max_epochs": 1})
    return config.model_copy(update={"algorithm": algorithm})


def own_reward_server(config: TrainConfig) -> AbstractContextManager[WaitForAddress | None]:
    """For the block, a server of this run; None if it uses those of `reward.url`, or grades that were recorded."""
    reward = config.reward
    if reward.url is not None or config.debug.reads("reward"):
        return nullcontext()
    return starting_reward_server(reward.server_config, config.run.folder / "logs", reward.module)


@contextmanager
def ready_rewards(
    config: TrainConfig, replay: Replay | None, datasets: Datasets, wait_for_address: WaitForAddress | None
) -> Iterator[RewardSource]:
    """What grades responses: recorded grades, the servers of `reward.url`, or the run's own server.

    Raises:
        ConfigError: A row has a task that the servers do not know.
    """
    if replay is not None and config.debug.reads("reward"):
        yield replay
        return
    reward = config.reward
    urls = reward.url if wait_for_address is None else [wait_for_address(reward.ready_timeout_seconds)]
    assert urls is not None
    with RewardClient(urls, reward.deadline_seconds, reward.ready_timeout_seconds) as client:
        client.wait_until_ready()
        check_known(datasets, reward, client.tasks())
        yield client


class RLJob:
    """RL as `run.Run` drives it: the trainer, and what surrounds its steps: evaluation, pass rates, checks."""

    extend_hint = "--num_steps"

    def __init__(self, config: TrainConfig, datasets: Datasets, stages: Stages) -> None:
        """Take the stages; nothing runs yet."""
        config = without_repetition(config)
        self.num_steps = config.num_steps
        self._config = config
        self._folder = config.run.folder
        self._stages = stages
        self._start = time.monotonic()
        self._last: StepResult | None = None
        self._pass_rates = PassRates()
        if config.data.pass_rates is not None:
            self._pass_rates.read(config.data.pass_rates)
        judge = make_judge(config.data, self._pass_rates, config.run.seed)
        prompts = prompt_stream(config, datasets, judge)
        shadow = config.reward.shadow
        self._shadow: tuple[ShadowGrading, ShadowReport] | None = None
        rewards = stages.rewards
        if shadow is not None:
            rewards = ShadowGrading(stages.rewards, shadow)
            self._shadow = rewards, ShadowReport(self._folder, shadow)
        producer = ExperienceProducer(config, prompts, stages.rollout, rewards, stages.reference, stages.interrupts)
        self._trainer = Trainer(
            config, producer, stages.estimate_advantages, stages.policy, stages.critic, stages.memory, stages.interrupts
        )
        self._checks = SanityChecks(config) if stages.comparable else None
        self._weights = WeightCheck(config, stages.per_engine_rollouts, stages.policy, datasets.train)
        self._evaluator = Evaluator(config, datasets.held_out, stages.rollout, stages.rewards)

    @property
    def state(self) -> TrainerState:
        """The state after the last complete step."""
        return self._trainer.state

    @property
    def holds_state(self) -> bool:
        """Whether the policy holds the weights of `state`."""
        return self._trainer.holds_state

    def close(self) -> None:
        """End what still samples; the actors can be stopped then."""
        self._trainer.close()

    def is_finished(self) -> bool:
        """The summary is written last."""
        return (self._folder / "summary.json").exists()

    def start(self, checkpoint: tuple[Path, TrainerState] | None) -> None:
        """Load a checkpoint if there is one, push the weights and verify them.

        The first push comes before the first rollout: a broken weight transfer shows within the first minute.
        """
        state = self._trainer.state
        if checkpoint is not None:
            folder, state = checkpoint
            self._stages.policy.load(folder / "policy")
            if self._stages.critic is not None:
                self._stages.critic.load(folder / "critic")
            self._pass_rates.read(folder / PASS_RATE_FILE)
        # Of fewer steps, from before the run was made longer: it must not pass for that of all of them.
        (self._folder / "summary.json").unlink(missing_ok=True)
        self._trainer.restore(state)
        self._weights.check(state.step)

    def before_first_step(self) -> None:
        """Evaluate the untrained model."""
        self._evaluator.evaluate(0)

    def step(self) -> StepOutput:
        """Make a step and count its pass rates."""
        result = self._last = self._trainer.step()
        for scored in result.experience.sampled:
            self._pass_rates.add(scored)
        metrics = result.metrics | self._stages.restarts()
        if self._shadow is not None:
            grading, report = self._shadow
            metrics = metrics | report.add(result.step, grading.pairs(result.experience))
        return StepOutput(metrics, lambda: rollout_rows(result.experience))

    def check(self) -> None:
        """Check the step's metrics, and every `rollout.verify_steps` steps each engine's weights."""
        assert self._last is not None
        if self._checks is not None:
            self._checks.check(self._last)
        verify_every = self._config.rollout.verify_steps
        if verify_every > 0 and self._last.step % verify_every == 0:
            self._weights.check(self._last.step)

    def evaluate(self) -> dict[str, float]:
        """Held-out accuracy, every `evaluation.eval_steps` steps."""
        step = self.state.step
        if not self._evaluator.is_due(step):
            return {}
        results = self._evaluator.results(step) or self._evaluator.evaluate(step)
        return {"eval/accuracy": results["sampled"].accuracy}

    def is_best(self, best: int | None) -> bool:
        """By held-out accuracy; nothing is known of a best step whose file in eval/ was removed."""
        step = self.state.step
        accuracy = self._evaluator.results(step)["sampled"].accuracy
        known = {} if best is None else self._evaluator.results(best)
        better = not known or accuracy > known["sampled"].accuracy
        say(f"step {step}: held-out accuracy {accuracy:.3f}; best: step {step if better else best}")
        return better

    def save(self, folder: Path) -> None:
        """Save policy, critic, exported model and pass rates.

        The pass rates go into the run folder, too, for people and other runs; resuming needs those of just this step.
        """
        self._pass_rates.write(folder / PASS_RATE_FILE)
        self._pass_rates.write(self._folder / PASS_RATE_FILE)
        self._stages.policy.save(folder / "policy")
        self._stages.policy.export(folder / "model")
        if self._stages.critic is not None:
            self._stages.critic.save(folder / "critic")

    def is_written(self) -> bool:
        """Whether policy and critic are."""
        critic = self._stages.critic
        return self._stages.policy.is_written() and (critic is None or critic.is_written())

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Training accuracy."""
        return f"accuracy {metrics['reward/accuracy']:.2f}"

    def finish(self, metrics: Mapping[str, float], checkpoints: Checkpoints) -> None:
        """Evaluate the last step, write summary.json and print its table."""
        before, after = self._evaluator.results(0), self._evaluator.results(self.num_steps)
        # The in-loop evaluation may already have covered the last step.
        if "greedy" not in after:
            after = self._evaluator.evaluate(self.num_steps)
        seconds = time.monotonic() - self._start
        rows = read_metrics(self._folder / "metrics.jsonl")
        summary = summarize(rows, before, after) | {"wall_seconds": seconds}
        write_whole(self._folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        if before:
            print_table(f"held-out accuracy ({summary['eval_size']} problems)", TABLE_HEADER, table_rows(before, after))
        say(f"{summary['steps']} steps in {seconds:.0f} s, {summary['tokens_per_second']:.0f} tokens/s in training")
        say(f"run folder: {self._folder}")
        say("  summary.json, metrics.jsonl, rollouts/, eval/, logs/")
        say(f"  the trained model: {checkpoints.complete()[-1]}/model")
