"""Seconds of each phase of a training step, from traced operations and the constants of `plan.hardware`.

An operation takes what its arithmetic takes or what its bytes take, whichever is more, and never less than a minimum.
Decoding reads all weights once per token of the longest response, and the KV cache of every sequence.
"""

from collections import Counter
from dataclasses import dataclass

from openr1.plan.hardware import Speed
from openr1.plan.trace import Operation


@dataclass(frozen=True)
class Workload:
    """A step's tokens. Lengths are means; `longest` is that of the longest response."""

    responses: int
    prompts: int
    prompt_length: float
    response_length: float
    longest: int

    @property
    def tokens(self) -> float:
        """Tokens of all rows, prompts included."""
        return self.responses * (self.prompt_length + self.response_length)


@dataclass(frozen=True)
class EngineModel:
    """What an engine computes per token: bytes of weights, operations of a token, bytes of the KV cache of a token."""

    weight_bytes: int
    token_flops: float
    kv_bytes: int


@dataclass(frozen=True)
class StepSeconds:
    """Seconds by phase; `step` is their sum or less, where phases overlap."""

    generate: float
    reference: float
    old_log_probs: float
    update: float
    push: float
    step: float

    def phases(self) -> dict[str, float]:
        """By name, without the step itself."""
        return {
            "generate": self.generate,
            "reference": self.reference,
            "old log-probs": self.old_log_probs,
            "update": self.update,
            "weight push": self.push,
        }


def seconds_of(operations: Counter[Operation], speed: Speed) -> float:
    """Seconds of traced operations."""
    rates = {
        "bfloat16": speed.bfloat16_flops,
        "float32": speed.float32_flops,
        "attention": speed.attention_flops,
        "other": float("inf"),
    }

    def one(operation: Operation) -> float:
        arithmetic, traffic = operation.flops / rates[operation.kind], operation.num_bytes / speed.bandwidth
        return max(arithmetic, traffic, speed.operation_seconds)

    return sum(count * one(operation) for operation, count in operations.items())


def optimizer_seconds(trained: int, num_ranks: int, speed: Speed) -> float:
    """Of one optimizer step: AdamW reads and writes its state, and gradients and weights go round the ranks once."""
    # Read: gradient, master weight, two moments; written: the last three, and the bfloat16 weight.
    update = 30 * trained / num_ranks / speed.bandwidth
    exchange = 6 * trained * (num_ranks - 1) / num_ranks / speed.link_bandwidth
    return update + exchange


def generate_seconds(
    work: Workload, model: EngineModel, num_engines: int, max_num_seqs: int, speed: Speed, gpus_per_engine: int = 1
) -> float:
    """Of sampling all responses: every engine decodes its share, `max_num_seqs` sequences at a time.

    The longest response decides how many decoding steps a wave of sequences takes; shorter ones leave the batch.
    """
    share = work.responses / num_engines
    waves = max(1.0, share / max_num_seqs)
    weights = model.weight_bytes / gpus_per_engine / speed.bandwidth
    steps = waves * work.longest * (speed.decode_seconds + weights)
    sampled = share * work.response_length
    context = work.prompt_length + work.response_length / 2
    per_token = model.token_flops / gpus_per_engine / speed.bfloat16_flops + speed.sequence_seconds
    per_token += context * model.kv_bytes / gpus_per_engine / speed.bandwidth
    # Prompts are computed once per group: the prefix cache has them for the others.
    prefill = (
        work.prompts / num_engines * work.prompt_length * model.token_flops / gpus_per_engine / speed.bfloat16_flops
    )
    return steps + sampled * per_token + prefill
