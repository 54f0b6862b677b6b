"""Faults on purpose, for tests of recovery: OPENR1_FAULT=role/point:action:nth; nothing happens without it.

`engine_1/group:kill:3` kills engine 1 when it is about to hand out its third group. Several faults are separated by
commas. Roles are those of the log files (`engine_0`, `policy_1`, `reference_0`), and `driver` for the run itself;
`engine` without a number means every engine. The nth passing counts in each process. A process that replaces one that
died passes all points unharmed, unless a `+` follows the number: `3+` means from the third passing on, in every
process.
"""

import errno
import os
import re
import signal
import time
from dataclasses import dataclass

from openr1.errors import ConfigError

VARIABLE = "OPENR1_FAULT"

_TRAINING = {
    "forward": "before the forward pass of a micro-batch",
    "backward": "before the backward pass of a micro-batch",
    "optimizer": "before the optimizer's step",
    "save": "before training state is copied for a checkpoint",
    "write": "on the thread that writes files, before each of a checkpoint",
}

POINTS = {
    "engine": {
        "group": "before a finished group is handed out",
        "load": "before a push loads weights",
        "finish": "before pushed weights are put into service",
    },
    "policy": _TRAINING | {"push": "before a push of the weights"},
    "critic": _TRAINING,
    "reference": {"log_probs": "before the log-probs of a part of a step are computed"},
    "driver": {
        "experience": "before prompts are sampled",
        "update": "before the policy's update",
        "push": "before new weights are pushed",
        "record": "before a step's metrics are recorded",
        "publish": "when the files of a checkpoint are complete, before it gets its name",
        "published": "when a checkpoint has its name, before `latest` names it",
    },
}
"""Where faults can be injected."""

DELAY_SECONDS = 3.0

ACTIONS = {
    "kill": "the process ends at once (SIGKILL)",
    "stop": "the process stops (SIGSTOP)",
    "term": "the process gets SIGTERM",
    "raise": "an error that nothing expects (RuntimeError)",
    "full": "an error as of a full disk (OSError, ENOSPC)",
    "delay": f"the process sleeps {DELAY_SECONDS:g} s",
    "short": "at `group` only: the group lacks its last response",
}
"""What can happen there."""

_FAULT = re.compile(r"([a-z]+)(?:_(\d+))?/([a-z_]+):([a-z]+):([1-9]\d*)(\+?)")


@dataclass
class Fault:
    """One fault of `OPENR1_FAULT`."""

    role: str
    number: str | None
    point: str
    action: str
    nth: int
    repeats: bool
    passed: int = 0
    """How often this process has passed the point."""


def parse_faults(text: str) -> list[Fault]:
    """Faults of a value of `OPENR1_FAULT`.

    Raises:
        ConfigError: A fault, role, point or action that does not exist.
    """
    return [_parse(part.strip()) for part in text.split(",")] if text.strip() else []


def _parse(text: str) -> Fault:
    match = _FAULT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{VARIABLE}: {text!r} is not of the form role/point:action:nth, as engine_0/group:kill:3")
    role, number, point, action, nth, repeats = match.groups()
    for kind, name, known in (
        ("role", role, sorted(POINTS)),
        ("point", point, list(POINTS.get(role, {}))),
        ("action", action, list(ACTIONS)),
    ):
        if name not in known:
            raise ConfigError(f"{VARIABLE}: {text!r} has an unknown {kind} {name!r}; there are {', '.join(known)}")
    if action == "short" and point != "group":
        raise ConfigError(f"{VARIABLE}: {text!r}: short is possible at engine/group only")
    return Fault(role, number, point, action, int(nth), repeats == "+")


class Faults:
    """The faults of this process."""

    def __init__(self) -> None:
        """None: see `prepare`."""
        self._faults: list[Fault] = []

    def prepare(self, name: str, is_replacement: bool = False) -> None:
        """Take from the environment what concerns this process.

        Args:
            name: Role and number, such as "engine_0"; "driver" has no number.
            is_replacement: Whether the process replaces one that died.

        Raises:
            ConfigError: The variable cannot be read.
        """
        role, _, number = name.partition("_")
        self._faults = [
            fault
            for fault in parse_faults(os.environ.get(VARIABLE, ""))
            if fault.role == role and fault.number in (None, number) and (fault.repeats or not is_replacement)
        ]

    def at(self, point: str) -> bool:
        """Pass a point. Returns whether the caller shall cut its answer short; any other fault happens here."""
        is_short = False
        for fault in self._faults:
            if fault.point == point:
                fault.passed += 1
                if fault.passed == fault.nth or (fault.repeats and fault.passed > fault.nth):
                    is_short |= fault.action == "short"
                    _happen(fault)
        return is_short


def _happen(fault: Fault) -> None:
    where = f"{VARIABLE}: {fault.action} at {fault.role}/{fault.point}"
    match fault.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
        case "raise":
            raise RuntimeError(where)
        case "full":
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({where})")
        case "delay":
            time.sleep(DELAY_SECONDS)


FAULTS = Faults()
"""Those of this process, which is what a fault hits."""
