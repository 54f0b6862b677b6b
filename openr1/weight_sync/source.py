"""The policy's weights in the form that vLLM's weight transfer reads."""

from collections.abc import Iterator

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from openr1.workers.learner import PolicyLearner


class LearnerWeightSource(WeightSource):
    """Full tensors of a learner, gathered from the ranks one at a time."""

    def __init__(self, learner: PolicyLearner) -> None:
        self._learner = learner

    def metadata(self) -> list[ParamMeta]:
        """Names, types and full shapes, without gathering."""
        return [ParamMeta(name, dtype, shape) for name, dtype, shape in self._learner.weight_shapes()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._learner.weights()
