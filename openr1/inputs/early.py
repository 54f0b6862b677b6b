"""What can be found out of a run's files at once: without torch and transformers, whose import takes seconds.

Everything is checked again, and more of it, once they are there (`inputs.datasets`, `inputs.model_check`).
"""

from itertools import islice
from pathlib import Path

from openr1.config.data import SourceConfig
from openr1.config.dpo import DpoConfig
from openr1.config.sft import SftConfig
from openr1.config.train import TrainConfig
from openr1.data.columns import RowSchema, example_schema, pair_schema, prompt_schema
from openr1.data.rows import hub_split, read_rows
from openr1.data.weight_files import check_weights
from openr1.inputs.reward_tasks import default_task, unknown_task
from reward_server.tasks import BUILT_IN

ROWS = 10_000
"""Rows of a dataset that are looked at: a second's worth."""


def check_files(config: TrainConfig | SftConfig | DpoConfig) -> None:
    """Check model folders, the first rows of datasets and, where openr1 starts the server, the tasks of their rows.

    Datasets of a hub are left for later.

    Raises:
        MissingError: A file is missing or cut off.
        ConfigError: A row is malformed or has a task that nobody grades, or a model's files do not fit together.
    """
    check_weights(config.model.path)
    if isinstance(config, SftConfig):
        for path in (config.data.train, config.data.held_out):
            if path is not None:
                _check_rows(path, example_schema(config.data.columns))
    elif isinstance(config, DpoConfig):
        if not config.data.train.is_dir():
            _check_rows(config.data.train, pair_schema(config.data.columns))
    else:
        for model in config.other_models.values():
            check_weights(model.path)
        _check_prompts(config)


def _check_prompts(config: TrainConfig) -> None:
    data, reward = config.data, config.reward
    sources = list(data.sources)
    if data.held_out is not None and config.debug.replay is None:
        sources.append(data.complete(SourceConfig(path=data.held_out)))
    default = default_task(reward)
    # Of a server that runs already, or that has tasks of its own, only the server knows which.
    known = BUILT_IN if (reward.url, reward.server_config, reward.module) == (None, None, None) else None
    for source in sources:
        schema = prompt_schema(source.model_copy(update={"task": source.task or default}))
        for location, task in _check_rows(source.path, schema):
            graded_by = reward.task or task
            if known is not None and graded_by not in known:
                raise unknown_task(location, graded_by, known)


def _check_rows(path: Path, schema: RowSchema) -> list[tuple[str, str]]:
    """Location of each row that was looked at, and its task."""
    if hub_split(path) is not None:
        return []
    return [(location, row.get("task", "")) for location, row in islice(read_rows(path, schema), ROWS)]
