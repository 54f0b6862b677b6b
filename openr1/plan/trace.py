"""What a pass over one micro-batch costs, from the run's own code on tensors that have shapes but no memory.

Under PyTorch's `FakeTensorMode` a model of any size is built and run in seconds, on any machine. Floating-point
operations are counted by the formulas of its `FlopCounterMode`, which lacks attention on the CPU. (Its `MemTracker`
cannot take frozen weights: `findings/torch_mem_tracker_refuses_frozen_weights.sh`.)
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from openr1.algorithms.token_ops import chunked_outputs, chunking
from openr1.config.sections import ModelConfig
from openr1.packing.attention import PACKED_ROWS, attention_implementation
from openr1.packing.shared_prefixes import unshared_rows
from openr1.rollout.kv_cache import bytes_per_token
from openr1.workers.lora import add_adapters
from openr1.workers.model import DTYPES, ValueHead, compute_head_in_float32

Kind = Literal["bfloat16", "float32", "attention", "other"]
"""Of an operation: matrix product by data type, attention, all else."""


class Operation(NamedTuple):
    """A tensor operation: its kind, floating-point operations, and bytes that it reads and writes."""

    kind: Kind
    flops: int
    num_bytes: int


@dataclass(frozen=True)
class MicroBatch:
    """Rows of equal length; `response_length` of their tokens are trained on, at the end."""

    rows: int
    length: int
    response_length: int

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return self.rows * self.length


@dataclass(frozen=True)
class Cost:
    """Cost of a pass over one micro-batch.

    Attributes:
        peak_bytes: Most that activations, logits and temporaries occupy at one time, without the weights and with the
            gradient of one weight at most: the training backend takes it away as soon as it is there.
        operations: How often each operation runs.
    """

    peak_bytes: int
    operations: Counter[Operation]


class TracedModel:
    """A model of which only shapes exist."""

    def __init__(
        self, config: PreTrainedConfig, settings: ModelConfig, gpu_bytes: int | None, values: bool = False
    ) -> None:
        """Build the model.

        Args:
            config: Shape of the model.
            settings: Data type, packing, adapters.
            gpu_bytes: Memory of the GPU, which decides how many logits may exist at one time; None on the CPU.
            values: A critic: the backbone with a value head.
        """
        self._gpu_bytes = gpu_bytes
        self._values = values
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        attention = attention_implementation(config, settings.packing)
        self._packing = attention == PACKED_ROWS
        with torch.device("meta"):
            self._lm: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=DTYPES[settings.dtype], attn_implementation=attention, trust_remote_code=False
            )
            if settings.lora is not None:
                add_adapters(self._lm, settings.lora)
            self._value_head = ValueHead(config.get_text_config().hidden_size)
        with self._fake:
            # PEFT cannot add adapters to fake tensors, and meta tensors would take other kernels than a device's.
            _replace_tensors(self._lm, DTYPES[settings.dtype])
            _replace_tensors(self._value_head, torch.float32)
        if settings.gradient_checkpointing:
            self._lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        compute_head_in_float32(self._lm)
        for parameter in self._lm.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        self._lm.train()
        used = self._lm.base_model if values else self._lm
        parameters = list(used.parameters())
        self.itemsize: int = DTYPES[settings.dtype].itemsize
        self.weight_bytes: int = sum(one.numel() for one in parameters) * self.itemsize
        self.trained_elements: int = sum(one.numel() for one in parameters if one.requires_grad)
        self.text: PreTrainedConfig = config.get_text_config()
        text = self.text
        self.vocab_size = int(text.vocab_size)
        # An embedding of its own is looked up, not multiplied.
        looked_up = 0 if text.tie_word_embeddings else self._lm.get_input_embeddings().weight.numel()
        self.token_flops: int = 2 * (sum(one.numel() for one in parameters) - looked_up)
        self.kv_bytes: int = bytes_per_token(text, self.itemsize)

    def cost(self, batch: MicroBatch, *, backward: bool) -> Cost:
        """Cost of a forward pass over a micro-batch, and of the backward pass if wanted."""
        tracker = _Tracker([*self._lm.parameters(), *self._lm.buffers(), *self._value_head.parameters()])
        with self._fake, torch.set_grad_enabled(backward), tracker:
            total = self._forward(batch).sum()
            if backward:
                total.backward()
        return Cost(tracker.peak_bytes, tracker.operations)

    def _forward(self, batch: MicroBatch) -> Tensor:
        """Log-probs or values [rows x response length], as the forward passes of `workers.model` compute them."""
        hidden = self._hidden(batch)
        # The states before response tokens; a copy, as indexing with a mask makes one.
        before = hidden[:, -batch.response_length - 1 : -1].reshape(-1, hidden.shape[-1]).clone()
        if self._values:
            values: Tensor = self._value_head(before)
            return values
        head = self._lm.get_output_embeddings()
        targets = torch.zeros(len(before), dtype=torch.long)
        cut = chunking(head.weight.shape[0], self._gpu_bytes)
        return chunked_outputs(before, targets, head.weight, head.bias, 1.0, "value", cut).log_probs

    def _hidden(self, batch: MicroBatch) -> Tensor:
        ids = torch.zeros(batch.rows, batch.length, dtype=torch.long)
        backbone: nn.Module = self._lm.base_model
        if not self._packing:
            output: Tensor = backbone(ids, use_cache=False).last_hidden_state
            return output
        rows = unshared_rows(batch.rows, batch.length)
        packed = backbone(ids.reshape(1, -1), position_ids=rows.positions[None], rows=rows, use_cache=False)
        hidden: Tensor = packed.last_hidden_state.reshape(batch.rows, batch.length, -1)
        return hidden


def _replace_tensors(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace parameters and buffers by tensors of the CPU with the same shapes; tied parameters stay tied.

    Parameters get `dtype`: PEFT leaves adapters of meta tensors in float32, and converts those of others.
    """
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(
                    torch.empty_like(parameter, device="cpu", dtype=dtype), requires_grad=parameter.requires_grad
                )
            part._parameters[name] = made[id(parameter)]
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = torch.empty_like(buffer, device="cpu")


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _flops(function: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Floating-point operations; 0 for all but matrix products and attention."""
    packet = function.overloadpacket
    if "flash_attention_for_cpu" in packet.__name__:
        return _attention_flops(packet.__name__, args)
    return int(flop_registry[packet](*args, **kwargs, out_val=out)) if packet in flop_registry else 0


def _attention_flops(name: str, args: Any) -> int:
    """Of the CPU's kernel: two products forward, five backward.

    PyTorch's counter does not know it: `findings/torch_flop_counter_skips_cpu_attention.sh`.
    """
    products, (query, key) = (5, args[1:3]) if name.endswith("backward") else (2, args[:2])
    return int(products * 2 * query.numel() * key.shape[-2])


def _kind(function: Any, tensors: list[Tensor]) -> Kind:
    if "attention" in str(function):
        return "attention"
    return "bfloat16" if all(one.dtype == torch.bfloat16 for one in tensors) else "float32"


class _Tracker(TorchDispatchMode):
    """Counts operations, and the bytes of all storages that live; those of `weights` do not count."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.operations: Counter[Operation] = Counter()
        self.peak_bytes = 0
        self._live_bytes = 0
        self._known = WeakIdKeyDictionary()
        for weight in weights:
            self._known[weight.untyped_storage()] = True

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        # Views compute nothing and move no bytes.
        if not function.is_view:
            tensors = [one for one in tree_iter((args, kwargs, out)) if isinstance(one, Tensor)]
            flops = _flops(function, args, kwargs or {}, out)
            kind = _kind(function, tensors) if flops else "other"
            self.operations[Operation(kind, flops, sum(one.nbytes for one in tensors))] += 1
            for one in tree_iter(out):
                if isinstance(one, Tensor):
                    self._count(one.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known[storage] = True
        self._live_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, num_bytes: int) -> None:
        self._live_bytes -= num_bytes
