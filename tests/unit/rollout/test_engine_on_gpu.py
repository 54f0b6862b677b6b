"""The engine's settings for GPUs, as vLLM's CUDA platform resolves them (no GPU is used)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.running import ROOT

CONFIGS = sorted(path for path in (ROOT / "scripts/configs").glob("grpo_*.yaml") if "_tiny" not in path.stem)


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """vLLM's configuration of each recipe's engines on four GPUs of 80 GB, of one that is split over two, and of one
    that sleeps while the policy trains."""
    split = tmp_path_factory.mktemp("configs") / "split.yaml"
    values = yaml.safe_load(CONFIGS[0].read_text())
    values["rollout"] |= {"tensor_parallel_size": 2, "kv_cache_gib": 4.0}
    values["placement"] = {"layout": "half"}
    values["rollout"]["max_staleness"] = 1
    split.write_text(yaml.safe_dump(values))
    turns = split.with_name("turns.yaml")
    values = yaml.safe_load(CONFIGS[0].read_text())
    values["rollout"].pop("gpu_memory_utilization", None)
    values["placement"] = {"layout": "colocated", "sleep": True}
    turns.write_text(yaml.safe_dump(values))
    model = tmp_path_factory.mktemp("models") / "long"
    shutil.copytree(ROOT / "data/models/tiny_base", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32_768}))
    command = [sys.executable, "-m", "tests.fake_cuda", str(model), *map(str, CONFIGS), str(split), str(turns)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["config"]: row for row in rows}


@pytest.mark.timeout(320)
@pytest.mark.parametrize("path", [*CONFIGS, Path("split.yaml"), Path("turns.yaml")], ids=lambda path: path.stem)
def test_vllm_takes_the_settings(path: Path, resolved: dict[str, dict[str, Any]]) -> None:
    """Catches an option that this vLLM does not know or silently changes on a GPU: eager mode instead of CUDA graphs,
    log-probs before temperature, a head in bfloat16, a GPU that waits for the scheduler between two batches, or a share
    of the GPU that does not leave room for training workers.
    """
    row = resolved[path.stem]
    assert row["logprobs_mode"] == "processed_logprobs"
    assert row["head_dtype"] == "torch.float32"
    assert (row["chunked_prefill"], row["prefix_caching"], row["async_scheduling"]) == (True, True, True)
    assert row["batches"] == 2
    assert row["cudagraph_mode"].startswith("FULL")
    assert row["sleep"] == (path.stem == "turns")
    if path.stem == "turns":
        assert (row["layout"], row["gpu_memory_utilization"], row["executor"]) == ("colocated", 0.5, "uni")
        return
    if path.stem == "split":
        assert (row["tensor_parallel_size"], row["executor"], row["layout"]) == (2, "mp", "half")
        assert (row["kv_cache_bytes"], row["gpu_memory_utilization"]) == (4 * 2**30, 0.9)
        return
    rollout = yaml.safe_load(path.read_text())["rollout"]
    assert (row["layout"], row["tensor_parallel_size"], row["kv_cache_bytes"]) == ("colocated", 1, None)
    assert row["gpu_memory_utilization"] == rollout.get("gpu_memory_utilization", 0.3)
    assert row["max_num_seqs"] == rollout["max_num_seqs"]
