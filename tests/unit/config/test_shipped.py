"""Shipped configs by name, and their paths from any folder, with the layouts of a checkout and of a wheel."""

from pathlib import Path

import pytest

from openr1.config.load import load_config
from openr1.config.shipped import ROOT, config_names, find_config, resolve_paths, root_of
from openr1.config.train import TrainConfig
from openr1.errors import MissingError
from tests.running import ROOT as CHECKOUT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An installation root with two training configs, one of a reward server, a model folder and a data file."""
    root = tmp_path / "root"
    for name in ("b_second", "a_first", "rewards_x"):
        (root / "scripts/configs").mkdir(parents=True, exist_ok=True)
        (root / f"scripts/configs/{name}.yaml").write_text("run: {name: shipped}\n")
    (root / "data/models/tiny").mkdir(parents=True)
    (root / "data/rows.jsonl").write_text("{}\n")
    return root


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# Where shipped files are


def test_root_of_a_checkout_and_of_a_wheel(tmp_path: Path) -> None:
    """Catches a package in site-packages that takes site-packages for a checkout, and the reverse."""
    (tmp_path / "checkout/openr1").mkdir(parents=True)
    (tmp_path / "site/openr1/_shipped").mkdir(parents=True)
    assert root_of(tmp_path / "checkout/openr1") == tmp_path / "checkout"
    assert root_of(tmp_path / "site/openr1") == tmp_path / "site/openr1/_shipped"


def test_root_of_this_checkout() -> None:
    """Catches a root that is a folder too high or too low."""
    assert ROOT == CHECKOUT


# Names


def test_names_are_those_of_training_configs(root: Path) -> None:
    """Catches a list that offers a reward server's config to `train`, or has no fixed order."""
    assert config_names(root) == ["a_first", "b_second"]


@pytest.mark.parametrize("word", ["a_first", "a_first.yaml", "scripts/configs/a_first.yaml"])
def test_a_shipped_config_is_found_from_elsewhere(root: Path, elsewhere: Path, word: str) -> None:
    """Catches a command of the documentation that works in a checkout alone."""
    assert find_config(Path(word), root) == root / "scripts/configs/a_first.yaml"


def test_a_file_here_comes_before_a_shipped_one(root: Path, elsewhere: Path) -> None:
    """Catches the user's own file that is passed over for a shipped one of the same name."""
    (elsewhere / "a_first.yaml").write_text("run: {name: own}\n")
    assert find_config(Path("a_first.yaml"), root) == Path("a_first.yaml")


def test_a_folder_here_does_not_hide_a_shipped_config(root: Path, elsewhere: Path) -> None:
    """Catches a run folder named like its config that makes the name useless."""
    (elsewhere / "a_first").mkdir()
    assert find_config(Path("a_first"), root) == root / "scripts/configs/a_first.yaml"


@pytest.mark.parametrize("word", ["a_frist", "configs/a_first.yaml", "/a_first", "../a_first"])
def test_an_unknown_name_lists_the_shipped_ones(root: Path, elsewhere: Path, word: str) -> None:
    """Catches a typo whose message leaves the user to search for names, and a path taken for a name."""
    with pytest.raises(MissingError) as caught:
        find_config(Path(word), root)
    message = str(caught.value)
    assert message == f"config {word}: No such file or directory; the shipped configs are a_first, b_second"


def test_a_folder_is_no_config(root: Path, elsewhere: Path) -> None:
    """Catches a traceback of reading a folder, and a message that says the folder does not exist."""
    with pytest.raises(MissingError, match=r"config \.: Is a directory; the shipped configs are a_first"):
        find_config(Path("."), root)


# Paths


def test_paths_of_shipped_files_become_absolute(root: Path, elsewhere: Path) -> None:
    """Catches a shipped config that finds its model in a checkout alone, at any depth of the config."""
    config = root / "scripts/configs/a_first.yaml"
    values = {"model": {"path": "data/models/tiny"}, "several": ["data/rows.jsonl", 3], "text": "data/ is a folder"}
    assert resolve_paths(values, config, root) == {
        "model": {"path": f"{root}/data/models/tiny"},
        "several": [f"{root}/data/rows.jsonl", 3],
        "text": "data/ is a folder",
    }


@pytest.mark.parametrize("path", ["data/math/train.jsonl", "runs/a/model", "models/x", "/data/rows.jsonl"])
def test_paths_of_other_files_stay(root: Path, elsewhere: Path, path: str) -> None:
    """Catches downloads that are looked for in site-packages, where `openr1 data` does not put them."""
    config = root / "scripts/configs/a_first.yaml"
    assert resolve_paths({"data": {"train": path}}, config, root) == {"data": {"train": path}}


def test_a_file_here_is_used(root: Path, elsewhere: Path) -> None:
    """Catches rows in the current folder that are silently replaced by the shipped ones."""
    (elsewhere / "data").mkdir()
    (elsewhere / "data/rows.jsonl").write_text("{}\n")
    config = root / "scripts/configs/a_first.yaml"
    assert resolve_paths(["data/rows.jsonl"], config, root) == ["data/rows.jsonl"]


def test_paths_of_a_user_s_config_stay(root: Path, elsewhere: Path) -> None:
    """Catches a user's own relative path that is taken for a shipped file when the user's is missing."""
    (elsewhere / "own.yaml").write_text("")
    assert resolve_paths(["data/rows.jsonl"], Path("own.yaml"), root) == ["data/rows.jsonl"]


# With load_config


def test_loading_a_shipped_config_by_name(elsewhere: Path) -> None:
    """Catches a name that is found, but whose model and data are not."""
    config = load_config(TrainConfig, Path("grpo_countdown_tiny"), [])
    assert config.model.path == CHECKOUT / "data/models/tiny_base"
    assert config.data.train.is_file()
    assert config.run.folder == Path("runs/grpo_countdown_tiny")


def test_overrides_are_relative_to_the_current_folder(elsewhere: Path) -> None:
    """Catches a path on the command line that is resolved against the installation."""
    words = ["--model.path", "data/models/tiny_base"]
    assert load_config(TrainConfig, Path("grpo_countdown_tiny"), words).model.path == Path("data/models/tiny_base")


def test_in_the_checkout_paths_stay_relative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches recorded configs that name a folder of this machine where a relative path says the same."""
    monkeypatch.chdir(CHECKOUT)
    config = load_config(TrainConfig, Path("grpo_countdown_tiny"), [])
    assert config.model.path == Path("data/models/tiny_base")
