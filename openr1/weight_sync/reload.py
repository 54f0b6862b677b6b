"""Loading new weights into a running vLLM model, layer by layer; the same for every transfer."""

import torch
from vllm.config import ModelConfig
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info


def put_into_service(model: torch.nn.Module, config: ModelConfig) -> None:
    """Put loaded layers into service; layers for which nothing was loaded keep what they had.

    On the CPU, vLLM computes matrix products with a packed copy of each weight. The reload repacks only layers that
    own weights. A head tied to the embedding owns none, and would keep using a packed copy of the old embedding.
    """
    finalize_layerwise_reload(model, config)
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def forget_loaded(model: torch.nn.Module) -> None:
    """Drop what an unfinished load has kept of layers that have not got all of their weights.

    vLLM would count it with the next load, and put a mixture of both into service.
    """
    for layer in model.modules():
        info = get_layerwise_info(layer)
        if info.can_load():
            info.loaded_weights.clear()
            info.load_numel = 0
