"""The wheel, built and installed into an empty folder: it has what ships, and works outside a checkout."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from tests.running import ROOT

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the files that git knows or would add: no build folder of old is in the way."""
    source = tmp_path_factory.mktemp("source")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    # What a user downloads or leaves in `data` must not ship.
    (source / "data/math").mkdir()
    (source / "data/math/train.jsonl").write_text("{}\n")
    output = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(output)]
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(source)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (path,) = output.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel alone, as in site-packages."""
    target = tmp_path_factory.mktemp("target")
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], timeout=120, check=True)
    return target


@pytest.fixture
def openr1(installed: Path, tmp_path: Path) -> Run:
    """`openr1 WORDS`, run from an empty folder with the installed package and no checkout on the import path."""

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        # -S leaves out the .pth files of this environment, of which one leads to the checkout.
        paths = os.pathsep.join([str(installed), *site.getsitepackages()])
        command = [sys.executable, "-S", str(installed / "bin/openr1"), *words]
        environment = os.environ | {"PYTHONPATH": paths}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_import_names(wheel: Path) -> None:
    """Catches a wheel that claims names such as `data` and `eval`, which other packages use, in site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"openr1", "reward_server"}


def test_shipped_files(wheel: Path) -> None:
    """Catches a module, config, model or sample that is left out, and a user's download that is put in."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("openr1/_shipped/")}
        assert "openr1/py.typed" in archive.namelist()
    expected = [
        *(ROOT / "scripts/configs").glob("*.yaml"),
        *(path for name in ("cli", "eval", "data") for path in (ROOT / name).rglob("*.py")),
        *(path for name in ("models", "samples") for path in (ROOT / "data" / name).rglob("*") if path.is_file()),
    ]
    assert names == {f"openr1/_shipped/{path.relative_to(ROOT)}" for path in expected}


def test_metadata_requires_no_development_package(wheel: Path) -> None:
    """Catches a user who gets pytest and ruff, and a pin that is in the metadata twice or not at all."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    required = [re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in metadata.get_all("Requires-Dist", [])]
    pin = re.compile(r"^(?:# no-deps: )?([\w.-]+)==", re.MULTILINE)
    development = {one.lower() for one in pin.findall((ROOT / "requirements-dev.txt").read_text())}
    runtime = {one.lower() for one in pin.findall((ROOT / "requirements.txt").read_text())}
    assert "pytest" in development
    assert "torch" in runtime
    assert development.isdisjoint(required)
    assert runtime <= set(required)
    assert len(required) == len(set(required))


def test_a_shipped_config_runs_its_checks_from_an_empty_folder(openr1: Run, installed: Path, tmp_path: Path) -> None:
    """Catches a config, model or dataset that is found in a checkout alone."""
    done = openr1("train", "--config", "grpo_countdown_tiny", "--dry-run")
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    for path in (config["model"]["path"], config["data"]["train"], config["data"]["held_out"]):
        assert Path(path).exists()
        assert Path(path).is_relative_to(installed)
    assert (Path(config["model"]["path"]) / "model.safetensors").is_file()
    assert list(tmp_path.iterdir()) == []


def test_unknown_config_ends_with_one_line(openr1: Run) -> None:
    """Catches a traceback, or a message without the shipped names, where there is no checkout to look into."""
    done = openr1("train", "--config", "grpo_contdown", "--dry-run")
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert "grpo_countdown_tiny, grpo_game24" in line


def test_other_commands_find_their_modules(openr1: Run, tmp_path: Path) -> None:
    """Catches a command of `cli`, `eval` or `data` whose imports lead out of the wheel."""
    sizes = ["--train", "8", "--held-out", "4", "--counts", "3", "--largest", "15"]
    done = openr1("generate", "countdown", "problems", "--output", "problems", *sizes)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "problems/train.jsonl").read_text().splitlines()) == 8
    for words in (["eval", "--help"], ["compare", "--help"], ["data", "--help"], ["serve", "--help"]):
        assert openr1(*words).returncode == 0, words
    done = openr1("score", "--task", "math", "--label", "2", "--response", r"\boxed{2}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reward"] == 1.0
