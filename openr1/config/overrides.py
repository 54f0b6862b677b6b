"""Dotted overrides on the command line: `--section.key value`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from openr1.errors import ConfigError
from reward_server.strict_yaml import load_yaml


def parse_overrides(kind: type[BaseModel], words: list[str]) -> list[tuple[str, Any]]:
    """Split `--a.b value` and `--a.b=value` into (dotted key, value).

    A value is YAML, unless the key takes text or a path: these are taken as they are, since `#` or `: ` in a prompt or
    a folder's name would mean something in YAML. Of such keys, `null` is still none where the key may be null, and so
    is an empty text; where the key also takes a list or mapping, `[..]` and `{..}` are YAML.

    Args:
        kind: The configuration, which tells the types. Values of unknown keys are YAML; they are refused later.
        words: Of the command line.

    Raises:
        ConfigError: A word is no override, has no value, or is not YAML where it must be.
    """
    pairs = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not key:
            raise ConfigError(f"unexpected argument {word!r}; overrides are written --section.key value")
        if not equals:
            if not rest:
                raise ConfigError(f"override --{key} has no value")
            text = rest.pop(0)
        pairs.append((key, _value(key, text, list(_types(_annotation(kind, key.split(".")))))))
    return pairs


def set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c` in nested dictionaries, in place.

    Raises:
        ConfigError: `a` or `a.b` is there and is no section.
    """
    *sections, last = key.split(".")
    for section in sections:
        inner = {} if values.get(section) is None else values[section]
        if not isinstance(inner, dict):
            raise ConfigError(f"override --{key}: {section!r} is not a section")
        values[section] = inner
        values = inner
    values[last] = value


def _value(key: str, text: str, types: list[Any]) -> Any:
    takes_text = any(one in (str, Path) or get_origin(one) is Literal for one in types)
    takes_structure = any(get_origin(one) in (list, dict, tuple) for one in types)
    if takes_text and not (takes_structure and text.startswith(("[", "{"))):
        return None if text in ("null", "") and type(None) in types else text
    try:
        return load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"override --{key}: {text!r} is not a YAML value") from error


def _annotation(annotation: Any, path: list[str]) -> Any:
    """The type of a dotted key below a section or mapping; None if there is no such key."""
    for name in path:
        below = None
        for one in _types(annotation):
            if isinstance(one, type) and issubclass(one, BaseModel) and name in one.model_fields:
                below = one.model_fields[name].annotation
            elif get_origin(one) is dict:
                below = get_args(one)[1]
        annotation = below
    return annotation


def _types(annotation: Any) -> Iterator[Any]:
    """The types of a union, without annotations and names."""
    if get_origin(annotation) is Annotated:
        yield from _types(get_args(annotation)[0])
    elif get_origin(annotation) in (list, dict, tuple, Literal) or not get_args(annotation):
        yield annotation
    else:
        for one in get_args(annotation):
            yield from _types(one)
