"""One vLLM engine in a Ray actor: generates groups, and takes new weights between two of its steps."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from openr1.data.prompts import end_token_ids
from openr1.errors import EngineError
from openr1.rollout.sampling_params import Sampling
from openr1.runtime.process import log_to
from openr1.types import Group, Prompt, Response, WeightVersion

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

Result = TypeVar("Result")

STEP_TOKENS = 8192
"""Tokens that one step of an engine takes at most, unless a single response may be longer."""

STEPS_SECONDS = 0.02
"""For so long steps are made on end: weights wait no longer for the engine, and going to its thread costs 0.2 ms."""


@dataclass(frozen=True)
class EngineSettings:
    """What an engine needs to start."""

    model_path: Path
    dtype: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_bytes: int
    config_overrides: dict[str, Any]
    on_gpu: bool
    weight_transfer_backend: str
    log_path: Path


class EngineActor:
    """Runs vLLM in this process, a step at a time: not stepping is pausing, so a weight update needs no protocol.

    All calls into vLLM happen on one thread; `_between_steps` is held for the steps of a moment (`STEPS_SECONDS`), and
    from the start of a weight update to its end.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Load the model; takes seconds to minutes."""
        log_to(settings.log_path)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vllm")
        self._llm = self._thread.submit(_build_llm, settings).result()
        self._end_token_ids = end_token_ids(self._llm.get_tokenizer())
        self._between_steps = asyncio.Lock()
        self._requests = 0
        self._finished: dict[str, RequestOutput] = {}

    async def ready(self) -> bool:
        """Answers once the engine has started."""
        return True

    async def generate(self, prompts: list[Prompt], sampling: Sampling) -> AsyncIterator[Group]:
        """Sample every prompt and yield each group as soon as its last response is finished.

        Several calls may run side by side: each makes steps, for all, until its own prompts are finished.
        """
        waiting = await self._call(self._add_requests, prompts, sampling)
        while waiting:
            async with self._between_steps:
                if waiting.keys().isdisjoint(self._finished):
                    outputs = await self._call(self._steps)
                    self._finished |= {output.request_id: output for output in outputs}
            for request_id in [name for name in self._finished if name in waiting]:
                yield to_group(waiting.pop(request_id), self._finished.pop(request_id))

    def _steps(self) -> "list[RequestOutput]":
        """Make steps until a request is finished, for a moment at most; returns what is finished."""
        end = time.monotonic() + STEPS_SECONDS
        while True:
            outputs: list[RequestOutput] = self._llm.llm_engine.step()
            if outputs or time.monotonic() > end:
                return outputs

    def _add_requests(self, prompts: list[Prompt], sampling: Sampling) -> dict[str, Prompt]:
        """Queue the prompts; returns them by request id."""
        waiting = {}
        for prompt in prompts:
            self._requests += 1
            request_id = f"{self._requests}"
            request = {"prompt_token_ids": list(prompt.token_ids)}
            self._llm.llm_engine.add_request(request_id, request, to_vllm(sampling, prompt, self._end_token_ids))
            waiting[request_id] = prompt
        return waiting

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        """Set up the receiving end of vLLM's weight transfer."""
        await self._call(self._llm.init_weight_transfer_engine, {"init_info": init_info})

    async def start_weight_update(self) -> None:
        """Stop between two steps, until `finish_weight_update`."""
        await self._between_steps.acquire()
        await self._call(self._llm.start_weight_update)

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load weights."""
        await self._call(self._llm.update_weights, {"update_info": update_info})

    async def finish_weight_update(self, version: WeightVersion) -> WeightVersion:
        """Put the weights into service, forget what the old ones computed, and answer the version now held."""
        await self._call(self._llm.finish_weight_update, str(version))
        await self._call(self._llm.llm_engine.reset_prefix_cache, True)
        self._between_steps.release()
        return int(await self._call(self._llm.get_weight_version))

    async def _call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a call into vLLM on its thread, leaving the actor free to answer others."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _build_llm(settings: EngineSettings) -> "LLM":
    """Start vLLM in this process, at weight version 0."""
    from vllm import LLM

    llm = LLM(
        str(settings.model_path),
        dtype=settings.dtype,
        enforce_eager=not settings.on_gpu,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        kv_cache_memory_bytes=settings.kv_cache_bytes,
        # On CPU, vLLM cannot split the prompt of a seeded request over two steps: a step must take any prompt whole.
        enable_chunked_prefill=settings.on_gpu,
        max_num_batched_tokens=max(settings.max_model_len, STEP_TOKENS),
        # With it, a batch would be under way between two steps, while weights are loaded.
        async_scheduling=False,
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


def to_vllm(sampling: Sampling, prompt: Prompt, end_token_ids: list[int]) -> "SamplingParams":
    """vLLM's own record of the sampling; only the sampled token's log-prob is asked for."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.n_samples_per_prompt,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.generate_max_len,
        stop_token_ids=end_token_ids,
        seed=sampling.seed_of(prompt),
        logprobs=0,
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def to_group(prompt: Prompt, output: "RequestOutput") -> Group:
    """The finished request as a group, responses in the order of their seeds.

    Raises:
        EngineError: A response has no tokens, or other than one log-prob a token.
    """
    responses = []
    for completion in sorted(output.outputs, key=lambda completion: completion.index):
        token_ids = tuple(completion.token_ids)
        log_probs = tuple(completion.logprobs.logprobs)
        if not token_ids or len(log_probs) != len(token_ids):
            raise EngineError(
                f"prompt {prompt.id}: an answer of {len(token_ids)} tokens has {len(log_probs)} log-probs"
            )
        versions = [int(span.version) for span in completion.weight_versions]
        responses.append(
            Response(completion.text, token_ids, log_probs, completion.finish_reason, versions[0], versions[-1])
        )
    return Group(prompt, tuple(responses))
