"""Bytes of each process of a run: weights, gradients, optimizer state, activations, buffers.

What ZeRO shares out is as in DeepSpeed: stage 1 keeps a whole float32 gradient on every rank, stage 3 its shard, and
stage 2 its shard from the first backward pass of an update to its end.
"""

from dataclasses import dataclass, field
from typing import Literal

from openr1.plan.trace import Cost, TracedModel
from openr1.workers.deepspeed.config import REDUCE_BUCKET_ELEMENTS

FLOAT32 = 4
LIVE_PARAMETERS = 10**9
"""Parameters that ZeRO 3 keeps gathered at one time, at most: DeepSpeed's default of `stage3_max_live_parameters`."""


@dataclass(frozen=True)
class Memory:
    """What a process occupies at its peak, by part, in bytes.

    Attributes:
        device: On its GPU, or in host memory where there is none.
        host: In host memory beside a GPU.
    """

    device: dict[str, int]
    host: dict[str, int] = field(default_factory=dict)

    @property
    def device_bytes(self) -> int:
        """All parts on the device."""
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        """All parts in host memory."""
        return sum(self.host.values())


def rank_memory(
    model: TracedModel,
    backward: Cost,
    zero_stage: int,
    num_ranks: int,
    offload: Literal["none", "cpu"],
    on_gpu: bool,
) -> Memory:
    """Peak of one training rank.

    Args:
        model: The policy or the critic.
        backward: A pass over the largest micro-batch, with its backward pass.
        zero_stage: 0 to 3.
        num_ranks: Ranks that share its state.
        offload: Where the optimizer state is.
        on_gpu: On a GPU the whole reduction bucket is allocated; the CPU provides pages as they are written.
    """
    trained = model.trained_elements
    share = -(-trained // num_ranks)
    weights = model.weight_bytes
    master = FLOAT32 * share if zero_stage > 0 else 0
    moments = 2 * FLOAT32 * (share if zero_stage > 0 else trained)
    gradients = FLOAT32 * (share if zero_stage >= 2 else trained)
    bucket = FLOAT32 * (REDUCE_BUCKET_ELEMENTS if on_gpu else min(trained, REDUCE_BUCKET_ELEMENTS))
    parts = {"weights": -(-weights // num_ranks) if zero_stage == 3 else weights}
    if zero_stage == 3 and num_ranks > 1:
        parts["gathered weights"] = min(weights, LIVE_PARAMETERS * model.itemsize)
    host: dict[str, int] = {}
    if offload == "cpu":
        host = {"master weights": master, "optimizer moments": moments, "gradients": gradients}
        host["staged weights"] = model.itemsize * share
    else:
        parts |= {"master weights": master, "optimizer moments": moments}
    if offload == "none" or zero_stage < 3:
        parts["gradients"] = gradients
    # At the end of an update the activations are gone, and flat copies of the gradient are there.
    step = {"reduction bucket": bucket if zero_stage == 2 else 0, "gradient copies": FLOAT32 * share}
    # ZeRO 3 keeps its bucket; that of stage 2 fills, on the CPU, while activations go.
    passing = {"reduction bucket": bucket if zero_stage == 3 or (zero_stage == 2 and on_gpu) else 0}
    passing["activations"] = backward.peak_bytes
    parts |= step if sum(step.values()) > sum(passing.values()) else passing
    return Memory({name: size for name, size in parts.items() if size}, host)


def frozen_memory(model: TracedModel, forward: Cost) -> Memory:
    """Peak of a copy of the reference model."""
    return Memory({"weights": model.weight_bytes, "activations": forward.peak_bytes})
