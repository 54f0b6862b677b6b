"""The config file of the reward server: limits, reward weights, and tasks given by import path."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from reward_server.config import ServerConfig
from reward_server.import_path import ImportPathError, import_object
from reward_server.schema import describe_problems
from reward_server.strict_yaml import load_yaml
from reward_server.tasks import BUILT_IN, AnyTask, Tasks, find_task
from reward_server.tasks.task import Task


class ConfigFileError(ValueError):
    """The file cannot be used. The message is one line for the user and begins with the file's path."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskConfig(_Section):
    """One entry of `tasks`: a new task, or changes to a built-in one."""

    path: str | None = None
    """Import path of a `Task` to serve under this entry's name: `package.module:TASK`, or `folder/file.py:TASK`, where
    the file is relative to the folder of the config file. Required for names that are not built in, refused for those
    that are."""
    weights: dict[str, FiniteFloat] = Field(default_factory=dict)
    """New weight of a component in the reward, by the component's name. Components not listed keep theirs."""
    failed_reward: FiniteFloat | None = None
    """Reward of an item that cannot be graded, for clients that do not accept null."""


class ConfigFile(_Section):
    """The whole file."""

    tasks: dict[str, TaskConfig] = Field(default_factory=dict)
    settings: ServerConfig = Field(default_factory=ServerConfig)


def read_config(path: Path, known: Tasks = BUILT_IN) -> tuple[ServerConfig, Tasks]:
    """Limits and tasks of a server that is started with this file. Imports the tasks that are given by import path.

    Args:
        path: The file.
        known: Tasks that the file may change, and to which it may add.

    Raises:
        ConfigFileError: The file is unreadable or has a wrong value, or one of its tasks cannot be used.
    """
    config = _parse_file(path)
    try:
        changed = {name: _build_task(name, entry, path.parent, known) for name, entry in config.tasks.items()}
    except (ImportPathError, LookupError) as error:
        raise ConfigFileError(f"{path}: {error}") from error
    return config.settings, {**known, **changed}


def _parse_file(path: Path) -> ConfigFile:
    try:
        return ConfigFile.model_validate(load_yaml(path.read_text(encoding="utf-8")) or {})
    except OSError as error:
        raise ConfigFileError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigFileError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ConfigFileError(f"{path}: {describe_problems(error.errors())}") from error
    except ValueError as error:
        # Bytes that are not UTF-8, and scalars such as 2024-13-45, for which PyYAML raises no YAMLError.
        raise ConfigFileError(f"{path}: not YAML: {error}") from error


def _build_task(name: str, entry: TaskConfig, folder: Path, known: Tasks) -> AnyTask:
    task = find_task(name, known) if entry.path is None else _import_task(name, entry.path, folder, known)
    return task.with_overrides(entry.weights, entry.failed_reward)


def _import_task(name: str, path: str, folder: Path, known: Tasks) -> Task[Any]:
    """The task at an import path, renamed to `name`: requests, answers and metrics know it by its key in the file."""
    key = f"tasks.{name}.path"
    if name in known:
        kind = "a built-in task" if name in BUILT_IN else "a function of --module"
        raise ImportPathError(f"{key}: {name!r} is {kind}: choose another name, or remove path")
    try:
        task = import_object(path, folder)
    except ImportPathError as error:
        raise ImportPathError(f"{key}: {error}") from error
    if not isinstance(task, Task):
        raise ImportPathError(f"{key}: {path} is of type {type(task).__name__}, not a reward_server.tasks.task.Task")
    return replace(task, name=name)
