"""Whether a model can be used is known before anything starts: in training, in an evaluation and in `--dry-run`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, Gemma3Config

from cli.__main__ import main
from openr1.config.sections import ModelConfig
from openr1.config.sft import SftConfig
from openr1.errors import ConfigError
from openr1.inputs.model_check import check_model, check_sampled
from openr1.offline.sft import run_sft


@pytest.fixture
def folder(tiny_model: Callable[[bool], Path], tmp_path: Path) -> Path:
    """A copy of the tiny model (512 embeddings), whose tokenizer has the token 512."""
    path = Path(shutil.copytree(tiny_model(True), tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.add_tokens("<|turn|>", special_tokens=True) == 1
    tokenizer.save_pretrained(path)
    return path


def use_in_template(folder: Path) -> None:
    """Have the chat template write the new token."""
    template = folder / "chat_template.jinja"
    template.write_text("<|turn|>" + template.read_text())


MESSAGE = r"the chat template has the token 512 '<\|turn\|>', but model.path .* has 512 embeddings; resize them"


def test_a_template_with_a_token_that_has_no_embedding(folder: Path) -> None:
    """Catches an IndexError in an engine after half a minute, and a device assert on a GPU."""
    model = ModelConfig(path=folder)
    # A token that nothing uses is no fault: Gemma 3 1B has one for images.
    assert check_model(model, 64).num_embeddings == 512
    use_in_template(folder)
    for check in (lambda: check_model(model, 64), lambda: check_sampled(folder)):
        with pytest.raises(ConfigError, match=MESSAGE):
            check()


def test_an_end_token_that_has_no_embedding(folder: Path) -> None:
    """Catches an end token that no model can sample, and that SFT would put at the end of every response."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<|turn|>"}))
    with pytest.raises(ConfigError, match=MESSAGE):
        check_model(ModelConfig(path=folder), 64)


def test_a_row_with_a_token_that_has_no_embedding(folder: Path, tmp_path: Path) -> None:
    """Catches a text in the data that is such a token, which no check of the model alone can see."""
    data = tmp_path / "train.jsonl"
    row = {"id": "1", "prompt": "a", "label": "1", "task": "math", "response": "see <|turn|>"}
    data.write_text(json.dumps(row) + "\n")
    config = SftConfig.model_validate(
        {"run": {"name": "x", "output_dir": tmp_path}, "model": {"path": folder}, "data": {"train": data}}
    )
    with pytest.raises(ConfigError, match=r"train\.jsonl: a row has the token 512 '<\|turn\|>'"):
        run_sft(config, resume=False)


@pytest.mark.parametrize("command", ["train", "sft", "dpo"])
def test_dry_runs_check_the_model(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches `--dry-run` that calls a run ok whose model cannot be used, and one that needs the model to be there."""
    shipped = {"train": "grpo_countdown_tiny", "sft": "sft_cot_tiny", "dpo": "dpo_game24_tiny"}[command]
    words = [command, "--config", shipped, "--dry-run", "--model.path"]
    assert main([*words, str(folder)]) == 0
    assert f"# ok: model {folder}: qwen2, 512 embeddings, Qwen2Tokenizer" in capsys.readouterr().out
    use_in_template(folder)
    assert main([*words, str(folder)]) == 2
    assert "the chat template has the token 512" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "absent")]) == 0
    assert "# not here yet: model.path" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "sft", "dpo"])
def test_dry_runs_have_the_template_of_the_run(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches `--dry-run` that refuses a base model without a template, to which the run itself gives one."""
    shipped = {"train": "grpo_countdown_tiny", "sft": "sft_cot_tiny", "dpo": "dpo_game24_tiny"}[command]
    (folder / "chat_template.jinja").unlink()
    words = [command, "--config", shipped, "--dry-run", "--model.path", str(folder)]
    assert main(words) == 2
    assert "has no chat template" in capsys.readouterr().err
    assert main([*words, "--data.chat_template", "plain"]) == 0
    assert "# ok: responses end with" in capsys.readouterr().out


def test_composite_models_are_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback for a model with a vision part, and a dry run that calls it ok."""
    Gemma3Config(text_config={"hidden_size": 64, "vocab_size": 1024}).save_pretrained(folder)
    for command, shipped in (("train", "grpo_countdown_tiny"), ("sft", "sft_cot_tiny")):
        for extra in ([], ["--dry-run"]):
            words = [command, "--config", shipped, "--model.path", str(folder), "--run.output_dir", str(tmp_path)]
            assert main([*words, *extra]) == 2
            assert "which openr1 does not train" in capsys.readouterr().err.splitlines()[-1]
    # An evaluation only samples, which vLLM does with such models, too.
    assert check_sampled(folder).num_embeddings == 1024
