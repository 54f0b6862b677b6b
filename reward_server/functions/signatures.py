"""Which functions of a module are reward functions, and how they want to be called: their parameters tell."""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

KINDS = {
    "response": "one response",
    "responses": "all responses to one prompt",
    "completions": "TRL's signature, with a list for each column",
}
"""The parameter that makes a function a reward function, and what it gets there."""
COMMON = ("prompt", "label", "meta")
"""The other parameters of functions of `response` and `responses`; each is optional."""


class SignatureError(ValueError):
    """A reward function that cannot be called. The message is one line and begins with file:line."""


@dataclass(frozen=True)
class RewardFunction:
    """One reward function of a module."""

    name: str
    kind: str
    """One of `KINDS`."""
    summary: str
    """The first line of its docstring; may be empty."""


def reward_functions(module: ModuleType) -> list[RewardFunction]:
    """The reward functions that a module defines itself, in their order; those it imports, and private ones, are not.

    Raises:
        SignatureError: There is none, or one has parameters that nothing is known to pass for.
    """
    own = [
        (name, function)
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    ]
    found = [(name, function, kind) for name, function in own for kind in _kinds_of(function)]
    if not found:
        others = "; ".join(f"{name}{inspect.signature(function)}" for name, function in own) or "no public function"
        needed = ", ".join(f"`{kind}` ({what})" for kind, what in KINDS.items())
        raise SignatureError(
            f"{module.__file__}: no reward function: it needs a parameter {needed}; the file defines {others}"
        )
    for name, function, kind in found:
        _check(name, function, kind)
    return [RewardFunction(name, kind, _summary(function)) for name, function, kind in found]


def passed_names(function: Callable[..., Any], known: dict[str, Any]) -> dict[str, Any]:
    """Those of the known arguments that a function takes; all of them if it has `**kwargs`."""
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return known
    return {one.name: known[one.name] for one in parameters if one.name in known}


def place_of(function: Callable[..., Any]) -> str:
    """Where a function is defined: file:line."""
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _kinds_of(function: Callable[..., Any]) -> list[str]:
    return [kind for kind in KINDS if kind in inspect.signature(function).parameters][:1]


def _check(name: str, function: Callable[..., Any], kind: str) -> None:
    place = place_of(function)
    if inspect.iscoroutinefunction(function):
        raise SignatureError(
            f"{place}: {name} is async, and reward functions are called without an event loop: use def"
        )
    allowed = (kind, *COMMON)
    for one in inspect.signature(function).parameters.values():
        if one.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise SignatureError(f"{place}: {name}: arguments are passed by name, so remove the `/`")
        is_required = one.default is inspect.Parameter.empty and one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        is_required |= one.default is inspect.Parameter.empty and one.kind is inspect.Parameter.KEYWORD_ONLY
        if kind != "completions" and is_required and one.name not in allowed:
            close = difflib.get_close_matches(one.name, allowed, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it can take {', '.join(allowed)}"
            raise SignatureError(f"{place}: {name} has a parameter {one.name!r} that nothing is passed for: {hint}")


def _summary(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]
