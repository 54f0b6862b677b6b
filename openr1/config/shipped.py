"""What ships beside the code: example configs, the tiny model and sample rows, in a checkout and in an installation."""

from pathlib import Path
from typing import Any

from openr1.errors import MissingError

_PACKAGE = Path(__file__).resolve().parents[1]


def root_of(package: Path) -> Path:
    """The folder with `cli`, `data` and `scripts/configs`: `_shipped` in an installed package, else the checkout."""
    installed = package / "_shipped"
    return installed if installed.is_dir() else package.parent


ROOT = root_of(_PACKAGE)
"""Where shipped files are: the checkout, or `openr1/_shipped` where a wheel was installed."""


def config_names(root: Path = ROOT) -> list[str]:
    """Names of the shipped training configs, sorted: file names without `.yaml`."""
    names = (path.stem for path in (root / "scripts/configs").glob("*.yaml"))
    return sorted(name for name in names if not name.startswith("rewards_"))


def find_config(path: Path, root: Path = ROOT) -> Path:
    """The file that `--config` means: a path, or the bare name of a shipped config, with or without `.yaml`.

    A file at the path comes first. A path that begins with `scripts/configs/` is looked for in the installation, too,
    so that the commands of the documentation work outside a checkout.

    Raises:
        MissingError: There is no such file; the message lists the shipped names.
    """
    if path.exists() and not path.is_dir():
        return path
    folder = root / "scripts/configs"
    if path.parent in (Path(), Path("scripts/configs")):
        shipped = folder / f"{path.name.removesuffix('.yaml')}.yaml"
        if shipped.is_file():
            return shipped
    problem = "Is a directory" if path.is_dir() else "No such file or directory"
    raise MissingError(
        f"config {path}: {problem}; the shipped configs are {', '.join(config_names(root)) or 'missing'}"
    )


def resolve_paths(values: Any, config: Path, root: Path = ROOT) -> Any:
    """A shipped config's values, in which paths of shipped files work from any folder.

    A text that begins with `data/` or `scripts/` becomes an absolute path if the current folder has nothing there and
    the installation has: what a user downloads to `data/` is found where it is. Other configs are returned unchanged.

    Args:
        values: The parsed YAML, nested dictionaries and lists.
        config: The file that they were read from.
        root: Where shipped files are.
    """
    if config.resolve().parent != (root / "scripts/configs").resolve():
        return values
    return _resolved(values, root)


def _resolved(values: Any, root: Path) -> Any:
    if isinstance(values, dict):
        return {key: _resolved(value, root) for key, value in values.items()}
    if isinstance(values, list):
        return [_resolved(value, root) for value in values]
    is_shipped_path = isinstance(values, str) and values.startswith(("data/", "scripts/"))
    if is_shipped_path and not Path(values).exists() and (root / values).exists():
        return str(root / values)
    return values
