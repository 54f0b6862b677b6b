"""Steps on disk: recorded just before their update, and replayed in place of the stages that made them.

A folder of records holds `config.yaml` of the run and, for each step, step_NNNNNN/ with `groups.jsonl` (prompts,
tokens, log-probs, versions and grades, one group per line), `batch.safetensors` (all that the update reads),
`step.json` and `checksums.json`. Recording and replaying wrap the stages of a run (`replay_stages`); the stages do not
know about it.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from openr1.algorithms.batch import TrainBatch
from openr1.config.load import flatten, to_yaml, validate
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError, MissingError
from openr1.rollout.experience import Experience
from openr1.rollout.producer import seed_stream
from openr1.runtime.files import read_objects, step_paths, write_objects, write_whole
from openr1.tracking.checkpoint import find_damage, publish
from openr1.training.frozen import DetachedPolicy, FrozenCritic, FrozenPolicy
from openr1.training.stages import Stages
from openr1.training.trainer import AdvantageStage
from openr1.types import Grade, Group, Prompt, Response, RunningReward, SamplingParams, ScoredGroup

ROLLOUT_KEYS = ("rollout_batch_size", "n_samples_per_prompt", "generate_max_len", "temperature", "top_p", "env")
REPLAY_INVARIANTS = (
    "run.seed",
    "algorithm.dynamic_sampling_rounds",
    *(f"rollout.{key}" for key in ROLLOUT_KEYS),
)
"""Keys that must be those of the recorded run: they decide which prompts a step has, and how they were sampled."""


def replay_stages(stages: Stages, replay: "Replay | None", recording: "Recording | None", rollout_only: bool) -> Stages:
    """Exchange stages as the config section `debug` says."""
    if recording is not None:
        stages = replace(stages, estimate_advantages=recording.wrap(stages.estimate_advantages))
    if replay is not None:
        # Records may come from other weights than the policy's and the reference's, so nothing is compared with them.
        stages = replace(
            stages,
            rollout=replay,
            policy=DetachedPolicy(stages.policy),
            estimate_advantages=replay.wrap(stages.estimate_advantages),
            comparable=False,
        )
    if rollout_only:
        critic = None if stages.critic is None else FrozenCritic(stages.critic)
        stages = replace(stages, policy=FrozenPolicy(stages.policy), critic=critic)
    return stages


@dataclass(frozen=True)
class RecordedStep:
    """A step as it was just before its update; groups are found by their prompt's id."""

    scored: dict[str, ScoredGroup]
    batch: TrainBatch
    shaped: torch.Tensor
    advantages: torch.Tensor
    running_reward: RunningReward | None


def write_step(folder: Path, experience: Experience) -> None:
    """Record a step, whole or not at all; one that was recorded before is replaced.

    Raises:
        MissingError: It cannot be written, as on a full disk.
    """
    step = experience.step
    aside = folder / f"tmp_step_{step:06d}"
    try:
        aside.mkdir(parents=True, exist_ok=True)
        _write_files(aside, experience)
        publish(aside, _of_step(folder, step))
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise MissingError(f"{aside.parent}: step {step} is not recorded (debug.record): {error}") from error


def _write_files(aside: Path, experience: Experience) -> None:
    assert experience.advantages is not None
    write_objects(aside / "groups.jsonl", [_to_row(scored) for scored in experience.sampled])
    batch = {f"batch.{name}": tensor for name, tensor in vars(experience.batch).items() if tensor is not None}
    tensors = {**batch, "shaped": experience.shaped_rewards, "advantages": experience.advantages}
    # Copies: the format refuses tensors that share memory.
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, aside / "batch.safetensors")
    running = experience.running_reward
    values = {"step": experience.step, "running_reward": None if running is None else asdict(running)}
    write_whole(aside / "step.json", json.dumps(values) + "\n")


def read_step(folder: Path, step: int) -> RecordedStep:
    """What `write_step` wrote: the same tokens, and the same floats to the last bit.

    Raises:
        MissingError: There is no such step, or a file of it is damaged.
        ConfigError: It has other fields than this version writes.
    """
    path = _of_step(folder, step)
    _check_there(folder, [step])
    damaged = find_damage(path)
    if damaged is not None:
        raise MissingError(f"{path}: {damaged} is not as it was recorded; record the step again")
    try:
        scored = {one.group.prompt.id: one for one in map(_parse, _objects(path))}
        tensors = load_file(path / "batch.safetensors")
        batch = {name: tensors.pop(name) for name in list(tensors) if name.startswith("batch.")}
        running = json.loads((path / "step.json").read_text(encoding="utf-8"))["running_reward"]
        return RecordedStep(
            scored,
            TrainBatch(**{name.removeprefix("batch."): tensor for name, tensor in batch.items()}),
            **tensors,
            running_reward=running and RunningReward(**running),
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: recorded by another version of openr1 ({error}); record the step again") from error


class Recording:
    """Writes every step just before its update, so that a step which fails in the update can be replayed."""

    def __init__(self, config: TrainConfig, folder: Path, resume: bool) -> None:
        """Check the folder; nothing is written yet.

        Raises:
            ConfigError: It is used, and not by this run before it was resumed.
        """
        self._config = config
        self._folder = folder
        kept = folder / "config.yaml"
        own = resume and kept.is_file() and _recorded_config(folder).run == config.run
        if not own and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"debug.record {folder}: already used; choose another folder, or remove it")

    def wrap(self, estimate_advantages: AdvantageStage) -> AdvantageStage:
        """The stage, recording what it returns: all that the update reads."""

        def estimate_and_record(experience: Experience, past: RunningReward | None) -> Experience:
            experience = estimate_advantages(experience, past)
            kept = self._folder / "config.yaml"
            if not kept.exists():
                write_whole(kept, to_yaml(self._config))
            try:
                write_step(self._folder, experience)
            except MissingError:
                # A run that made no step can be started again, and so can its record.
                if not step_paths(self._folder):
                    kept.unlink()
                raise
            return experience

        return estimate_and_record


class Replay:
    """Replays recorded steps in place of everything up to `debug.replay_from`: a rollout, and a source of grades.

    Steps are read in order, each when its prompts are asked for.
    """

    def __init__(self, config: TrainConfig, folder: Path, resume: bool) -> None:
        """Check the records. A resumed run needs those of the steps that it makes; they are looked for then.

        Raises:
            MissingError: There are no records, or not of every step.
            ConfigError: They are of a run that was sampled differently, or lack what this one reads.
        """
        self._folder = folder
        self._reads_advantages = config.debug.reads("advantage")
        self._steps = {seed_stream(step): step for step in range(1, config.num_steps + 1)}
        self._step = 0
        self._recorded: RecordedStep | None = None
        recorded = _recorded_config(folder)
        before, now = flatten(recorded), flatten(config)
        different = [f"{key} {before[key]}, here {now[key]}" for key in REPLAY_INVARIANTS if before[key] != now[key]]
        if different:
            raise ConfigError(f"debug.replay {folder}: recorded with {'; '.join(different)}; give the same")
        lacking = {
            "values (gae)": config.has_critic and not recorded.has_critic,
            "log-probs of a reference (init_kl_coef)": config.has_reference and not recorded.has_reference,
            "log-probs of this reference (reference.path)": config.reference.path != recorded.reference.path,
        }
        if self._reads_advantages and any(lacking.values()):
            what = " and ".join(name for name, is_lacking in lacking.items() if is_lacking)
            raise ConfigError(f"debug.replay {folder}: recorded without {what}; replay from reward makes them")
        if not resume:
            _check_there(folder, self._steps.values())

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> Iterator[Group]:
        """Yield each prompt's recorded group, as engines would.

        Raises:
            ConfigError: The step was recorded with other prompts.
        """
        step = self._steps[sampling.seed_stream]
        if step != self._step:
            self._recorded, self._step = read_step(self._folder, step), step
        for prompt in prompts:
            group = self._scored(prompt.id).group
            if group.prompt != prompt:
                raise self._other(prompt.id, "another prompt")
            yield group

    def submit(self, group: Group) -> "Future[list[Grade]]":
        """The recorded grades, as from a reward server that has answered."""
        future: Future[list[Grade]] = Future()
        future.set_result(list(self._scored(group.prompt.id).grades))
        return future

    def wrap(self, estimate_advantages: AdvantageStage) -> AdvantageStage:
        """The stage, or what it recorded if the replay reads advantages."""

        def recorded(experience: Experience, past: RunningReward | None) -> Experience:
            step = self._recorded
            assert step is not None
            return replace(
                experience,
                batch=step.batch,
                rewards=step.shaped,
                kl_penalty=None,
                advantages=step.advantages,
                running_reward=step.running_reward,
            )

        return recorded if self._reads_advantages else estimate_advantages

    def _scored(self, prompt_id: str) -> ScoredGroup:
        assert self._recorded is not None
        if prompt_id not in self._recorded.scored:
            raise self._other(prompt_id, "no responses")
        return self._recorded.scored[prompt_id]

    def _other(self, prompt_id: str, found: str) -> ConfigError:
        return ConfigError(
            f"{_of_step(self._folder, self._step)}: {found} for {prompt_id}, which comes now; give the data, "
            "model.path and data.max_pass_rate of the recorded run (with dynamic sampling: the same rewards, too)"
        )


def _of_step(folder: Path, step: int) -> Path:
    return folder / f"step_{step:06d}"


def _check_there(folder: Path, steps: Iterable[int]) -> None:
    """Say which steps there are, where one is missing."""
    there = [step for step, _ in step_paths(folder)]
    missing = [step for step in steps if step not in there]
    if missing:
        known = f"there are those of {', '.join(map(str, there))}" if there else "there are none"
        raise MissingError(f"{folder}: no record of step {missing[0]}; {known}")


def _recorded_config(folder: Path) -> TrainConfig:
    path = folder / "config.yaml"
    if not path.is_file():
        raise MissingError(f"{folder}: no records here; debug.record writes them")
    return validate(TrainConfig, yaml.safe_load(path.read_text(encoding="utf-8")), str(path))


PER_TOKEN = {"token_ids": int, "log_probs": float, "loss_mask": bool}
"""Fields of a response that have an entry per token."""


def _to_row(scored: ScoredGroup) -> dict[str, Any]:
    row = asdict(scored.group)
    for response in row["responses"]:
        response |= {name: [kind(value) for value in response[name]] for name, kind in PER_TOKEN.items()}
    return {**row, "scores": [asdict(grade) for grade in scored.grades]}


def _objects(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_objects(path / "groups.jsonl")]


def _parse(row: dict[str, Any]) -> ScoredGroup:
    """A group and its grades from a row of `_to_row`."""
    prompt = Prompt(**{**row["prompt"], "token_ids": tuple(row["prompt"]["token_ids"])})
    responses = [Response(**one).packed() for one in row["responses"]]
    return ScoredGroup(Group(prompt, tuple(responses)), tuple(Grade(**grade) for grade in row["scores"]))
