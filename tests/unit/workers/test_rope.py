"""Positions beyond those of the model: refused, or stretched in trainer and engine alike."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from openr1.actors.rl import Actors, train_demand
from openr1.algorithms.batch import TrainBatch
from openr1.config.sections import ModelConfig, RopeScalingConfig
from openr1.config.train import TrainConfig
from openr1.data.prompts import PromptFormat, load_prompts, load_tokenizer
from openr1.errors import ConfigError
from openr1.placement.group import Places
from openr1.runtime.ray_cluster import shared_memory_folder
from openr1.types import SamplingParams
from openr1.workers.model import LogProbModel, load_causal_lm
from openr1.workers.rope import check_context_length


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


def test_trainer_and_engine_stretch_alike(
    ray_cluster: None, tiny_model: Callable[[bool], Path], countdown_files: Path, tmp_path: Path
) -> None:
    """Catches an engine that samples with the model's own positions while the trainer uses scaled ones."""
    model = tiny_model(True)
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
