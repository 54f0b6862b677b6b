"""The frozen reference model in a Ray actor: log-probs of groups, while others are still being generated."""

import torch

from openr1.batch import TrainBatch
from openr1.policy.model import TokenModel, load_causal_lm
from openr1.policy.settings import ReferenceSettings
from openr1.process import log_to
from openr1.records import Group


class ReferenceActor:
    """Holds the weights that the policy started from."""

    def __init__(self, settings: ReferenceSettings) -> None:
        """Load the model."""
        log_to(settings.log_path)
        torch.set_num_threads(settings.threads)
        self._device = torch.device("cuda" if settings.on_gpu else "cpu")
        lm = load_causal_lm(settings.model.path, settings.model.dtype)
        self._model = TokenModel(lm, settings.temperature).to(self._device).eval()

    def ready(self) -> bool:
        """Answers once the model is loaded."""
        return True

    @torch.no_grad()
    def log_probs(self, group: Group) -> list[torch.Tensor]:
        """Log-probs (nats, float32) of each response's tokens, one tensor a response."""
        batch = TrainBatch.from_groups([group])
        inputs = (batch.input_ids, batch.attention_mask, batch.response_mask)
        log_probs = self._model(*(tensor.to(self._device) for tensor in inputs)).log_probs
        return [row[mask] for row, mask in zip(log_probs.cpu(), batch.response_mask, strict=True)]
