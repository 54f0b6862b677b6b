"""A configuration from YAML and dotted overrides. Unknown keys are refused with the nearest known one."""

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from openr1.config.no_secrets import HINT, SECRET_NAME, refuse_secrets
from openr1.config.overrides import parse_overrides, set_dotted
from openr1.config.shipped import find_config, resolve_paths
from openr1.errors import ConfigError, MissingError
from reward_server.strict_yaml import load_yaml

AnyConfig = TypeVar("AnyConfig", bound=BaseModel)


def load_config(kind: type[AnyConfig], path: Path, overrides: list[str]) -> AnyConfig:
    """Read a YAML file, apply dotted overrides and validate.

    Args:
        kind: TrainConfig, SftConfig or DpoConfig.
        path: The YAML file, or the name of a shipped config such as `grpo_countdown_tiny`.
        overrides: Command-line words, `--rollout.temperature 0.9` or `--rollout.temperature=0.9`.

    Raises:
        MissingError: The file does not exist.
        ConfigError: It is not YAML, a value is secret, or a key or value cannot be used; the message says which, and
            what is near.
    """
    path = find_config(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingError(f"config {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config {path}: not UTF-8 at byte {error.start}") from error
    try:
        values = load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"config {path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config {path}: expected sections such as `model:`, found {type(values).__name__}")
    values = resolve_paths(values, path)
    for key, value in parse_overrides(kind, overrides):
        set_dotted(values, key, value)
    refuse_secrets(values, where=str(path))
    return validate(kind, values, where=str(path))


def validate(kind: type[AnyConfig], values: dict[str, Any], where: str) -> AnyConfig:
    """Validate nested values; `where` names their origin in messages."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"config {where}: {_describe(kind, error)}") from error


def _describe(kind: type[BaseModel], error: ValidationError) -> str:
    """One line for all findings, each with its dotted key and, for an unknown key, the nearest known one."""
    known = [*kind.model_fields, *(key for key, _ in describe_fields(kind))]
    findings = []
    for finding in error.errors():
        key = ".".join(str(part) for part in finding["loc"])
        if finding["type"] == "extra_forbidden":
            # Of keys with one name in several sections, the first is meant most often.
            last, name = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}, key.rsplit(".", 1)[-1]
            near = [last[name]] if name in last else difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            near = near or [last[name] for name in difflib.get_close_matches(name, last, n=1)]
            advice = HINT if SECRET_NAME.search(key) else f"did you mean {near[0]}?" if near else ""
            findings.append(f"unknown key {key}" + (f", {advice}" if advice else ""))
        elif finding["type"] == "missing":
            findings.append(f"{key} is missing")
        else:
            findings.append(f"{key} is {finding['input']!r}: {finding['msg']}")
    return "; ".join(findings)


def describe_fields(kind: type[BaseModel], prefix: str = "") -> list[tuple[str, str]]:
    """All dotted keys of a configuration with their descriptions, in order."""
    rows = []
    for name, field in kind.model_fields.items():
        section = section_of(field.annotation)
        if section is not field.annotation:
            rows.append((f"{prefix}{name}", field.description or ""))
        if section is not None:
            rows += describe_fields(section, f"{prefix}{name}.")
    return rows


def flatten(config: BaseModel) -> dict[str, Any]:
    """A configuration as dotted keys with JSON values, at any depth."""

    def flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        rows: dict[str, Any] = {}
        for key, value in values.items():
            rows |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        return rows

    return flat(config.model_dump(mode="json"), "")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field is, or may be; None for a plain value."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def to_yaml(config: BaseModel) -> str:
    """The resolved configuration, as a file that `load_config` reads."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
