"""Positions beyond those of the model: refused, or stretched in trainer and engine alike."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

from openr1.actors.rl import Actors, train_demand
from openr1.algorithms.batch import TrainBatch
from openr1.config.sections import ModelConfig, RopeScalingConfig
from openr1.config.train import TrainConfig
from openr1.data.chat import PromptFormat
from openr1.data.prompts import load_prompts
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import ConfigError
from openr1.placement.group import Places
from openr1.runtime.ray_cluster import shared_memory_folder
from openr1.types import SamplingParams
from openr1.workers.model import LogProbModel, load_causal_lm
from openr1.workers.rope import check_context_length, rope_scaling_overrides


def test_too_long_texts_are_refused(tiny_model: Callable[[bool], Path]) -> None:
    """Catches a model that is asked about positions it has never seen; the tiny model has 2,048."""
    model = ModelConfig(path=tiny_model(True))
    check_context_length(model, 2048)
    with pytest.raises(ConfigError, match=r"2049 tokens, .* has 2048 positions; .* --model\.rope_scaling\.factor 2$"):
        check_context_length(model, 2049)
    stretched = ModelConfig(path=tiny_model(True), rope_scaling=RopeScalingConfig(factor=2.0))
    check_context_length(stretched, 4096)
    with pytest.raises(ConfigError, match="has 4096 positions"):
        check_context_length(stretched, 4097)


def test_an_export_says_how_it_was_stretched(tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches a model that is trained with scaled positions and later loaded without."""
    scaling = RopeScalingConfig(rope_type="linear", factor=4.0)
    load_causal_lm(ModelConfig(path=tiny_model(True), rope_scaling=scaling)).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.rope_parameters["rope_type"], config.rope_parameters["factor"]) == ("linear", 4.0)
    assert config.max_position_embeddings == 8192
    assert json.loads((tmp_path / "config.json").read_text())["rope_parameters"]["rope_theta"] == 10000.0


@pytest.mark.parametrize("by_layer_type", [False, True])
def test_trainer_and_engine_stretch_alike(
    by_layer_type: bool, ray_cluster: None, tiny_model: Callable[[bool], Path], countdown_files: Path, tmp_path: Path
) -> None:
    """Catches an engine that samples with the model's own positions while the trainer uses scaled ones."""
    model = tiny_model(True)
    if by_layer_type:
        folder = tmp_path / "gemma3"
        gemma3(folder)
        Gemma3ForCausalLM(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
        load_tokenizer(model).save_pretrained(folder)
        model = folder
    config = TrainConfig.model_validate(
        {
            "run": {"name": "rope", "output_dir": tmp_path},
            "model": {"path": model, "dtype": "float32", "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            "data": {"train": countdown_files / "train.jsonl", "prompt_max_len": 64},
            "rollout": {"generate_max_len": 24, "kv_cache_gib": 0.1, "max_num_seqs": 32},
            "algorithm": {"init_kl_coef": 0.0},
            "policy": {"zero_stage": 1, "train_batch_size": 512, "micro_batch_tokens": 512},
            "num_steps": 1,
        }
    )
    prompts = load_prompts(config.data.train, load_tokenizer(model), 64, PromptFormat())[:8]
    with shared_memory_folder() as shared:
        actors = Actors(config, Places.on_cpu(train_demand(config)), shared, with_reference=False)
        groups = list(actors.rollout.generate(prompts, SamplingParams(2, 24, 1.0, 1.0, seed=0, seed_stream="rope")))
        batch = TrainBatch.from_groups(groups)
        stretched = actors.policy.log_probs(batch)
    plain = LogProbModel(load_causal_lm(ModelConfig(path=model, dtype="float32")), 1.0)
    with torch.no_grad():
        without = plain(batch.input_ids, batch.attention_mask, batch.response_mask).log_probs

    def largest_difference(log_probs: torch.Tensor) -> float:
        return float((log_probs - batch.rollout_log_probs)[batch.response_mask].abs().max())

    assert largest_difference(stretched) < 1e-4
    assert largest_difference(without) > 1e-3, "scaling changes nothing; the test has no power"


def gemma3(folder: Path, **values: object) -> ModelConfig:
    """A Gemma 3 text model, which has RoPE parameters for each type of layer, without weights."""
    config = Gemma3TextConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=1024,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
        **values,
    )
    config.save_pretrained(folder)
    return ModelConfig(path=folder, rope_scaling=RopeScalingConfig(rope_type="linear", factor=4.0))


def test_parameters_by_layer_type_are_scaled(tmp_path: Path) -> None:
    """Catches a scaling beside the parameters of the layer types, where no layer reads it: only the limit would rise.

    Linear scaling by 4 divides the frequencies of the layers with full attention by 4; those with a sliding window
    never see distant tokens and stay as they are.
    """
    model = gemma3(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    scaled = AutoConfig.from_pretrained(tmp_path, **rope_scaling_overrides(model))
    assert (config.max_position_embeddings, scaled.max_position_embeddings) == (1024, 4096)
    plain, stretched = Gemma3RotaryEmbedding(config), Gemma3RotaryEmbedding(scaled)
    torch.testing.assert_close(stretched.full_attention_inv_freq, plain.full_attention_inv_freq / 4)
    torch.testing.assert_close(stretched.sliding_attention_inv_freq, plain.sliding_attention_inv_freq)


def test_scaling_that_would_replace_another_is_refused(tmp_path: Path) -> None:
    """Catches a model that was trained with scaled positions (Llama 3.1, Gemma 3 from 4B on) and gets others."""
    scaled = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    with pytest.raises(ConfigError, match=r"would replace the scaling that .* has \(linear, factor 8\.0\)"):
        check_context_length(gemma3(tmp_path, rope_parameters=scaled), 64)


def test_scaling_without_rotary_positions_is_refused(tmp_path: Path) -> None:
    """Catches a longer limit, or a traceback, for a model whose positions are learned."""
    GPT2Config(n_positions=512).save_pretrained(tmp_path)
    check_context_length(ModelConfig(path=tmp_path), 512)
    with pytest.raises(ConfigError, match=r"has no effect on .*: a gpt2 has no rotary positions"):
        check_context_length(ModelConfig(path=tmp_path, rope_scaling=RopeScalingConfig(factor=2.0)), 64)
