"""An engine that is split over two processes computes what an engine in one does, before and after a push."""

from pathlib import Path

import pytest
import ray
import torch

from data.generate.tiny_model import write_tiny_model
from openr1.actors.engines import start_engines, train_engine_settings, wait_for_engines
from openr1.actors.rl import train_demand
from openr1.actors.workers import group_settings, learner_settings, start_workers
from openr1.data.chat import PromptFormat
from openr1.data.prompts import load_prompts
from openr1.data.tokenizer import load_tokenizer
from openr1.placement.group import Places
from openr1.rollout.pool import RolloutPool
from openr1.runtime.ray_cluster import shared_memory_folder
from openr1.training.weight_check import WeightCheck
from openr1.weight_sync.backends import SenderFactory, Transport
from openr1.workers.group import PolicyGroup
from tests.fakes import make_config
from tests.unit.training.test_weight_check import ShakenWorker

ROUNDING = 1e-4
"""Nats a token in float32: sums over halves of a layer are added in another order."""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("tied", "backend"), [(True, "gloo"), (False, "shm"), (False, "gloo")])
def test_two_halves_are_a_whole(
    ray_cluster: None, countdown_files: Path, tmp_path: Path, tied: bool, backend: Transport
) -> None:
    """Catches a push of which a half of the engine gets the other half's rows, or none; a tied head that only one half
    packs again; log-probs over half of the vocabulary; and halves that join a group as one.

    One engine of one process and one of two, both against the policy, before and after its weights have changed.
    """
    model = tmp_path / "model"
    write_tiny_model(model, hidden_size=128, layers=2, tied=tied, dtype=torch.float32)
    config = make_config(
        tmp_path,
        model={"path": str(model), "dtype": "float32"},
        data={"train": str(countdown_files / "train.jsonl"), "prompt_max_len": 64},
        rollout={"generate_max_len": 24, "kv_cache_gib": 0.1, "max_num_seqs": 32, "tensor_parallel_size": 2},
        policy={"zero_stage": 1, "micro_batch_tokens": 512},
        weight_sync={"backend": backend},
    )
    prompts = load_prompts(config.data.train, load_tokenizer(config.model.path), 64, PromptFormat())
    timeout = config.policy.timeout_seconds
    whole = config.model_copy(update={"rollout": config.rollout.model_copy(update={"tensor_parallel_size": 1})})
    places = Places.on_cpu(train_demand(config))
    with shared_memory_folder() as shared:
        settings = [train_engine_settings(one, places)[0] for one in (whole, config)]
        engines = start_engines(settings, 1, places.engines * 2)
        learner = learner_settings(config.model, config.optimizer, config.policy, 1)
        workers = start_workers(learner, config.policy, places.policy, tmp_path / "logs", kind=ShakenWorker)
        policy = PolicyGroup(workers, group_settings(learner, config.policy))
        wait_for_engines(engines, timeout)
        policy.connect_engines(SenderFactory(backend, engines, str(shared), timeout))
        check = WeightCheck(config, RolloutPool(engines, timeout).per_engine(), policy, prompts)
        assert max(one.nats for one in check.differences()) < ROUNDING
        ray.get(workers[0].shake.remote())
        assert min(one.nats for one in check.differences()) > 100 * ROUNDING
        policy.push_weights(1)
        assert max(one.nats for one in check.differences()) < ROUNDING
        for actor in (*workers, *engines):
            ray.kill(actor)
