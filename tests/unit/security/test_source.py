"""What no line of our source may do: run or unpickle what it read, run a model's own code, or start a shell."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from reward_server.strict_yaml import load_yaml
from tests.running import ROOT

SOURCES = [path for name in ("openr1", "cli", "reward_server", "eval", "data") for path in (ROOT / name).rglob("*.py")]

RUNS_TEXT = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
UNPICKLES = {
    f"{module}.{name}"
    for module in ("pickle", "_pickle", "cloudpickle", "dill", "marshal", "jsonpickle", "joblib", "shelve")
    for name in ("load", "loads", "Unpickler", "open", "decode")
} | {"pandas.read_pickle", "torch.storage._load_from_bytes", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"}
READS_SAFELY = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "np.load": ("allow_pickle", False),
}
"""Calls that need a keyword with this value, whatever the library's default is."""

ALLOWED = {
    # Its loader derives from SafeLoader: `test_yaml_makes_no_objects`.
    ("reward_server/strict_yaml.py", "yaml.load"),
}


def faults(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of each call that is not allowed."""
    tree = ast.parse(text)
    names = _imported(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = _dotted(node.func, names)
        values = {one.arg: one.value.value for one in node.keywords if isinstance(one.value, ast.Constant)}
        if name in RUNS_TEXT | UNPICKLES | {"yaml.load"}:
            yield node.lineno, name
        if name in READS_SAFELY:
            keyword, value = READS_SAFELY[name]
            if values.get(keyword) is not value:
                yield node.lineno, f"{name} without {keyword}={value}"
        if any(one.arg == "shell" for one in node.keywords) and values.get("shell") is not False:
            yield node.lineno, "shell"


def _imported(tree: ast.Module) -> dict[str, str]:
    """Names that imports bind, with what they stand for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {one.asname: one.name for one in node.names if one.asname}
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return names


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`a.b.c` of a call's function, by its full name; methods of other values have no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        value = _dotted(node.value, names)
        return f"{value}.{node.attr}" if value else ""
    return ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_or_unpickles_what_it_read(path: Path) -> None:
    """Catches a call that lets a file, a message or a model run code."""
    name = str(path.relative_to(ROOT))
    found = [(line, fault) for line, fault in faults(path.read_text()) if (name, fault) not in ALLOWED]
    assert found == []


def test_exceptions_are_needed() -> None:
    """Catches an exception for what is no longer there, under which something new could hide."""
    unused = {
        (name, call) for name, call in ALLOWED if call not in {one for _, one in faults((ROOT / name).read_text())}
    }
    assert unused == set()


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)",
        "exec(text)",
        "import pickle\npickle.load(file)",
        "import pickle as p\np.loads(data)",
        "from pickle import loads as read\nread(data)",
        "def f():\n    import pickle\n    return pickle.Unpickler(file).load()",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=safe)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import os\nos.system(text)",
    ],
)
def test_calls_are_found(code: str) -> None:
    """Catches a search that finds nothing, be it under another name, and with which the test above would pass."""
    assert len(list(faults(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "import torch\ntorch.load(path, weights_only=True)",
        "import yaml\nyaml.safe_load(text)",
        "import re\nre.compile(text)",
        "import json\njson.load(file)",
        "import pickle\npickle.dumps(value)",
    ],
)
def test_what_is_harmless_passes(code: str) -> None:
    """Catches a search that would have to be switched off."""
    assert list(faults(code)) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_models_never_run_their_own_code(path: Path) -> None:
    """Catches `trust_remote_code` that is anything but False, and a loader that leaves the choice to a library."""
    text = path.read_text()
    assert re.findall(r"trust_remote_code(?!=False\b).*", text) == []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and re.match(r"(Auto\w+\.from_|LLM$)", _dotted(node.func, {})):
            assert "trust_remote_code" in {one.arg for one in node.keywords}, f"line {node.lineno}"


def test_yaml_makes_no_objects() -> None:
    """Catches a loader with which a config could call a function: here a harmless one."""
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        load_yaml("!!python/object/apply:os.getcwd []")
