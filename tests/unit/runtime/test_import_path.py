"""Functions named by import path in a configuration."""

from pathlib import Path

import pytest

from openr1.errors import ConfigError
from openr1.runtime.import_path import absolute, import_function


def test_paths_that_mean_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file that an actor, whose folder is another one, looks for elsewhere; and a module made a path."""
    monkeypatch.chdir(tmp_path)
    assert absolute("mine/loss.py:my_loss") == f"{tmp_path}/mine/loss.py:my_loss"
    assert absolute("/some/where/loss.py:my_loss") == "/some/where/loss.py:my_loss"
    assert absolute("package.module:name") == "package.module:name"


def test_functions_of_files_and_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches another function than the named one, and a file that is run again at every call."""
    (tmp_path / "mine.py").write_text(
        "def double(value):\n    return 2 * value\n\ndef triple(value):\n    return 3 * value\n"
    )
    monkeypatch.chdir(tmp_path)
    double, triple = import_function("mine.py:double"), import_function("mine.py:triple")
    assert (double(5), triple(5)) == (10, 15)
    assert import_function("math:floor")(2.5) == 2
    assert import_function(f"{tmp_path}/mine.py:double") is double


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("mine.py:absent", "no attribute 'absent'"),
        ("absent.py:double", "absent.py"),
        ("no_such_package:double", "no_such_package"),
        ("mine.py:NUMBER", "is a int; it must be a function or a class"),
        ("broken.py:double", "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_called_is_a_config_error(
    path: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback, or an error at the first update, for a mistyped import path."""
    (tmp_path / "mine.py").write_text("NUMBER = 1\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        import_function(path)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
