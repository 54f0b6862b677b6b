"""The frozen reference model in a Ray actor: computes log-probs of groups while others are still being generated."""

import os

import ray
import torch

from openr1.algorithms.batch import TrainBatch
from openr1.runtime.faults import FAULTS
from openr1.runtime.process import log_to
from openr1.runtime.ray_calls import was_restarted
from openr1.types import Group
from openr1.workers.micro_batches import plan_batch
from openr1.workers.model import LogProbModel, hidden_size, load_causal_lm, packs_rows
from openr1.workers.settings import ReferenceSettings

HEALTH = "health"
REFERENCE_OPTIONS = {"concurrency_groups": {HEALTH: 1}}
"""Options of the actor: a thread beside the one that computes answers whether it is alive."""


class ReferenceWorker:
    """The model with the weights that the policy started from, or a teacher."""

    def __init__(self, settings: ReferenceSettings) -> None:
        """Load the model."""
        log_to(settings.log_path)
        FAULTS.prepare(settings.log_path.stem, was_restarted())
        torch.set_num_threads(settings.threads)
        self._micro_batch_tokens = settings.micro_batch_tokens
        self._device = torch.device("cuda" if settings.on_gpu else "cpu")
        lm = load_causal_lm(settings.model)
        self._packing, self._hidden_size = packs_rows(settings.model), hidden_size(settings.model)
        self._model = LogProbModel(lm, settings.temperature).to(self._device).eval()

    @ray.method(concurrency_group=HEALTH)  # type: ignore[untyped-decorator]
    def ready(self) -> int:
        """Returns once the model is loaded, also while log-probs are computed: the id of the process."""
        return os.getpid()

    @torch.no_grad()
    def log_probs(self, groups: list[Group]) -> torch.Tensor:
        """Log-probs (nats, float32) of all response tokens, flattened in the order group, response, token."""
        FAULTS.at("log_probs")
        batch = TrainBatch.from_groups(groups)
        log_probs = torch.zeros_like(batch.rollout_log_probs)
        for rows in plan_batch(batch, 1, self._micro_batch_tokens, self._hidden_size, self._packing)[0]:
            micro = batch.select(rows)
            part = self._model(*micro.to(self._device).inputs).log_probs
            log_probs[torch.tensor(rows), : part.shape[1]] = part.cpu()
        return log_probs[batch.response_mask]
