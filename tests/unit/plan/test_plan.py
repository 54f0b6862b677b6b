"""Plans of the shipped configs for machines with and without GPUs."""

import json
from pathlib import Path

import pytest

from cli.__main__ import main
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError, MissingError
from openr1.plan.advice import changed, what_makes_it_fit, what_saves_time
from openr1.plan.machine import PlannedMachine, described_machine, nearest_model
from openr1.plan.plan import Planner
from openr1.plan.processes import Process
from openr1.plan.report import describe_plan
from openr1.rollout import engine

SEVEN_B = ["--model.path", "models/Qwen2.5-Math-7B"]


def config_of(name: str, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, Path(name), list(overrides))


def test_the_math_recipe_fits_four_gpus() -> None:
    """Catches a recipe that runs out of memory on the machine that it is published for."""
    plan = Planner(described_machine(4, "h800")).memory(config_of("grpo_math"))
    assert plan.problems() == []
    assert plan.excess_bytes == 0
    assert all(0 < plan.gpu_bytes(gpu) < plan.usable_bytes for gpu in range(4))


@pytest.mark.parametrize("name", ["grpo_gsm8k_zh", "grpo_numina_lora"])
@pytest.mark.parametrize("gpu", ["rtx3090", "rtx4090"])
def test_small_models_fit_one_card_of_24_gb(name: str, gpu: str) -> None:
    """Catches settings of a recipe that need more than the card that most users have."""
    assert Planner(described_machine(1, gpu)).memory(config_of(name)).problems() == []


def test_what_does_not_fit_is_told_what_to_change() -> None:
    """Catches a suggestion that does not make the run fit, and one with changes that it would fit without."""
    planner, config = Planner(described_machine(4, "h800")), config_of("grpo_math", *SEVEN_B)
    assert planner.memory(config).problems()
    changes = what_makes_it_fit(planner, config)
    assert changes
    assert planner.memory(changed(config, changes)).problems() == []
    for change in changes:
        fewer = [one for one in changes if one != change]
        assert planner.memory(changed(config, fewer)).problems()


def test_what_never_fits_is_told_so() -> None:
    """Catches a search without an end, and settings that do not help."""
    planner, config = Planner(described_machine(1, "l4")), config_of("grpo_math", *SEVEN_B)
    assert what_makes_it_fit(planner, config) is None
    lines, fits = describe_plan(planner, config)
    assert not fits
    assert lines[-1].startswith("no setting makes it fit")


def test_a_faster_setting_is_faster_and_fits() -> None:
    """Catches a suggestion that costs time, or that no longer fits."""
    planner = Planner(described_machine(4, "h100"))
    config = config_of("grpo_math", "--model.gradient_checkpointing", "true", "--policy.micro_batch_tokens", "4096")
    found = what_saves_time(planner, config)
    assert found is not None
    changes, saved = found
    variant = changed(config, changes)
    assert planner.seconds(config).step - planner.seconds(variant).step == pytest.approx(saved)
    assert saved > 0
    assert planner.memory(variant).problems() == []


def test_an_engine_without_room_for_a_sequence() -> None:
    """Catches a KV cache of nothing: vLLM would not start."""
    config = config_of("grpo_math", "--rollout.gpu_memory_utilization", "0.05")
    plan = Planner(described_machine(4, "h800")).memory(config)
    (engine,) = (process for process in plan.processes if process.role == "engine")
    assert engine.sequences is not None
    assert engine.sequences < 1
    assert plan.problems()[0].startswith("engines have room for 0.0 sequences")
    assert plan.excess_bytes > 0


def test_engines_on_cpus_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a plan with half of what such an engine takes, and with twice the sequences that it holds.

    A cache of a given size holds half of the sequences; the default has room for the same ones, and so twice the size.
    """
    laptop = PlannedMachine(0, None, "a laptop", 2**36)
    given, default = config_of("grpo_countdown_tiny", "--rollout.kv_cache_gib", "1"), config_of("grpo_countdown_tiny")
    for config in (given, default):
        fast, slow = engines_of(laptop, config, monkeypatch)
        for part in ("weights", "packed weights"):
            assert slow.memory.device[part] == 2 * fast.memory.device[part]
        assert fast.sequences is not None
        shrinks, grows = (2, 1) if config is given else (1, 2)
        assert slow.sequences == fast.sequences / shrinks
        assert slow.memory.device["KV cache"] == grows * fast.memory.device["KV cache"]


def engines_of(laptop: PlannedMachine, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """Engines on CPUs with instructions for bfloat16, and without."""
    found = []
    for multiplies in (True, False):
        monkeypatch.setattr(engine, "cpu_multiplies_bfloat16", lambda multiplies=multiplies: multiplies)
        found.append(next(one for one in Planner(laptop).memory(config).processes if one.role == "engine"))
    return found


def test_host_memory_that_is_too_small() -> None:
    """Catches a plan for the CPU that only looks at GPUs."""
    plan = Planner(PlannedMachine(0, None, "a laptop", 2**30)).memory(config_of("grpo_countdown_tiny"))
    assert plan.problems()[0].startswith("host memory would need")


def test_more_memory_for_longer_rows_and_less_for_more_ranks() -> None:
    """Catches a plan that does not depend on what it is told."""
    planner = Planner(described_machine(4, "h100"))
    peak = planner.memory(config_of("grpo_math")).gpu_bytes(0)
    assert planner.memory(config_of("grpo_math", "--policy.micro_batch_tokens", "4096")).gpu_bytes(0) < peak
    assert planner.memory(config_of("grpo_math", "--model.gradient_checkpointing", "true")).gpu_bytes(0) < peak
    assert Planner(described_machine(8, "h100")).memory(config_of("grpo_math")).gpu_bytes(0) < peak


def test_longer_responses_take_longer() -> None:
    """Catches a mean response length that is not used; half of the maximum is assumed without one."""
    machine, config = described_machine(4, "h100"), config_of("grpo_math")
    short, half, default = (Planner(machine, length).seconds(config).step for length in (100, 512, None))
    assert short < half
    assert half == default


def test_a_model_of_unknown_shape(tmp_path: Path) -> None:
    """Catches a traceback where the model is not there, and a guess from its name."""
    with pytest.raises(MissingError, match=r"model.path .*: no config.json there, which says how large"):
        Planner(described_machine(1, "h100")).memory(config_of("grpo_math", "--model.path", str(tmp_path / "qwen")))


def test_config_json_is_enough(tmp_path: Path) -> None:
    """Catches a plan that needs weights or a tokenizer. The shape is that of Qwen2.5-0.5B."""
    shape = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(shape))
    planner = Planner(described_machine(1, "h100"))
    there = planner.memory(config_of("grpo_gsm8k_zh", "--model.path", str(tmp_path)))
    known = planner.memory(config_of("grpo_gsm8k_zh"))
    assert there.gpu_bytes(0) == known.gpu_bytes(0)


@pytest.mark.parametrize(
    ("name", "memory_gib", "expected"),
    [
        ("NVIDIA H200", 139.8, "h200"),
        ("NVIDIA H20", 95.6, "h20"),
        ("NVIDIA L40S", 44.4, "l40s"),
        ("NVIDIA L4", 22.0, "l4"),
        ("NVIDIA A100-SXM4-80GB", 79.2, "a100-80"),
        ("NVIDIA A100-PCIE-40GB", 39.4, "a100-40"),
        ("NVIDIA GeForce RTX 4090", 23.6, "rtx4090"),
        ("Another GPU", 15.0, "l4"),
    ],
)
def test_devices_are_recognized(name: str, memory_gib: float, expected: str) -> None:
    """Catches an H200 that is planned as an H20, an L40S as an L4, and an A100 of 80 GB with the speed of 40 GB."""
    assert nearest_model(name, memory_gib) == expected


def test_plan_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an exit code that does not tell whether the run fits, and a report without its parts."""
    assert main(["plan", "--config", "grpo_math", "--gpus", "4", "--gpu", "h800"]) == 0
    text = capsys.readouterr().out
    for part in ("fits", "policy rank", "KV cache", "fullest GPU (0)", "checkpoints on disk", "a step takes about"):
        assert part in text
    assert main(["plan", "--config", "grpo_gsm8k_zh", "--gpus", "1", "--gpu", "l4", "--policy.zero_stage", "0"]) == 2
    assert "zero_stage 0 needs model.dtype float32" in capsys.readouterr().err
    assert main(["plan", "--config", "grpo_gsm8k_zh", "--gpus", "1", "--gpu", "l4"]) == 1
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "4"], "--gpus and --gpu go together"),
        (["--gpus", "4", "--gpu", "h900"], "--gpu h900: not a known GPU; the known ones are a100-40"),
        (["--gpus", "-1", "--gpu", "h100"], "--gpus -1: must be 0 or more"),
        (["--response-length", "0", "--gpus", "1", "--gpu", "h100"], "--response-length 0"),
    ],
)
def test_plan_command_with_bad_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, and a machine that is guessed."""
    assert main(["plan", "--config", "grpo_math", *words]) == 2
    assert message in capsys.readouterr().err


def test_machines_without_gpus_are_planned_on_the_cpu() -> None:
    """Catches `--gpus 0` that is refused, or planned with a GPU's engine."""
    plan = Planner(described_machine(0, "h100")).memory(config_of("grpo_countdown_tiny"))
    assert plan.placement.layout == "cpu"
    with pytest.raises(ConfigError, match="layout half"):
        Planner(described_machine(1, "h100")).memory(
            config_of("grpo_math", "--placement.layout", "half", "--rollout.max_staleness", "1")
        )


def test_turns_need_the_larger_half() -> None:
    """Catches turns that are added up, and a turn in which the others have nothing.

    With `placement.sleep` a GPU holds the training rank, the reference and what a sleeping engine keeps, or the engine,
    the reference and the rank's weights.
    """
    changes = ["--placement.sleep", "true", "--policy.zero_stage", "2", "--rollout.gpu_memory_utilization", "0.5"]
    plan = Planner(described_machine(4, "h800")).memory(config_of("grpo_math", *changes))
    rank, reference, engine = plan.processes
    assert rank.resting_bytes is not None
    assert engine.resting_bytes is not None
    training = rank.memory.device_bytes + engine.resting_bytes
    generating = rank.resting_bytes + engine.memory.device_bytes
    assert plan.gpu_bytes(0) == reference.memory.device_bytes + max(training, generating)
    assert rank.resting_bytes < 0.1 * rank.memory.device_bytes
    assert engine.memory.device_bytes == pytest.approx(0.5 * 79.1 * 2**30)
    # While engines generate, the optimizer's state is in host memory: 12 bytes of a quarter of 1.54e9 parameters.
    assert rank.memory.host_bytes == pytest.approx(12 * 1.5437e9 / 4, rel=1e-3)


def test_moves_take_time() -> None:
    """Catches a sleep that costs nothing: 12 bytes of a quarter of 1.54e9 parameters, there and back."""
    planner = Planner(described_machine(4, "h800"))
    awake, turns = (
        planner.seconds(config_of("grpo_math", "--policy.zero_stage", "2", "--placement.sleep", sleep)).push
        for sleep in ("false", "true")
    )
    assert turns - awake == pytest.approx(2 * 12 * 1.5437e9 / 4 / 20e9, rel=1e-3)
