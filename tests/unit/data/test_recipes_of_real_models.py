"""The recipes with the tokenizers of models that people have: their rows are read as a run reads them."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from cli.__main__ import main
from openr1.config.dpo import DpoConfig
from openr1.config.load import load_config
from openr1.config.sft import SftConfig
from openr1.config.train import TrainConfig
from openr1.data.chat import PromptFormat
from openr1.data.examples import load_examples
from openr1.data.pairs import load_pairs
from openr1.data.prompts import load_prompts
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import ConfigError
from tests.running import ROOT
from tests.templates import KINDS, THINKS_IN_PROMPT, model_folder

SAMPLES = {
    "grpo_countdown_r1": "countdown_zh/train.jsonl",
    "grpo_game24": "game24/train.jsonl",
    "grpo_gsm8k_zh": "gsm8k_zh/train.jsonl",
    "grpo_math": "math/train.jsonl",
    "grpo_numina_lora": "numina/train.jsonl",
    "sft_cot": "game24/traces_short.jsonl",
    "sft_game24": "game24/traces_short.jsonl",
    "sft_longcot": "game24/traces_long.jsonl",
    "dpo_game24": "game24/pairs.jsonl",
}
"""Rows in the wording of each recipe, whose own are downloaded or made."""


def load_rows(recipe: str, tokenizer: PreTrainedTokenizerBase, folder: Path) -> int:
    """Read the first rows as a run does; returns their number."""
    path = folder / f"{recipe}.jsonl"
    path.write_text("".join((ROOT / "data/samples" / SAMPLES[recipe]).read_text().splitlines(keepends=True)[:3]))
    words, config = ["--data.train", str(path)], Path(recipe)
    if recipe.startswith("grpo"):
        prompts = load_config(TrainConfig, config, words).data
        prompt_format = PromptFormat(prompts.system_prompt, prompts.assistant_prefix)
        return len(load_prompts(path, tokenizer, prompts.prompt_max_len, prompt_format))
    if recipe.startswith("sft"):
        return len(load_examples(path, tokenizer, load_config(SftConfig, config, words).data)[0])
    return len(load_pairs(path, tokenizer, load_config(DpoConfig, config, words).data)[0])


def test_all_recipes_are_read() -> None:
    """Catches a recipe that nobody has read with a real tokenizer."""
    whole = {path.stem for path in (ROOT / "scripts/configs").glob("[gsd]*_*.yaml") if not path.stem.endswith("_tiny")}
    assert whole == SAMPLES.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_recipes(kind: str, tmp_path: Path) -> None:
    """Catches a recipe that a model's template refuses: its prefix, its system prompt, or its responses."""
    tokenizer = load_tokenizer(model_folder(kind, tmp_path / "model"))
    for recipe in SAMPLES:
        if recipe == "grpo_countdown_r1" and kind in THINKS_IN_PROMPT:
            with pytest.raises(ConfigError, match=r"jsonl:1: the chat template ends the prompt with <think>"):
                load_rows(recipe, tokenizer, tmp_path)
        else:
            assert load_rows(recipe, tokenizer, tmp_path) == 3, recipe


@pytest.mark.slow
# Some of those that the recipe can be used with: tracing the model for the plan takes most of the time.
@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "llama3_1", "gptoss"])
def test_dry_run(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a dry run that fails, or says ok, where the run itself would do otherwise: it renders prompts, too."""
    shape = json.loads((ROOT / "data/models/tiny_base/config.json").read_text())
    for key in ("model_type", "layer_types", "sliding_window"):
        del shape[key]
    model = model_folder(kind, tmp_path / "model", **shape)
    train = str(ROOT / "data/samples/countdown_zh/train.jsonl")
    words = ["train", "--config", "grpo_countdown_r1", "--model.path", str(model), "--data.train", train, "--dry-run"]
    if kind == "gptoss":
        assert main(words) == 2
        assert "models of type gpt_oss have an attention of their own" in capsys.readouterr().err
    else:
        assert main(words) == 0
        assert "# ok: " in capsys.readouterr().out
