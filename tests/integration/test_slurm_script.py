"""The script for Slurm on two nodes; its two commands of Slurm are stood in for, since there is no Slurm here."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.clusters import ADDRESSES, two_nodes
from tests.integration.test_resume import BASE_MODEL, SETTINGS
from tests.running import ROOT, read_jsonl, write_config


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_script_trains_on_all_nodes_of_its_job(countdown_files: Path, tmp_path: Path) -> None:
    """Catches a run that starts before all nodes have joined, nodes without the token, a token that stays behind or can
    be read by others, and Ray processes that outlive the job.
    """
    settings = SETTINGS | {"policy": {"num_ranks": 2}, "num_steps": 1}
    config = write_config(tmp_path / "config.yaml", BASE_MODEL, countdown_files, **settings)
    with two_nodes(tmp_path, with_ray=False) as nodes:
        commands = tmp_path / "bin"
        commands.mkdir()
        on_b = shlex.join(nodes.bare("b"))
        write_command(commands / "scontrol", f"printf '%s\\n' {ADDRESSES['a']} {ADDRESSES['b']}")
        write_command(commands / "srun", f'while [ "${{1#--}}" != "$1" ]; do shift; done; exec {on_b} "$@"')
        job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": f"test{os.getpid()}", "SLURM_JOB_NUM_NODES": "2"}
        script = ["bash", str(ROOT / "scripts/slurm/grpo.sbatch"), str(config)]
        result = subprocess.run(
            [*nodes.bare("a"), *script],
            env=os.environ | job | {"SLURM_JOB_NODELIST": "both", "PATH": f"{commands}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert f"2 node(s): {ADDRESSES['a']}, {ADDRESSES['b']}" in result.stdout
        assert nodes.pids("a") == nodes.pids("b") == []
    assert len(read_jsonl(tmp_path / "runs/small/metrics.jsonl")) == 1
    assert not list(ROOT.glob(".ray-token-*"))


def write_command(path: Path, line: str) -> None:
    """A command of one line."""
    path.write_text(f"#!/bin/bash\n{line}\n")
    path.chmod(0o755)
