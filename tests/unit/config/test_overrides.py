"""Overrides on the command line: text stays as it is typed, everything else is YAML."""

from pathlib import Path
from typing import Any

import pytest

from openr1.config.overrides import parse_overrides
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError
from tests.unit.config.test_config import MINIMAL, load, refusal


@pytest.mark.parametrize(
    ("words", "pairs"),
    [
        ([], []),
        (["--a.b", "1"], [("a.b", 1)]),
        (["--a.b=1"], [("a.b", 1)]),
        (["--a", "x=y"], [("a", "x=y")]),
        (["--a=x=y"], [("a", "x=y")]),
        (["--a.b", "true", "--c=[0.9, 0.95]", "--d", "null"], [("a.b", True), ("c", [0.9, 0.95]), ("d", None)]),
        (["--a", "-1"], [("a", -1)]),
    ],
)
def test_overrides_are_split(words: list[str], pairs: list[tuple[str, Any]]) -> None:
    """Catches a value cut at its second equals sign, and one of the two ways to write an override."""
    assert parse_overrides(TrainConfig, words) == pairs


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["rollout.top_p", "1"], "unexpected argument 'rollout.top_p'"),
        (["--a", "1", "2"], "unexpected argument '2'"),
        (["--rollout.top_p"], "override --rollout.top_p has no value"),
        (["--a", "[1"], "override --a: '[1' is not a YAML value"),
        (["--=1"], "unexpected argument '--=1'"),
    ],
)
def test_words_that_are_no_override(words: list[str], part: str) -> None:
    """Catches a word on the command line that is ignored."""
    with pytest.raises(ConfigError) as caught:
        parse_overrides(TrainConfig, words)
    assert part in str(caught.value)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    """Catches an override that loses against the file, that drops its neighbours, or that cannot name a new section."""
    text = MINIMAL + "rollout: {temperature: 0.7, top_p: 0.8}"
    config = load(tmp_path, text, "--rollout.temperature", "0.9", "--policy.zero_stage=1", "--num_steps=6")
    assert (config.rollout.temperature, config.rollout.top_p) == (0.9, 0.8)
    assert (config.policy.zero_stage, config.num_steps) == (1, 6)


def test_override_inside_of_a_value(tmp_path: Path) -> None:
    """Catches a traceback where a value is taken for a section."""
    assert "'num_steps' is not a section" in refusal(tmp_path, MINIMAL, "--num_steps.x", "1")
    assert "'name' is not a section" in refusal(tmp_path, MINIMAL, "--run.name.x", "1")


def test_unknown_override_is_refused(tmp_path: Path) -> None:
    """Catches a mistyped override that is ignored."""
    message = refusal(tmp_path, MINIMAL, "--rollout.temperatur=0.5")
    assert "unknown key rollout.temperatur, did you mean rollout.temperature?" in message


@pytest.mark.parametrize(
    "text",
    [
        "Give the final number after #### like this: #### 42",
        "#1 rule: think.",
        "Answer briefly. Format: <answer>42</answer>",
        "[INST] x",
        "@x",
        "*x*",
        "%x",
        "'quoted'",
        "2026-11-28",
        "on",
        "{x}",
        "~",
        " <think>\n",
    ],
)
def test_text_stays_as_it_is_typed(tmp_path: Path, text: str) -> None:
    """Catches a prompt that YAML cuts at ` #`, strips, makes a mapping of, or refuses."""
    data = load(tmp_path, MINIMAL, "--data.system_prompt", text, f"--data.assistant_prefix={text}").data
    assert (data.system_prompt, data.assistant_prefix) == (text, text)


@pytest.mark.parametrize("name", ["2026-11-28", "007", "on", "1e3"])
def test_names_that_look_like_something_else(tmp_path: Path, name: str) -> None:
    """Catches the name of a run that becomes a date, a number or a truth value."""
    assert load(tmp_path, MINIMAL, "--run.name", name).run.name == name


@pytest.mark.parametrize("path", ["/data/set #2/train.jsonl", "a: b.jsonl", "null.jsonl"])
def test_paths_stay_as_they_are_typed(tmp_path: Path, path: str) -> None:
    """Catches a folder whose name is cut, also where a key takes a path or a list."""
    data = load(tmp_path, MINIMAL, "--data.train", path, "--data.held_out", path).data
    assert (data.train, data.held_out) == (Path(path), Path(path))


def test_values_that_are_no_text(tmp_path: Path) -> None:
    """Catches a null, a list or a mapping that is taken for text where the key takes both."""
    held = MINIMAL.replace("train: t.jsonl", "train: t.jsonl, held_out: h.jsonl, system_prompt: s, assistant_prefix: p")
    words = [
        "--data.held_out",
        "null",
        "--data.system_prompt=",
        "--data.assistant_prefix=",
        "--model.lora",
        "{rank: 4}",
    ]
    config = load(
        tmp_path,
        held,
        *words,
        "--data.train=[{path: a.jsonl, weight: 2}]",
        "--data.chat_template_kwargs.enable_thinking=false",
        "--data.columns.prompt",
        "question #1",
    )
    assert (config.data.held_out, config.data.system_prompt, config.data.assistant_prefix) == (None, None, "")
    assert [source.weight for source in config.data.sources] == [2.0]
    assert config.data.chat_template_kwargs == {"enable_thinking": False}
    assert config.data.columns == {"prompt": "question #1"}
    assert config.model.lora is not None
    assert config.model.lora.target_modules == "all-linear"


def test_a_section_that_the_file_leaves_out_as_null(tmp_path: Path) -> None:
    """Catches `lora: null` in a file, which no override of one of its keys could replace."""
    config = load(tmp_path, MINIMAL.replace("path: m", "path: m, lora: null"), "--model.lora.rank", "8")
    assert config.model.lora is not None
    assert config.model.lora.rank == 8
