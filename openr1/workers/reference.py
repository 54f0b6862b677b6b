"""The frozen reference model in a Ray actor: computes log-probs of groups while others are still being generated."""

import torch

from openr1.algorithms.batch import TrainBatch
from openr1.runtime.process import log_to
from openr1.types import Group
from openr1.workers.micro_batches import plan_micro_batches
from openr1.workers.model import LogProbModel, load_causal_lm
from openr1.workers.settings import ReferenceSettings


class ReferenceWorker:
    """The model with the weights that the policy started from."""

    def __init__(self, settings: ReferenceSettings) -> None:
        """Load the model."""
        log_to(settings.log_path)
        torch.set_num_threads(settings.threads)
        self._micro_batch_tokens = settings.micro_batch_tokens
        self._device = torch.device("cuda" if settings.on_gpu else "cpu")
        self._packing = settings.model.packing
        lm = load_causal_lm(settings.model)
        self._model = LogProbModel(lm, settings.temperature, self._packing).to(self._device).eval()

    def ready(self) -> bool:
        """Returns once the model is loaded: Ray runs it after `__init__`."""
        return True

    @torch.no_grad()
    def log_probs(self, groups: list[Group]) -> torch.Tensor:
        """Log-probs (nats, float32) of all response tokens, flattened in the order group, response, token."""
        batch = TrainBatch.from_groups(groups)
        log_probs = torch.zeros_like(batch.rollout_log_probs)
        for rows in plan_micro_batches(batch.lengths, 1, self._micro_batch_tokens, self._packing)[0]:
            micro = batch.select(rows)
            part = self._model(*micro.to(self._device).inputs).log_probs
            log_probs[torch.tensor(rows), : part.shape[1]] = part.cpu()
        return log_probs[batch.response_mask]
