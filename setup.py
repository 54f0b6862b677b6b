"""Puts what a checkout has beside the package into the wheel; everything else about the package is in pyproject.toml.

The command line, the evaluation, the data tools, the shipped configs, the tiny model and the sample rows go to
`openr1/_shipped/`, with the layout of a checkout. There they claim no import names (docs/decisions/0009), and
`openr1.config.shipped` finds them. An editable installation uses the checkout itself.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = {
    "cli": ["**/*.py"],
    "eval": ["**/*.py"],
    "data": ["*.py", "generate/**/*.py", "prepare/**/*.py", "models/**/*", "samples/**/*"],
    "scripts/configs": ["*.yaml"],
}
"""Folders of the checkout, and the files of each that ship. `data` also holds what users download: that stays out."""


def shipped_files() -> list[Path]:
    """Paths relative to the checkout, sorted."""
    found = {path for folder, patterns in SHIPPED.items() for one in patterns for path in (ROOT / folder).glob(one)}
    return sorted(path.relative_to(ROOT) for path in found if path.is_file() and "__pycache__" not in path.parts)


class BuildWithShipped(build_py):
    """`build_py`, and a fresh `openr1/_shipped`."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "openr1" / "_shipped"
        shutil.rmtree(target, ignore_errors=True)
        for path in shipped_files():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, target / path)


setup(cmdclass={"build_py": BuildWithShipped})
