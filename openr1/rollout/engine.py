"""One vLLM engine in a Ray actor: generates groups, and takes new weights between two of its steps."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from openr1.data.prompts import end_token_ids
from openr1.errors import EngineError
from openr1.rollout.env import SingleTurn, build_env
from openr1.rollout.weight_updates import WeightUpdates
from openr1.runtime.network import use_interface
from openr1.runtime.process import log_to
from openr1.runtime.ray_calls import was_restarted
from openr1.types import Group, Prompt, Response, SamplingParams, WeightVersion

if TYPE_CHECKING:
    from vllm import LLM, CompletionOutput, RequestOutput
    from vllm import SamplingParams as VllmSamplingParams

Result = TypeVar("Result")

MAX_BATCHED_TOKENS = 8192
"""Largest number of tokens in one engine step, unless a single sequence may be longer."""

STEPS_SECONDS = 0.02
"""Longest uninterrupted run of engine steps. It bounds how long a weight update waits, and amortizes the 0.2 ms that a
switch to the engine's thread costs."""

TEXT_CONTEXT_TOKENS = 16
"""Tokens before a response that are decoded with it: tokenizers may write the first word of a text otherwise. Some are
more than special tokens, which have no text."""

UNKNOWN_CHARACTER = "\ufffd"
"""What bytes that are no UTF-8 are decoded to."""


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
        use_interface(settings.interface)
        if settings.visible_devices:
            # Ray shows an actor the GPU of its bundle only.
            os.environ["CUDA_VISIBLE_DEVICES"] = settings.visible_devices
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vllm")
        self._llm = self._thread.submit(build_llm, settings).result()
        self.tokenizer: Any = self._llm.get_tokenizer()
        self._end_token_ids = end_token_ids(self.tokenizer)
        self._env = build_env(settings.env, self.tokenizer)
        self._between_steps = asyncio.Lock()
        self._tensor_parallel_size = settings.tensor_parallel_size
        self._updates = WeightUpdates(self._llm, self._between_steps, self._call, self._hand_out, was_restarted())
        self._num_requests = 0
        self._queued: list[_Request] = []
        self._running: dict[str, _Request] = {}
        self._stepping: asyncio.Task[None] | None = None

    async def ready(self) -> bool:
        """Answers once the engine has started."""
        return True

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
        return Group(prompt, tuple(await asyncio.gather(*runs)))

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
            self._llm.llm_engine.add_request(request_id, {"prompt_token_ids": request.token_ids}, request.sampling)
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
    """Start vLLM in this process, at weight version 0."""
    from vllm import LLM

    llm = LLM(
        str(settings.model_path),
        dtype=settings.dtype,
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
    )
    llm.update_weight_version("0")
    return llm


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


def response_text(tokenizer: Any, context: Sequence[int], token_ids: Sequence[int], finish_reason: str | None) -> str:
    """The text of sampled tokens, decoded at once. It is the text that vLLM's own detokenizer has at the end.

    Special tokens have no text, and neither has the token that stopped the response, whatever it is. Tokens at the end
    whose text is not valid UTF-8, such as the first bytes of a character, are left out.

    Args:
        tokenizer: A tokenizer of transformers.
        context: What came before the sampled tokens.
        token_ids: The sampled tokens.
        finish_reason: vLLM's: "stop" if the last token stopped the response.

    Example:
        "a", the first two of the three bytes of "€" and no stop: the text is "a".
    """

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    before = list(context[-TEXT_CONTEXT_TOKENS:])
    tokens = before + list(token_ids[:-1] if finish_reason == "stop" else token_ids)
    # The last tokens tell in nearly all cases, and the whole text would be decoded once per token that is left out.
    while len(tokens) > len(before) and (
        decode(tokens[-TEXT_CONTEXT_TOKENS:]).endswith(UNKNOWN_CHARACTER) or decode(tokens).endswith(UNKNOWN_CHARACTER)
    ):
        tokens.pop()
    text = decode(tokens)
    # Not the length of what came before: its last bytes may be the start of a character that the response completes.
    return text[len(os.path.commonprefix([decode(before), text])) :]  # noqa: RUF071 (these are no paths)


def to_response(prompt: Prompt, completion: "CompletionOutput", text: str) -> Response:
    """A finished request and its text as a response, all of its tokens sampled.

    Raises:
        EngineError: It has no tokens, or not one log-prob per token.
    """
    token_ids = tuple(completion.token_ids)
    log_probs = tuple(completion.logprobs.logprobs)
    if not token_ids or len(log_probs) != len(token_ids):
        raise EngineError(
            f"prompt {prompt.id}: the engine returned {len(token_ids)} tokens with {len(log_probs)} log-probs"
        )
    versions = [int(span.version) for span in completion.weight_versions]
    sampled = (True,) * len(token_ids)
    reason = completion.finish_reason
    return Response(text, token_ids, log_probs, sampled, reason, versions[0], versions[-1])


def checked_response(prompt: Prompt, response: Response, generate_max_len: int) -> Response:
    """Refuse what an environment got wrong before anything trains on it.

    Raises:
        EngineError: Lengths of the per-token fields differ, no token was sampled, or the response is too long.
    """
    length, sampled = len(response.token_ids), response.num_tokens
    lengths = {length, len(response.log_probs), len(response.loss_mask)}
    if len(lengths) != 1 or sampled == 0 or length > generate_max_len:
        raise EngineError(
            f"prompt {prompt.id}: the environment returned {length} tokens ({sampled} of them sampled), "
            f"{len(response.log_probs)} log-probs and a loss_mask of {len(response.loss_mask)}; all must have the same "
            f"length, from 1 to rollout.generate_max_len {generate_max_len}, with at least one sampled token"
        )
    return response
