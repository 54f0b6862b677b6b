"""The functions of the user's module as tasks of the server, by their names."""

from functools import partial
from pathlib import Path

from reward_server.config import ServerConfig
from reward_server.config_file import read_config
from reward_server.functions.call import grade_with
from reward_server.functions.module import ModuleError, RewardModule, absolute_module, inspect_module
from reward_server.functions.signatures import KINDS, RewardFunction
from reward_server.tasks import BUILT_IN, Tasks
from reward_server.tasks.worker_task import WorkerTask


def settings_and_tasks(config: Path | None, module: str | None) -> tuple[ServerConfig, Tasks]:
    """Limits and tasks of a server that is started with a config file and a module, or without.

    Raises:
        ConfigFileError: The config file cannot be used.
        ModuleError: The module cannot be used.
    """
    known = BUILT_IN if module is None else with_functions(BUILT_IN, inspect_module(absolute_module(module)))
    return (ServerConfig(), known) if config is None else read_config(config, known)


def with_functions(known: Tasks, module: RewardModule) -> Tasks:
    """The known tasks, and one for each function of the module.

    Raises:
        ModuleError: A function has the name of a known task.
    """
    taken = [name for name in module.names if name in known]
    if taken:
        raise ModuleError(f"{module.path}: {taken[0]} is the name of a built-in task: give the function another name")
    return {**known, **{function.name: _task(function, module) for function in module.functions}}


def _task(function: RewardFunction, module: RewardModule) -> WorkerTask:
    return WorkerTask(
        name=function.name,
        version=module.version,
        summary=function.summary or f"a function of {module.path}; it gets {KINDS[function.kind]}",
        grade=partial(grade_with, module.path, function.name, function.kind),
        grouped=function.kind != "response",
    )
