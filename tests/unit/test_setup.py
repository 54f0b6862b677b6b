"""scripts/setup.sh with stand-ins for everything that it calls: nothing is installed, and no checkout is touched."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.running import ROOT

FILES = ("scripts/setup.sh", "requirements.txt", "requirements-dev.txt", "pyproject.toml", "setup.py")
PYTHON = """#!/bin/bash
# Says what setup.sh wants to hear of a Python 3.11; a venv is a copy of this script. Calls of pip are noted.
case "$*" in
    *version_info*) echo 3.11 ;;
    "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip "*) echo "$*" >>pip_calls ;;
    *torch.version.cuda*) echo "$CUDA_OF_TORCH" ;;
esac
"""


@dataclass
class Sandbox:
    """A copy of what setup.sh reads, and a folder of stand-ins that is first on PATH."""

    folder: Path

    def stand_in(self, name: str, script: str) -> Path:
        """Put a script in the place of a command."""
        path = self.folder / "bin" / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def setup(self, nvidia_smi: str, **variables: str) -> tuple[int, str]:
        """Exit code and output of setup.sh for the CUDA stack, where this script is `nvidia-smi`."""
        self.stand_in("nvidia-smi", f"#!/bin/bash\n{nvidia_smi}\n")
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": str(self.folder / "bin/python"),
            "OPENR1_STACK": "cuda",
            "CUDA_OF_TORCH": "13.0",
        }
        environment.pop("OPENR1_SKIP_DRIVER_CHECK", None)
        command = ["bash", str(self.folder / "scripts/setup.sh")]
        done = subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    @property
    def installed(self) -> bool:
        """Whether a venv was made or pip was called."""
        return (self.folder / ".venv").exists() or (self.folder / "pip_calls").exists()


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """Stand-ins for Python and g++."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    sandbox = Sandbox(tmp_path)
    sandbox.stand_in("python", PYTHON)
    sandbox.stand_in("g++", "#!/bin/bash\n")
    return sandbox


@pytest.mark.parametrize("version", ["535.183.01", "579.99", "99.1"])
def test_an_old_driver_is_refused_before_anything_is_downloaded(sandbox: Sandbox, version: str) -> None:
    """Catches gigabytes of wheels that the driver cannot run, and versions that are compared as text."""
    code, output = sandbox.setup(f"echo {version}")
    assert code == 3
    assert not sandbox.installed
    assert output.count("\n") == 1
    for part in (f"driver is {version};", "580", "cuda-compat-13-0", "OPENR1_STACK=cpu bash scripts/setup.sh"):
        assert part in output


@pytest.mark.parametrize("answer", ["580.65.06", "1000.1", "580.65.06; echo 580.65.06", "580.65.06; echo slow >&2"])
def test_a_new_driver_is_accepted(sandbox: Sandbox, answer: str) -> None:
    """Catches a bound that is off by one, a machine of several GPUs, and a warning that is read as the version."""
    code, output = sandbox.setup(f"echo {answer}")
    assert (code, sandbox.installed) == (0, True), output
    assert "torch==" in (sandbox.folder / "pip_calls").read_text()
    assert "+cpu" not in (sandbox.folder / "pip_calls").read_text()


@pytest.mark.parametrize(
    ("nvidia_smi", "told"),
    [
        ("echo NVIDIA-SMI has failed; echo more; exit 9", "'an error: NVIDIA-SMI has failed'"),
        ("exit 127", "'an error: '"),
        ("", "''"),
        ("echo '[N/A]'", "'[N/A]'"),
        ("echo 580.65.06; exit 1", "'an error: 580.65.06'"),
    ],
)
def test_a_driver_that_tells_nothing_is_refused(sandbox: Sandbox, nvidia_smi: str, told: str) -> None:
    """Catches an error message of nvidia-smi, or nothing, that is compared as a version."""
    code, output = sandbox.setup(nvidia_smi)
    assert (code, sandbox.installed) == (3, False)
    assert output.count("\n") == 1
    for part in (told, "580", "OPENR1_SKIP_DRIVER_CHECK=1", "OPENR1_STACK=cpu bash scripts/setup.sh"):
        assert part in output


def test_the_check_of_the_driver_can_be_skipped(sandbox: Sandbox) -> None:
    """Catches a check that NVIDIA's forward-compatibility package, which leaves the driver old, cannot pass."""
    code, output = sandbox.setup("echo 535.183.01", OPENR1_SKIP_DRIVER_CHECK="1")
    assert (code, sandbox.installed) == (0, True), output


def test_the_cpu_stack_asks_for_no_driver(sandbox: Sandbox) -> None:
    """Catches a message whose way out ends in the same message."""
    code, output = sandbox.setup("echo 535.183.01", OPENR1_STACK="cpu", CUDA_OF_TORCH="")
    assert (code, sandbox.installed) == (0, True), output


def test_a_torch_without_cuda_is_refused(sandbox: Sandbox) -> None:
    """Catches a CUDA stack with the CPU build of torch, which pip prefers; the next call must not take it for done."""
    for _ in range(2):
        code, output = sandbox.setup("echo 580.65.06", CUDA_OF_TORCH="")
        assert code == 3
        assert "the torch in .venv is not built for CUDA" in output
    assert "vllm" not in (sandbox.folder / "pip_calls").read_text()
