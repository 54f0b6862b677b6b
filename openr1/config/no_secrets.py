"""Refuses secrets in a configuration: it is written into the run folder and shown by loggers, command lines by `ps`."""

import os
import re
from collections.abc import Iterator
from typing import Any

from openr1.errors import ConfigError

SECRET_NAME = re.compile(r"(?:^|[._-])(?:api_?key|key|token|secret|password|passwd)$", re.IGNORECASE)
"""Names of settings and environment variables that hold secrets."""
_KEY = re.compile(
    r"\b(?:hf_|sk-|gh[opsu]_|github_pat_|glpat-|wandb_v1_|AKIA|xox[abp]-)(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{16,}"
)
"""Keys of services that mark them. They have digits, words such as sk-learn have none."""
_PASSWORD = re.compile(r"://[^/\s@]+@")
_SHORTEST = 8
"""Characters. Shorter values of variables may be part of a text by chance."""

HINT = "secrets come from the environment, such as WANDB_API_KEY (docs/tracking.md) and OPENR1_REWARD_TOKEN"


def refuse_secrets(values: dict[str, Any], where: str) -> None:
    """Check all texts of nested values; `where` names their origin.

    Raises:
        ConfigError: A text holds the key of a service, a password in a URL, or the value of an environment variable
            whose name says that it is secret. The message does not repeat it.
    """
    known = [value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= _SHORTEST]
    for key, text in _texts(values, ""):
        if _KEY.search(text) or _PASSWORD.search(text) or any(value in text for value in known):
            raise ConfigError(f"config {where}: {key} holds a key or password, which everybody could read; {HINT}")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """All texts below a value, with their dotted keys."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
