"""One vLLM engine in a Ray actor: generates groups, and takes new weights between two of its steps."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from openr1.algorithms.bfloat16 import cpu_multiplies_bfloat16
from openr1.data.chat import end_token_ids
from openr1.data.template import OWN_TEMPLATE, ChatTemplate
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import ConfigError, EngineError
from openr1.rollout.adapters import AdapterSettings, engine_arguments, receive_adapters
from openr1.rollout.env import SingleTurn, build_env
from openr1.rollout.responses import checked_response, response_text, to_response
from openr1.rollout.weight_updates import WeightUpdates
from openr1.runtime.faults import FAULTS
from openr1.runtime.network import use_interface
from openr1.runtime.process import log_to
from openr1.runtime.ray_calls import was_restarted
from openr1.types import Group, Prompt, Response, SamplingParams, WeightVersion

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput
    from vllm import SamplingParams as VllmSamplingParams

Result = TypeVar("Result")

MAX_BATCHED_TOKENS = 8192
"""Largest number of tokens in one engine step, unless a single sequence may be longer."""

STEPS_SECONDS = 0.02
"""Longest uninterrupted run of engine steps. It bounds how long a weight update waits, and amortizes the 0.2 ms that a
switch to the engine's thread costs."""


@dataclass(frozen=True)
class EngineSettings:
    """What an engine needs to start.

    Attributes:
        kv_cache_bytes: Size of the KV cache on each GPU; None: what `gpu_memory_utilization` leaves.
        gpu_memory_utilization: Part of each GPU's memory that weights, activations and KV cache may take together. vLLM
            does not start on a GPU that has less than this part free.
        tensor_parallel_size: Processes, with a GPU each, over which the model is split.
        visible_devices: Numbers of these GPUs if there are several; empty where Ray chooses the only one.
        interface: See `use_interface`.
        sleep: Whether it can release its GPU memory; for engines on GPUs.
        adapters: What pushes bring to the engine of a LoRA policy; None: full weights.
        template: Chat template of the tokenizer that environments get.
    """

    model_path: Path
    dtype: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_bytes: int | None
    gpu_memory_utilization: float
    tensor_parallel_size: int
    visible_devices: str
    interface: str | None
    config_overrides: dict[str, Any]
    on_gpu: bool
    weight_transfer_backend: str
    log_path: Path
    env: str = "single_turn"
    sleep: bool = False
    adapters: AdapterSettings | None = None
    template: ChatTemplate = OWN_TEMPLATE


@dataclass(frozen=True)
class _Request:
    """One sequence that the engine has to sample."""

    token_ids: list[int]
    sampling: "VllmSamplingParams"
    finished: "asyncio.Future[RequestOutput]"


class EngineActor:
    """Runs vLLM in this process, one step at a time: not stepping is pausing, so weight updates need no protocol.

    Environments run on the actor's event loop and queue requests. One task, alive while there are requests, steps the
    engine on its thread and hands results back. All calls into vLLM happen on that thread. `_between_steps` is held
    while the engine steps (at most `STEPS_SECONDS`), and by `WeightUpdates` while it must not.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Load the model; takes seconds to minutes."""
        log_to(settings.log_path)
        FAULTS.prepare(settings.log_path.stem, was_restarted())
        use_interface(settings.interface)
        if settings.visible_devices:
            # Ray shows an actor the GPU of its bundle only.
            os.environ["CUDA_VISIBLE_DEVICES"] = settings.visible_devices
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vllm")
        self._llm = self._thread.submit(build_llm, settings).result()
        self._adapters = self._thread.submit(receive_adapters, self._llm, settings.adapters).result()
        self.tokenizer: Any = load_tokenizer(settings.model_path, settings.template)
        self._end_token_ids = end_token_ids(self.tokenizer)
        self._env = build_env(settings.env, self.tokenizer)
        self._between_steps = asyncio.Lock()
        self._tensor_parallel_size = settings.tensor_parallel_size
        self._updates = WeightUpdates(self._llm, self._between_steps, self._call, self._hand_out, was_restarted())
        self._num_requests = 0
        self._queued: list[_Request] = []
        self._running: dict[str, _Request] = {}
        self._stepping: asyncio.Task[None] | None = None

    async def ready(self) -> int:
        """Answers once the engine has started, with the id of its process."""
        return os.getpid()

    async def generate(self, prompts: list[Prompt], sampling: SamplingParams) -> AsyncIterator[Group]:
        """Sample every prompt and yield each group as soon as its last response is finished.

        Several calls may run side by side; their requests share the engine's batches.
        """
        self._updates.check_pushed()
        groups = [asyncio.create_task(self._sample_group(prompt, sampling)) for prompt in prompts]
        try:
            for finished in asyncio.as_completed(groups):
                yield await finished
        finally:
            for task in groups:
                task.cancel()

    async def _sample_group(self, prompt: Prompt, sampling: SamplingParams) -> Group:
        """Run the environment once per response, side by side."""
        count = sampling.n_samples_per_prompt
        runs = (self._sample_response(prompt, sampling, index) for index in range(count))
        responses = tuple(await asyncio.gather(*runs))
        return Group(prompt, responses[:-1] if FAULTS.at("group") else responses)

    async def _sample_response(self, prompt: Prompt, sampling: SamplingParams, index: int) -> Response:
        env = SingleTurn() if sampling.single_turn else self._env
        response = await env.run(prompt, _Turns(self, prompt, sampling, index))
        return checked_response(prompt, response, sampling.generate_max_len).packed()

    async def sample(self, token_ids: list[int], sampling: "VllmSamplingParams") -> "RequestOutput":
        """Queue a request for one sequence and wait for its output."""
        finished: asyncio.Future[RequestOutput] = asyncio.get_running_loop().create_future()
        self._queued.append(_Request(token_ids, sampling, finished))
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step_until_idle())
        return await finished

    def to_vllm(self, sampling: SamplingParams, seed: int, max_tokens: int) -> "VllmSamplingParams":
        """See the function `to_vllm`; with this model's end tokens."""
        return to_vllm(sampling, seed, max_tokens, self._end_token_ids)

    async def _step_until_idle(self) -> None:
        """Step the engine until it has no request left. A failure is raised in everything that waits for a result."""
        try:
            while self._queued or self._running:
                async with self._between_steps:
                    queued, self._queued = self._queued, []
                    outputs = await self._call(self._steps, queued)
                self._hand_out(outputs)
                # Environments that got a result queue their next turn before the engine steps again.
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 (any error of vLLM ends all requests)
            for request in [*self._queued, *self._running.values()]:
                if not request.finished.done():
                    request.finished.set_exception(error)
            self._queued, self._running = [], {}

    def _steps(self, queued: "list[_Request]") -> "list[RequestOutput]":
        """On the engine's thread: add requests, then step until one is finished, for `STEPS_SECONDS` at most."""
        for request in queued:
            self._num_requests += 1
            request_id = f"{self._num_requests}"
            self._running[request_id] = request
            prompt = {"prompt_token_ids": request.token_ids}
            self._llm.llm_engine.add_request(request_id, prompt, request.sampling, lora_request=self._adapters)
        end = time.monotonic() + STEPS_SECONDS
        outputs: list[RequestOutput] = []
        # None is left if the last ones ended while the engine was drained for a push.
        while self._running and not outputs and time.monotonic() < end:
            outputs = self._llm.llm_engine.step()
        return outputs

    def _hand_out(self, outputs: "list[RequestOutput]") -> None:
        """Give finished requests to whoever waits for them."""
        for output in outputs:
            finished = self._running.pop(output.request_id).finished
            # Cancelled if whoever asked is gone.
            if not finished.done():
                finished.set_result(output)

    async def tensor_parallel_size(self) -> int:
        """Processes over which the model is split; each takes part in a weight transfer."""
        return self._tensor_parallel_size

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        """Set up the receiving end of vLLM's weight transfer."""
        await self._updates.connect(init_info)

    async def sleep(self) -> None:
        """Release the GPU memory of weights and KV cache until the next weight update, which takes it back."""
        await self._updates.sleep()

    async def start_weight_update(self) -> None:
        """Stop between two steps, with no batch in flight, until `finish_weight_update`."""
        await self._updates.start()

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load weights."""
        await self._updates.load(update_info)

    async def finish_weight_update(self, version: WeightVersion) -> WeightVersion:
        """Put the weights into service, forget what the old ones computed, and answer the version now held."""
        return await self._updates.finish(version)

    async def abort_weight_update(self) -> bool:
        """Give up a weight update; answers whether the engine generates on, see `WeightUpdates.abort`."""
        return await self._updates.abort()

    async def _call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a call into vLLM on its thread, leaving the actor free to answer others."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


@dataclass(frozen=True)
class _Turns:
    """`interfaces.Generate` for one response of a prompt."""

    engine: EngineActor
    prompt: Prompt
    sampling: SamplingParams
    index: int

    async def __call__(self, token_ids: Sequence[int]) -> Response:
        """Sample one turn."""
        prompt, room = self.prompt, self.room(token_ids)
        if room <= 0:
            raise EngineError(
                f"prompt {prompt.id}: the environment asked for more than rollout.generate_max_len "
                f"{self.sampling.generate_max_len} tokens; it must end the response when generate.room is 0"
            )
        # A turn's seed depends on where it starts, so that the turns of one response do not repeat their draws.
        seed = self.sampling.seed_of(prompt, self.index, len(token_ids) - len(prompt.token_ids))
        request = self.engine.to_vllm(self.sampling, seed, room)
        output = await self.engine.sample(list(token_ids), request)
        (completion,) = output.outputs
        text = response_text(self.engine.tokenizer, token_ids, completion.token_ids, completion.finish_reason)
        return to_response(prompt, completion, text)

    def room(self, token_ids: Sequence[int]) -> int:
        """Tokens that may still follow."""
        return self.sampling.generate_max_len - (len(token_ids) - len(self.prompt.token_ids))


def build_llm(settings: EngineSettings) -> "LLM":
    """Start vLLM in this process, at weight version 0.

    Raises:
        ConfigError: The KV cache cannot hold a single sequence.
    """
    try:
        llm = _new_llm(settings)
    except ValueError as error:
        if NO_ROOM.search(str(error)):
            raise ConfigError(explain_small_cache(settings, str(error))) from error
        raise
    llm.update_weight_version("0")
    return llm


NO_ROOM = re.compile(r"KV\s+cache is needed|No available memory for the cache blocks")
"""What vLLM says where the KV cache is too small; it names settings of its own."""


def explain_small_cache(settings: EngineSettings, told: str) -> str:
    """The same with the names of our settings; `told` is vLLM's message, which may have the size that is needed."""
    needed = re.search(r"\(([\d.]+) GiB KV", told)
    size = f", which takes {needed[1]} GiB" if needed else ""
    if settings.kv_cache_bytes is None:
        there_is, setting = "no room is left for a KV cache that holds", "rollout.gpu_memory_utilization"
    else:
        gib = settings.kv_cache_bytes / 2**30
        there_is, setting = f"a KV cache of {gib:.3g} GiB cannot hold", "rollout.kv_cache_gib"
    return f"{there_is} one sequence of {settings.max_model_len} tokens{size}; raise {setting}"


def _new_llm(settings: EngineSettings) -> "LLM":
    from vllm import LLM

    return LLM(
        str(settings.model_path),
        # It is given token ids and returns some: `EngineActor` has the tokenizer that prompts are encoded with.
        skip_tokenizer_init=True,
        dtype=engine_dtype(settings.dtype, settings.on_gpu),
        enforce_eager=not settings.on_gpu,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        kv_cache_memory_bytes=settings.kv_cache_bytes,
        # On the CPU this would be a part of the machine's memory, of which nothing but the KV cache is taken.
        **({"gpu_memory_utilization": settings.gpu_memory_utilization} if settings.on_gpu else {}),
        enable_sleep_mode=settings.sleep,
        tensor_parallel_size=settings.tensor_parallel_size,
        # Worker processes of this actor; vLLM would choose Ray actors, which need GPUs of their own.
        distributed_executor_backend="mp" if settings.tensor_parallel_size > 1 else None,
        # On CPU, vLLM cannot split the prompt of a seeded request over two steps: a step must take any prompt whole.
        enable_chunked_prefill=settings.on_gpu,
        max_num_batched_tokens=max(settings.max_model_len, MAX_BATCHED_TOKENS),
        # The next batch is scheduled while the GPU computes one, so a push has to drain the engine first. On the CPU
        # nothing could overlap, and vLLM turns it off.
        async_scheduling=settings.on_gpu,
        # Log-probs of the distribution that was sampled from: after temperature and top-p.
        logprobs_mode="processed_logprobs",
        # Logits in float32, as the trainer's: rounded to bfloat16, the two would differ by more.
        hf_overrides={"head_dtype": "float32", **settings.config_overrides},
        weight_transfer_config={"backend": settings.weight_transfer_backend},
        worker_extension_cls="openr1.weight_sync.vllm_extension.WeightSyncWorker",
        trust_remote_code=False,
        **engine_arguments(settings.adapters),
    )


def engine_dtype(dtype: str, on_gpu: bool) -> str:
    """Data type of an engine of a model: float32 for bfloat16 on a CPU without instructions for it.

    There, vLLM would multiply bfloat16 matrices in plain loops. The weights have the same values in both.
    """
    return dtype if on_gpu or dtype != "bfloat16" or cpu_multiplies_bfloat16() else "float32"


def to_vllm(sampling: SamplingParams, seed: int, max_tokens: int, end_token_ids: list[int]) -> "VllmSamplingParams":
    """vLLM's sampling parameters for one sequence; only the sampled token's log-prob is requested.

    No text is requested, which vLLM would decode token by token: see `response_text`.
    """
    from vllm import SamplingParams as VllmSamplingParams
    from vllm.sampling_params import RequestOutputKind

    return VllmSamplingParams(
        n=1,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=max_tokens,
        stop_token_ids=end_token_ids,
        seed=seed,
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
