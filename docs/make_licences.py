"""Writes docs/licences.md: the licence that each direct dependency of openr1 states.

Run in the environment of `make setup`: `.venv/bin/python docs/make_licences.py`.
"""

import re
import tomllib
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/licences.md"
PIN = re.compile(r"(?:# no-deps: )?([A-Za-z0-9._-]+)==([^\s;]+)")
BY_HAND = {
    # Its metadata name none; this is its file LICENSE.
    "openrlhf": "Apache-2.0",
    # `make setup` does not install it.
    "flash-attn": "BSD-3-Clause",
}
LONGEST = 120
"""Characters. A longer field holds the text of a licence instead of its name."""

INTRODUCTION = """\
# Licences of dependencies

openr1 is under [Apache-2.0](../LICENSE). It depends directly on the packages below, which it installs and does not
contain. Each row is what the package itself states. What these packages depend on in turn is not listed.

pebble is under the LGPL: openr1 imports it unchanged. Whoever distributes both together has to let users replace it.

Written by `.venv/bin/python docs/make_licences.py`.
"""


def pinned() -> dict[str, list[tuple[str, str]]]:
    """Name and version of each direct dependency, by what it is for."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = {
        "To run": (ROOT / "requirements.txt").read_text().splitlines(),
        **{f"Extra `{name}`": pins for name, pins in extras.items()},
        "To develop": (ROOT / "requirements-dev.txt").read_text().splitlines(),
    }
    found = {purpose: [PIN.match(line) for line in some] for purpose, some in lines.items()}
    return {purpose: [(pin[1], pin[2]) for pin in some if pin] for purpose, some in found.items()}


def licence(name: str) -> str:
    """What a package states: an SPDX expression, else the field License, else its classifiers."""
    if name in BY_HAND:
        return BY_HAND[name]
    stated = _metadata(name)
    for field in ("License-Expression", "License"):
        text = stated[field].strip() if field in stated else ""
        if text and "\n" not in text and len(text) <= LONGEST:
            return text
    classifiers = stated.get_all("Classifier") or []
    names = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License :: OSI Approved :: ")]
    assert names, f"{name} states no licence: look it up, and add it to BY_HAND"
    return ", ".join(names)


def _metadata(name: str) -> PackageMetadata:
    try:
        return metadata(name)
    except PackageNotFoundError:
        return metadata(f"{name}-cpu")  # vllm on a machine without a GPU


def render() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for purpose, pins in pinned().items():
        rows = [f"| {name} | {version} | {licence(name)} |" for name, version in pins]
        parts.append("\n".join([f"## {purpose}", "", "| package | version | licence |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
