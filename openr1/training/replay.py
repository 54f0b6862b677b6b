"""Steps on disk: recorded just before their update, and replayed in place of the stages that made them.

A folder of records holds `config.yaml` of the run and, for each step, step_NNNNNN/ with `groups.jsonl` (prompts,
tokens, log-probs, versions and scores, one group a line), `batch.safetensors` (all that the update reads), `step.json`
and `checksums.json`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file

from openr1.algorithms.advantages import RunningReward
from openr1.algorithms.batch import TrainBatch
from openr1.config.load import to_yaml, validate
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError, MissingError
from openr1.rollout.producer import Sampled, train_stream
from openr1.rollout.sampling_params import Sampling
from openr1.runtime.files import read_objects, write_objects, write_whole
from openr1.tracking.checkpoint import find_damage, publish
from openr1.tracking.loggers.client import flat_settings
from openr1.training.metrics import Graded
from openr1.training.trainer import Estimated
from openr1.types import Group, Prompt, Response, Score

ROLLOUT_KEYS = ("rollout_batch_size", "n_samples_per_prompt", "generate_max_len", "temperature", "top_p")
SAME = ("run.seed", "algorithm.dynamic_sampling_rounds", *(f"rollout.{key}" for key in ROLLOUT_KEYS))
"""What records must have been made with: which prompts a step has, and how they were sampled."""


@dataclass(frozen=True)
class RecordedStep:
    """A step as it was just before its update; groups are found by their prompt's id."""

    graded: dict[str, tuple[Group, list[Score]]]
    estimated: Estimated


def write_step(folder: Path, step: int, sampled: Sampled, estimated: Estimated) -> None:
    """Record a step, whole or not at all; one that was recorded before is replaced."""
    aside = folder / f"tmp_step_{step:06d}"
    aside.mkdir(parents=True, exist_ok=True)
    write_objects(aside / "groups.jsonl", [*_rows(sampled.chosen), *_rows(sampled.dropped)])
    batch = {f"batch.{name}": tensor for name, tensor in vars(estimated.batch).items() if tensor is not None}
    tensors = {**batch, "shaped": estimated.shaped, "advantages": estimated.advantages}
    # Copies: the format refuses tensors that share memory.
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, aside / "batch.safetensors")
    running = estimated.running_reward
    values = {"step": step, "running_reward": None if running is None else asdict(running)}
    write_whole(aside / "step.json", json.dumps(values) + "\n")
    publish(aside, _of_step(folder, step))


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
        graded = {group.prompt.id: (group, scores) for group, scores in map(_parse, _objects(path))}
        tensors = load_file(path / "batch.safetensors")
        batch = {name: tensors.pop(name) for name in list(tensors) if name.startswith("batch.")}
        running = json.loads((path / "step.json").read_text(encoding="utf-8"))["running_reward"]
        estimated = Estimated(
            TrainBatch(**{name.removeprefix("batch."): tensor for name, tensor in batch.items()}),
            **tensors,
            running_reward=running and RunningReward(**running),
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: recorded by another version of openr1 ({error}); record the step again") from error
    return RecordedStep(graded, estimated)


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

    def estimated(self, step: int, sampled: Sampled, estimate: Callable[[], Estimated]) -> Estimated:
        """Record the step, and pass it on."""
        estimated = estimate()
        write_whole(self._folder / "config.yaml", to_yaml(self._config))
        write_step(self._folder, step, sampled, estimated)
        return estimated


class Replay:
    """Stands for the engines, the reward server and all that precedes the update, as far as `debug.replay_from` says.

    Steps are read in order, each when its prompts are asked for.
    """

    def __init__(self, config: TrainConfig, folder: Path, resume: bool) -> None:
        """Check the records. A resumed run needs those of the steps that it makes; they are looked for then.

        Raises:
            MissingError: There are no records, or not of every step.
            ConfigError: They are of a run that was sampled otherwise, or lack what this one reads.
        """
        self._folder = folder
        self._reads_advantages = config.debug.reads("advantage")
        self._steps = {train_stream(step): step for step in range(1, config.num_steps + 1)}
        self._step = 0
        self._recorded: RecordedStep | None = None
        recorded = _recorded_config(folder)
        before, now = flat_settings(recorded), flat_settings(config)
        different = [f"{key} {before[key]}, here {now[key]}" for key in SAME if before[key] != now[key]]
        if different:
            raise ConfigError(f"debug.replay {folder}: recorded with {'; '.join(different)}; give the same")
        lacking = {
            "values (gae)": config.has_critic and not recorded.has_critic,
            "log-probs of a reference (init_kl_coef)": config.algorithm.init_kl_coef > 0 and not recorded.has_reference,
        }
        if self._reads_advantages and any(lacking.values()):
            what = " and ".join(name for name, is_lacking in lacking.items() if is_lacking)
            raise ConfigError(f"debug.replay {folder}: recorded without {what}; replay from reward makes them")
        if not resume:
            _check_there(folder, self._steps.values())

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        """Yield each prompt's recorded group, as engines would.

        Raises:
            ConfigError: The step was recorded with other prompts.
        """
        step = self._steps[sampling.seed_stream]
        if step != self._step:
            self._recorded, self._step = read_step(self._folder, step), step
        for prompt in prompts:
            group, _ = self._graded(prompt.id)
            if group.prompt != prompt:
                raise self._other(prompt.id, "another prompt")
            yield group

    def submit(self, group: Group) -> "Future[list[Score]]":
        """The recorded scores, as from a reward server that has answered."""
        future: Future[list[Score]] = Future()
        future.set_result(self._graded(group.prompt.id)[1])
        return future

    def estimated(self, step: int, sampled: Sampled, estimate: Callable[[], Estimated]) -> Estimated:
        """The recorded batch, or what is made of the groups and scores that were read."""
        if not self._reads_advantages:
            return estimate()
        assert self._recorded is not None
        return self._recorded.estimated

    def _graded(self, prompt_id: str) -> tuple[Group, list[Score]]:
        assert self._recorded is not None
        if prompt_id not in self._recorded.graded:
            raise self._other(prompt_id, "no responses")
        return self._recorded.graded[prompt_id]

    def _other(self, prompt_id: str, found: str) -> ConfigError:
        return ConfigError(
            f"{_of_step(self._folder, self._step)}: {found} for {prompt_id}, which comes now; give the data, "
            "model.path and data.max_pass_rate of the recorded run (with dynamic sampling: the same rewards, too)"
        )


def _of_step(folder: Path, step: int) -> Path:
    return folder / f"step_{step:06d}"


def _check_there(folder: Path, steps: Iterable[int]) -> None:
    """Say which steps there are, where one is missing."""
    there = sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*"))
    missing = [step for step in steps if step not in there]
    if missing:
        known = f"there are those of {', '.join(map(str, there))}" if there else "there are none"
        raise MissingError(f"{folder}: no record of step {missing[0]}; {known}")


def _recorded_config(folder: Path) -> TrainConfig:
    path = folder / "config.yaml"
    if not path.is_file():
        raise MissingError(f"{folder}: no records here; debug.record writes them")
    return validate(TrainConfig, yaml.safe_load(path.read_text(encoding="utf-8")), str(path))


def _rows(graded: Graded) -> list[dict[str, Any]]:
    return [{**asdict(group), "scores": [asdict(score) for score in scores]} for group, scores in graded]


def _objects(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_objects(path / "groups.jsonl")]


def _parse(row: dict[str, Any]) -> tuple[Group, list[Score]]:
    """A group and its scores from a row of `_rows`."""
    prompt = Prompt(**{**row["prompt"], "token_ids": tuple(row["prompt"]["token_ids"])})
    responses = [
        Response(**{**one, "token_ids": tuple(one["token_ids"]), "log_probs": tuple(one["log_probs"])})
        for one in row["responses"]
    ]
    return Group(prompt, tuple(responses)), [Score(**score) for score in row["scores"]]
