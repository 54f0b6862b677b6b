"""Runs in workers: calls a reward function, and makes a result of what it returns. Its errors are failures, never 0."""

import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from types import ModuleType
from typing import Any

from reward_server.functions.module import load
from reward_server.functions.signatures import passed_names, place_of
from reward_server.import_path import ImportPathError
from reward_server.printable import printable
from reward_server.result import GradingResult
from reward_server.tasks.worker_task import Sample
from reward_server.workers import without_cpu_limit

LABEL_COLUMNS = ("label", "answer", "solution")
"""Columns under which a function of TRL's signature gets the label, unless the rows have such a column themselves."""
MAX_MESSAGE_CHARS = 1000


class _Unusable(Exception):
    """What a function returned is no reward."""


def grade_with(path: str, name: str, kind: str, samples: Sequence[Sample]) -> list[GradingResult]:
    """Grade samples by a function of a module.

    Args:
        path: Of the module.
        name: Of the function.
        kind: One of `signatures.KINDS`. For `response` there is one sample, for the others any number.
        samples: All of one prompt, unless the kind is `response`.
    """
    try:
        with without_cpu_limit():
            module = load(path)
    except ImportPathError as error:
        return [_failure(str(error))] * len(samples)
    function = vars(module)[name]
    try:
        values = _call(function, kind, samples)
    # Also SystemExit and KeyboardInterrupt: nothing that a function does may end the worker without a word.
    except BaseException as error:  # noqa: BLE001
        sys.stderr.write(printable(traceback.format_exc()))
        what = str(error) if isinstance(error, _Unusable) else f"{type(error).__name__}: {error}"
        return [_failure(f"{name}: {what} ({_place(error, module, function)})")] * len(samples)
    return [_result(name, value, place_of(function)) for value in values]


def _call(function: Callable[..., Any], kind: str, samples: Sequence[Sample]) -> Sequence[Any]:
    """What the function returns for each sample."""
    first = samples[0]
    common = {"prompt": first.prompt, "label": first.label, "meta": dict(first.meta)}
    texts = [sample.text for sample in samples]
    if kind == "response":
        return [function(**passed_names(function, common | {"response": first.text}))]
    arguments = common | {"responses": texts} if kind == "responses" else _columns(samples, texts)
    values = function(**passed_names(function, arguments))
    if not isinstance(values, list | tuple) or len(values) != len(samples):
        found = (
            f"{len(values)} values" if isinstance(values, list | tuple) else f"a value of type {type(values).__name__}"
        )
        raise _Unusable(f"it returned {found} for {len(samples)} responses, and must return a list with one for each")
    return values


def _columns(samples: Sequence[Sample], texts: list[str]) -> dict[str, list[Any]]:
    """The arguments of TRL's signature: a list per column, with one entry per sample."""
    names = {name for sample in samples for name in sample.meta}
    columns: dict[str, list[Any]] = {name: [sample.label for sample in samples] for name in LABEL_COLUMNS}
    columns |= {name: [sample.meta.get(name) for sample in samples] for name in sorted(names)}
    return columns | {"prompts": [sample.prompt for sample in samples], "completions": list(texts)}


def _result(name: str, value: Any, place: str) -> GradingResult:
    try:
        components = _components(name, value)
        reward = math.fsum(components.values())
        if not math.isfinite(reward):
            raise _Unusable(f"the sum of what it returned is {reward}")
        score = components.get("accuracy", min(1.0, max(0.0, reward)))
        if not 0 <= score <= 1:
            raise _Unusable(f"it returned {score:g} for `accuracy`, which must be in [0, 1]")
    except _Unusable as error:
        return _failure(f"{name}: {error} ({place})")
    return GradingResult("correct" if score == 1 else "wrong", reward, score, components)


def _components(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {name: _number(value)}
    if not value or not all(isinstance(key, str) for key in value):
        raise _Unusable(f"it returned {value!r:.100}, and a dict must have names of components as keys")
    return {key: _number(entry) for key, entry in value.items()}


def _number(value: Any) -> float:
    if not isinstance(value, Real):
        raise _Unusable(
            f"it returned {value!r:.100} of type {type(value).__name__}; a reward is a number or a dict of them"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Unusable(f"it returned {value!r:.100}; a reward must be finite")
    return number


def _failure(message: str) -> GradingResult:
    return GradingResult("error", error=f"grader_error: {' '.join(message.split())[:MAX_MESSAGE_CHARS]}")


def _place(error: BaseException, module: ModuleType, function: Callable[..., Any]) -> str:
    """The innermost line of the user's file that an error passed through; without one, where the function begins."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == module.__file__]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else place_of(function)
