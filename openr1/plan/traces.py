"""Traced passes of a run's models, each made once however many variants of a config are planned."""

from openr1.config.sections import ModelConfig
from openr1.config.train import TrainConfig
from openr1.plan.shapes import read_shape
from openr1.plan.trace import Cost, MicroBatch, TracedModel


class Traces:
    """Passes over micro-batches of the policy, the critic and the reference, on one kind of device."""

    def __init__(self, gpu_bytes: int | None) -> None:
        """`gpu_bytes` is the memory of the GPU, None on the CPU."""
        self._gpu_bytes = gpu_bytes
        self._models: dict[str, TracedModel] = {}
        self._costs: dict[tuple[str, MicroBatch, bool], Cost] = {}

    def model(self, settings: ModelConfig, values: bool = False) -> TracedModel:
        """The traced model of some settings; `values` for a critic."""
        key = self._key(settings, values)
        if key not in self._models:
            self._models[key] = TracedModel(read_shape(settings), settings, self._gpu_bytes, values)
        return self._models[key]

    def cost(self, settings: ModelConfig, batch: MicroBatch, *, backward: bool, values: bool = False) -> Cost:
        """Cost of a pass over a micro-batch."""
        key = (self._key(settings, values), batch, backward)
        if key not in self._costs:
            self._costs[key] = self.model(settings, values).cost(batch, backward=backward)
        return self._costs[key]

    def pushed_bytes(self, settings: ModelConfig) -> int:
        """What a push brings to the engines: all weights, or with LoRA the adapters."""
        model = self.model(settings)
        return model.weight_bytes if settings.lora is None else model.trained_elements * model.itemsize

    def _key(self, settings: ModelConfig, values: bool) -> str:
        return f"{settings.model_dump_json()} {values}"


def reference_settings(model: ModelConfig) -> ModelConfig:
    """Settings of the reference model: the policy's, without what only training needs."""
    return model.model_copy(update={"gradient_checkpointing": False, "lora": None})


def largest_micro_batch(config: TrainConfig, num_ranks: int) -> MicroBatch:
    """Of the longest rows: the whole token budget, unless there are too few rows, or one row exceeds it."""
    prompt, response = config.data.prompt_max_len, config.rollout.generate_max_len
    longest, budget = prompt + response, config.policy.micro_batch_tokens
    rows = min(-(-budget // longest), max(1, config.policy.train_batch_size // num_ranks))
    length = longest if rows * longest <= budget else max(budget // rows, 2)
    if rows == 1:
        length = longest
    return MicroBatch(rows, length, max(1, length * response // longest))


def mean_micro_batch(config: TrainConfig, prompt_length: float, response_length: float) -> MicroBatch:
    """Of rows of mean length: as many as the token budget holds."""
    response, length = max(1, round(response_length)), round(prompt_length + response_length)
    return MicroBatch(max(1, config.policy.micro_batch_tokens // length), length, min(response, length - 1))
