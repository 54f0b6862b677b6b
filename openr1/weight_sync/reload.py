"""Loading new weights into a running vLLM model, layer by layer; the same for every transfer."""

import torch
from vllm.config import ModelConfig
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload


def put_into_service(model: torch.nn.Module, config: ModelConfig) -> None:
    """Put loaded layers into service; layers for which nothing was loaded keep what they had.

    On the CPU, vLLM computes matrix products with a packed copy of each weight. The reload repacks only layers that
    own weights. A head tied to the embedding owns none, and would keep using a packed copy of the old embedding.
    """
    finalize_layerwise_reload(model, config)
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
