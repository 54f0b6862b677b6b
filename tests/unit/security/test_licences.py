"""docs/licences.md lists every direct dependency."""

import re
import tomllib

from tests.running import ROOT


def test_every_direct_dependency_is_listed() -> None:
    """Catches a dependency that is added, or raised to a version with another licence, and not looked at."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [pin for pins in extras.values() for pin in pins]
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines += (ROOT / name).read_text().splitlines()
    wanted = {line.removeprefix("# no-deps: ").partition(";")[0] for line in lines if "==" in line}
    page = (ROOT / "docs/licences.md").read_text()
    rows = re.findall(r"^\| (\S+) \| (\d\S*) \| (.+) \|$", page, re.MULTILINE)
    assert {f"{name}=={version}" for name, version, _ in rows} == wanted, "run: .venv/bin/python docs/make_licences.py"
    assert len(wanted) > 40
    assert all(len(licence) >= 3 for _, _, licence in rows)
