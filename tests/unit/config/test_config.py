"""Reading, checking and writing the configuration: every refusal names the key, the value and the numbers."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from openr1.config.checks import check_sft, check_train
from openr1.config.dpo import DpoConfig
from openr1.config.load import describe_fields, flatten, load_config, to_yaml, validate
from openr1.config.sft import SftConfig
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError, MissingError, OpenR1Error
from tests.fakes import make_config
from tests.running import ROOT

MINIMAL = "run: {name: a}\nmodel: {path: m}\ndata: {train: t.jsonl}\nnum_steps: 5\n"
MINIMAL_SFT = "run: {name: a}\nmodel: {path: m}\ndata: {train: t.jsonl}\n"


def load(folder: Path, text: str, *overrides: str) -> TrainConfig:
    """The configuration of a file with this text."""
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(TrainConfig, path, list(overrides))


def refusal(folder: Path, text: str, *overrides: str) -> str:
    """The message with which a configuration is refused as wrong (exit code 2), in one line."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Files


def test_defaults_of_a_minimal_file(tmp_path: Path) -> None:
    """Catches a section that must be written out, and a run folder elsewhere."""
    config = load(tmp_path, MINIMAL)
    assert (config.num_steps, config.rollout.temperature, config.reward.url) == (5, 1.0, None)
    assert config.run.folder == Path("runs/a")


def test_missing_file_exits_with_3(tmp_path: Path) -> None:
    """Catches a missing file that is reported as a wrong one, or as a traceback."""
    with pytest.raises(MissingError, match=r"absent\.yaml: No such file or directory") as caught:
        load_config(TrainConfig, tmp_path / "absent.yaml", [])
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("text", ["run: {name: a", "a: b: c", "\tx: 1"])
def test_text_that_is_not_yaml(tmp_path: Path, text: str) -> None:
    """Catches a parser's error that ends in a traceback, or in a message over many lines."""
    assert "not YAML" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (MINIMAL + "rollout: {temperature: 0.7}\nrollout: {top_p: 0.9}\n", 6, "rollout"),
        (MINIMAL + "rollout:\n  temperature: 0.7\n  top_p: 0.9\n  temperature: 0.8\n", 8, "temperature"),
    ],
)
def test_a_key_that_is_there_twice(tmp_path: Path, text: str, line: int, key: str) -> None:
    """Catches the first of two sections dropped without a word, as PyYAML does."""
    assert f"line {line}: the key '{key}' is there twice" in refusal(tmp_path, text)


def test_shared_parts_of_a_file(tmp_path: Path) -> None:
    """Catches YAML's own way to override a shared mapping taken for a key that is there twice."""
    text = MINIMAL + "rollout: &r {temperature: 0.7, top_p: 0.9}\npolicy: {num_ranks: 1}\n"
    assert load(tmp_path, text + "evaluation: {<<: {eval_steps: 0}, base_pass_at: 2}").evaluation.base_pass_at == 2


@pytest.mark.parametrize(("text", "found"), [("", "NoneType"), ("- a\n- b", "list"), ("just text", "str")])
def test_yaml_without_sections(tmp_path: Path, text: str, found: str) -> None:
    """Catches an empty file or a list that is read as a configuration of defaults."""
    assert f"found {found}" in refusal(tmp_path, text)


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    """Catches a traceback where somebody saved the file in another encoding."""
    path = tmp_path / "config.yaml"
    path.write_bytes("run: {name: 数学}".encode("gb18030"))
    with pytest.raises(ConfigError):
        load_config(TrainConfig, path, [])


# Keys and values


@pytest.mark.parametrize(
    ("line", "unknown", "known"),
    [
        ("rollout: {temprature: 0.9}", "rollout.temprature", "rollout.temperature"),
        ("rollout: {n_sample_per_prompt: 4}", "rollout.n_sample_per_prompt", "rollout.n_samples_per_prompt"),
        ("algorithm: {kl_coef: 0.1}", "algorithm.kl_coef", "algorithm.init_kl_coef"),
        ("policy: {learning_rate: 0.1}", "policy.learning_rate", "optimizer.learning_rate"),
        ("learning_rate: 0.1", "learning_rate", "optimizer.learning_rate"),
        ("num_step: 4", "num_step", "num_steps"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path, line: str, unknown: str, known: str) -> None:
    """Catches a mistyped key that is ignored, so that the run uses the default, and a suggestion that leads astray."""
    assert f"unknown key {unknown}, did you mean {known}?" in refusal(tmp_path, MINIMAL + line)


def test_unknown_key_far_from_all_others(tmp_path: Path) -> None:
    """Catches a suggestion for a key that resembles nothing."""
    message = refusal(tmp_path, MINIMAL + "zzzzqqqq: 1")
    assert message.endswith("unknown key zzzzqqqq")


@pytest.mark.parametrize(("wrong", "right"), [("rolout", "rollout"), ("optimiser", "optimizer"), ("rewards", "reward")])
def test_unknown_section_is_refused_with_the_nearest_one(tmp_path: Path, wrong: str, right: str) -> None:
    """Catches a mistyped section for which one of its keys is suggested."""
    message = refusal(tmp_path, f"{MINIMAL}{wrong}: {{timeout_seconds: 5}}")
    assert f"unknown key {wrong}, did you mean {right}?" in message


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("rollout: {rollout_batch_size: many}", "rollout.rollout_batch_size is 'many'"),
        ("rollout: {temperature: 0}", "rollout.temperature is 0"),
        ("rollout: {temperature: 0.005}", "rollout.temperature is 0.005"),  # vLLM would sample at 0.01
        ("rollout: {n_samples_per_prompt: 0}", "rollout.n_samples_per_prompt is 0"),
        ("policy: {zero_stage: 4}", "policy.zero_stage is 4"),
        ("policy: {train_batch_size: 2.5}", "policy.train_batch_size is 2.5"),
        ("optimizer: {learning_rate: .nan}", "optimizer.learning_rate is nan"),
        ("model: {path: m, dtype: float16}", "model.dtype is 'float16'"),
        ("run: {name: a/b}", "run.name is 'a/b'"),
        ("rollout: 5", "rollout is 5"),
        ("data: {held_out: h.jsonl}", "data.train is missing"),
    ],
)
def test_refused_value_is_named_with_its_key(tmp_path: Path, line: str, part: str) -> None:
    """Catches a message of the validator that tells the type but neither the key nor what stands there."""
    section = line.partition(":")[0]
    others = [row for row in MINIMAL.splitlines() if not row.startswith(f"{section}:")]
    assert part in refusal(tmp_path, "\n".join([*others, line]))


def test_all_findings_stand_in_one_line(tmp_path: Path) -> None:
    """Catches a check that stops at the first mistake, so that they come to light one run at a time."""
    message = refusal(tmp_path, MINIMAL + "rollout: {temperature: 9, top_k: 5}\noptimizer: {learning_rate: fast}")
    for part in ("rollout.temperature is 9", "unknown key rollout.top_k", "optimizer.learning_rate is 'fast'"):
        assert part in message


@pytest.mark.parametrize("text", ["1e-6", "1.0e-6", "0.000001", "1E-6"])
def test_small_numbers_as_people_write_them(tmp_path: Path, text: str) -> None:
    """Catches 1e-6, which YAML 1.1 reads as text, being refused or kept as text."""
    assert isinstance(yaml.safe_load("1e-6"), str)
    from_file = load(tmp_path, f"{MINIMAL}optimizer: {{learning_rate: {text}}}")
    from_override = load(tmp_path, MINIMAL, "--optimizer.learning_rate", text)
    assert from_file.optimizer.learning_rate == from_override.optimizer.learning_rate == 1e-6


@pytest.mark.parametrize("line", ["num_steps: yes", "optimizer: {learning_rate: .inf}"])
def test_values_that_cannot_be_meant(tmp_path: Path, line: str) -> None:
    """Catches one training step where somebody wrote `yes`, and a learning rate without end."""
    refusal(tmp_path, MINIMAL.replace("num_steps: 5\n", "") + ("" if "num_steps" in line else "num_steps: 5\n") + line)


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a folder called ~, made below the working directory."""
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load(tmp_path, MINIMAL.replace("t.jsonl", "[{path: ~/t.jsonl}]"), "--run.output_dir=~/runs")
    assert config.run.folder == Path("/home/somebody/runs/a")
    assert [str(source.path) for source in config.data.sources] == ["/home/somebody/t.jsonl"]


def test_configuration_cannot_be_changed(tmp_path: Path) -> None:
    """Catches a stage that changes the configuration after it was checked and written down."""
    config = load(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        config.num_steps = 6


# Written and read again


def test_written_configuration_reads_back_the_same(tmp_path: Path) -> None:
    """Catches a path, a pair, a small number or Chinese text that changes in the run folder's config.yaml."""
    config = make_config(
        tmp_path,
        data={"held_out": "数据/held out.jsonl", "system_prompt": '你是助手:\n  "yes" # no\ttab'},
        optimizer={"learning_rate": 1e-7, "adam_betas": (0.8, 0.99)},
        reward={"url": "http://127.0.0.1:5000"},
        policy={"timeout_seconds": 0.1},
    )
    assert load(tmp_path, to_yaml(config)) == config
    assert "数据" in to_yaml(config)
    assert load(tmp_path, to_yaml(load(tmp_path, MINIMAL))) == load(tmp_path, MINIMAL)
    supervised = validate(SftConfig, yaml.safe_load(MINIMAL_SFT) | {"z_loss_coef": 1e-4, "max_epochs": 3}, "test")
    path = tmp_path / "sft.yaml"
    path.write_text(to_yaml(supervised), encoding="utf-8")
    assert load_config(SftConfig, path, []) == supervised


def test_flat_configuration(tmp_path: Path) -> None:
    """Catches a list that is taken apart, sections that are left out at some depth, and values that are not JSON."""

    class Inner(BaseModel):
        folder: Path = Path("a/b")
        pair: tuple[float, float] = (0.9, 0.95)

    class Outer(BaseModel):
        inner: Inner = Inner()
        urls: list[str] = ["x", "y"]
        nothing: int | None = None

    class Whole(BaseModel):
        outer: Outer = Outer()
        steps: int = 3

    assert flatten(Whole()) == {
        "outer.inner.folder": "a/b",
        "outer.inner.pair": [0.9, 0.95],
        "outer.urls": ["x", "y"],
        "outer.nothing": None,
        "steps": 3,
    }
    config = make_config(tmp_path, rollout={"temperature": 0.5}, model={"lora": {"rank": 4}})
    flat = flatten(config)
    assert (flat["rollout.temperature"], flat["model.lora.rank"], flat["run.output_dir"]) == (0.5, 4, str(tmp_path))
    # Every key, written as an override, gives the configuration again.
    values: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    assert validate(TrainConfig, values, "test") == config


@pytest.mark.parametrize("kind", [TrainConfig, SftConfig, DpoConfig])
def test_every_key_is_described(kind: type[BaseModel]) -> None:
    """Catches a key that --help lists without a word, and text of one key that ends up at another."""
    described = describe_fields(kind)
    assert [key for key, text in described if not text.endswith((".", ".)"))] == []
    assert len({key for key, _ in described}) == len(described)
    assert dict(described)["model.path"].startswith("Folder in Hugging Face format")


def test_shipped_supervised_configuration_is_valid() -> None:
    """Catches a shipped file that a renamed key has made unusable."""
    assert check_sft(load_config(SftConfig, ROOT / "scripts/configs/sft_countdown_tiny.yaml", []))


# Checks over several keys


def check_refusal(config: TrainConfig) -> str:
    """The message with which `check_train` refuses."""
    with pytest.raises(ConfigError) as caught:
        check_train(config)
    return str(caught.value)


def test_batch_that_does_not_divide_names_its_numbers(tmp_path: Path) -> None:
    """Catches responses that are left over without a word, and a message from which nobody can compute."""
    config = make_config(
        tmp_path, rollout={"rollout_batch_size": 6, "n_samples_per_prompt": 4}, policy={"train_batch_size": 10}
    )
    message = check_refusal(config)
    # 6 x 4 = 24; the divisors of 24 up to 10 are 1 2 3 4 6 8.
    for part in ("policy.train_batch_size 10", "rollout_batch_size 6 x n_samples_per_prompt 4 = 24", "that does is 8"):
        assert part in message


def test_batch_larger_than_the_step(tmp_path: Path) -> None:
    """Catches a step without any update: 4 responses make no batch of 8."""
    message = check_refusal(make_config(tmp_path, policy={"train_batch_size": 8}))
    assert "policy.train_batch_size 8" in message
    assert "the largest that does is 4" in message


def test_warm_up_must_be_shorter_than_the_run(tmp_path: Path) -> None:
    """Catches a run that ends before its learning rate is reached."""
    # 3 steps of 4 / 2 = 2 updates are 6.
    optimizer = {"lr_warmup_steps": 6}
    message = check_refusal(make_config(tmp_path, policy={"train_batch_size": 2}, optimizer=optimizer))
    assert "optimizer.lr_warmup_steps 6 is not below the 6 optimizer steps" in message
    assert check_train(make_config(tmp_path, policy={"train_batch_size": 2}, optimizer={"lr_warmup_steps": 5}))


def test_every_rank_and_every_engine_has_work(tmp_path: Path) -> None:
    """Catches actors that hold a GPU and never get a row."""
    message = check_refusal(make_config(tmp_path, policy={"train_batch_size": 4, "num_ranks": 5}))
    assert "policy.train_batch_size 4 is less than policy.num_ranks 5" in message
    message = check_refusal(make_config(tmp_path, rollout={"num_engines": 3}))
    assert "rollout.num_engines 3 is more than rollout.rollout_batch_size 2" in message


def test_stage_0_needs_float32(tmp_path: Path) -> None:
    """Catches bfloat16 gradients that are added up in bfloat16."""
    assert "policy.zero_stage 0" in check_refusal(make_config(tmp_path, policy={"zero_stage": 0}))
    assert check_train(make_config(tmp_path, policy={"zero_stage": 0}, model={"dtype": "float32"}))


def test_offload_needs_zero(tmp_path: Path) -> None:
    """Catches an offload that DeepSpeed ignores at stage 0, so that memory runs out where the plan says it does not."""
    sections = {"optimizer": {"offload": "cpu"}, "model": {"dtype": "float32"}}
    message = check_refusal(make_config(tmp_path, policy={"zero_stage": 0}, **sections))
    assert "optimizer.offload cpu" in message
    assert check_train(make_config(tmp_path, policy={"zero_stage": 1}, **sections))


def test_checks_tell_their_numbers(tmp_path: Path) -> None:
    """Catches a dry run that says ok and not what was compared."""
    lines = check_train(make_config(tmp_path, policy={"train_batch_size": 2}))
    # 2 x 2 = 4 responses, 2 updates of 2 a step, 3 steps; 512 + 8 tokens.
    assert lines[0].endswith("rollout_batch_size 2 x n_samples_per_prompt 2 = 4: 2 update(s) a step")
    assert any("of 6 optimizer steps" in line for line in lines)
    assert any("512" in line and "8 = 520 tokens" in line for line in lines)


def test_exit_codes_of_all_errors() -> None:
    """Catches an error class whose exit code differs from the tree in the module's docstring."""
    from openr1 import errors

    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        name, _, rest = line.replace("+--", "").replace("|", "").strip().partition(" ")
        if rest.strip()[:1].isdigit():
            drawn[name] = int(rest.split()[0])
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, OpenR1Error)]
    assert drawn == {kind.__name__: kind.exit_code for kind in kinds if kind is not OpenR1Error}


def test_defaults_of_a_command_outlive_a_part_of_their_section(tmp_path: Path) -> None:
    """Catches a default of the whole section that is lost where one key of it is given."""
    minimal = yaml.safe_load(MINIMAL_SFT)
    sections = {"optimizer": {"lr_warmup_steps": 2}, "checkpoint": {"keep": 3}}
    dpo = validate(DpoConfig, minimal | sections, "test")
    assert (dpo.optimizer.learning_rate, dpo.checkpoint.save_steps) == (5e-7, 0)
    assert validate(SftConfig, minimal | {"checkpoint": {"keep": 3}}, "test").checkpoint.save_steps == 0


def test_a_server_of_ones_own_and_another(tmp_path: Path) -> None:
    """Catches weights that are given for a server which is running already and never reads them."""
    reward = {"url": "http://127.0.0.1:5000", "server_config": "rewards.yaml"}
    message = check_refusal(make_config(tmp_path, reward=reward))
    assert "reward.server_config" in message
    assert "reward.url" in message
    for key in reward:
        assert check_train(make_config(tmp_path, reward={key: reward[key]}))
