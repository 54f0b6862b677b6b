"""The shipped configurations: every one is checked, and the tiny twin of each recipe trains for real."""

from pathlib import Path

import pytest
import yaml

from cli.__main__ import main
from tests.running import read_jsonl, run_grpo

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "scripts/configs"
RECIPES = {
    "math": {"accuracy", "truncated"},
    "countdown_r1": {"equation", "format", "thought"},
    "game24": {"length", "outcome", "process"},
    "gsm8k_zh": {"correctness", "digits", "marks", "soft", "strict"},
    "numina_lora": {"accuracy", "format"},
}
"""Components of each recipe's reward."""
OWN_METRICS = {"mean", "shaped_mean", "accuracy", "failed_fraction", "signal_fraction"}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("[gsd]*_*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_passes_its_checks(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a shipped file with an unknown key, numbers that do not fit together, or no header."""
    monkeypatch.chdir(ROOT)
    command = path.stem.partition("_")[0].replace("grpo", "train")
    assert main([command, "--config", str(path), "--dry-run"]) == 0, capsys.readouterr().err
    assert "# ok: " in capsys.readouterr().out
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_twin_is_like_its_recipe(recipe: str) -> None:
    """Catches a twin that leaves out what is special about its recipe: a section, a wording, adapters, a schedule."""
    whole, twin = (yaml.safe_load((CONFIGS / f"grpo_{recipe}{end}.yaml").read_text()) for end in ("", "_tiny"))
    sizes = {
        "gradient_checkpointing",
        "max_num_seqs",
        "timeout_seconds",
        "num_engines",
        "gpu_memory_utilization",
        "keep",
        "num_ranks",
        "temperature",
    }
    for section, values in whole.items():
        if isinstance(values, dict):
            assert values.keys() - sizes - {"temperature"} <= twin[section].keys(), section
    for section, key in (("algorithm", "init_kl_coef"), ("rollout", "temperature"), ("data", "system_prompt")):
        assert whole[section].get(key, 1.0) == twin[section].get(key, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_twin_trains(recipe: str, tmp_path: Path) -> None:
    """Catches a recipe whose path breaks anywhere: data, wording, server, components, update, checkpoint."""
    run_grpo(CONFIGS / f"grpo_{recipe}_tiny.yaml", "--run.output_dir", str(tmp_path), seconds=300)
    run = tmp_path / f"grpo_{recipe}_tiny"
    rows = read_jsonl(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    for row in rows:
        components = {key.removeprefix("reward/") for key in row if key.startswith("reward/")} - OWN_METRICS
        assert components | {"accuracy"} == RECIPES[recipe] | {"accuracy"}
        assert row["rollout/mismatch_abs_mean"] < 0.05
    assert max(row["policy/grad_norm"] for row in rows) > 0.05
    assert (run / "checkpoints/step_000005/model/model.safetensors").is_file()
    config = yaml.safe_load((run / "config.yaml").read_text())
    rollouts = read_jsonl(run / "rollouts/step_000001.jsonl")
    prefix = config["data"]["assistant_prefix"]
    assert all(row["prefix"] == prefix and row["prompt"].endswith(prefix) for row in rollouts)
    for tracker in config["tracking"]["backends"]:
        assert any(path.is_file() for path in (run / tracker).rglob("*")), f"nothing of {tracker} in the run's folder"
    if config["evaluation"]["eval_steps"]:
        assert (run / "eval/step_000002.json").is_file()
        # Every accuracy is 0, so that the first stays the best; it outlives `keep`.
        assert (run / "checkpoints/best").read_text().strip() == "step_000002"
        assert (run / "checkpoints/step_000002/trainer.json").is_file()
