"""Brings a vLLM engine to rest between two of its steps, with its GPU memory or without. Called on its thread."""

from typing import TYPE_CHECKING, Any

KEEP_WEIGHTS, DROP_ALL = 1, 2
"""vLLM's sleep levels that move weights to host memory, and drop them; neither keeps the KV cache."""

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput


def drain(llm: "LLM") -> "list[RequestOutput]":
    """Finish the batches in flight, and schedule none that follows them; returns the requests that end with them.

    With asynchronous scheduling one batch is still on the GPU when a step returns, also after the last request has
    ended. Loading weights then would change them under a forward pass, and its tokens would get the new version. Takes
    the time of that batch; without asynchronous scheduling nothing is ever in flight.
    """
    outputs: list[Any] = []
    if batches_in_flight(llm):
        # Level 0 only rests the scheduler: requests stay where they are, and memory as it is.
        llm.sleep(level=0, mode="keep")
        # A request that ends here may add one empty batch, which tells the worker to forget it.
        while batches_in_flight(llm):
            outputs += llm.llm_engine.step()
        llm.wake_up(tags=["scheduling"])
    return outputs


def batches_in_flight(llm: "LLM") -> int:
    """Batches that the engine has launched and not yet read the tokens of."""
    # The client of an engine in this process; vLLM has no public name for its queue, which is None without
    # asynchronous scheduling.
    client: Any = llm.llm_engine.engine_core
    return len(client.engine_core.batch_queue or ())


def fall_asleep(llm: "LLM") -> None:
    """Release the GPU memory of weights and KV cache; requests are kept, and start again from their tokens.

    With adapters, weights go to host memory, since the next push does not bring them; otherwise they are dropped.
    Nothing may be in flight, and no other process may claim memory of the GPU meanwhile: vLLM measures what it frees.
    """
    has_adapters = llm.llm_engine.vllm_config.lora_config is not None
    llm.sleep(level=KEEP_WEIGHTS if has_adapters else DROP_ALL, mode="keep")


def wake_weights(llm: "LLM") -> None:
    """Take memory for the weights. Those that were dropped have no values until they are pushed."""
    llm.wake_up(tags=["weights"])


def wake_cache(llm: "LLM") -> None:
    """Take memory for the KV cache, after the weights; the engine can generate again."""
    llm.wake_up(tags=["kv_cache"])
