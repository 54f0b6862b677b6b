"""Starts vLLM engines: their settings from the config, and the wait until they are ready."""

from collections.abc import Sequence
from pathlib import Path

from ray.actor import ActorHandle

from openr1.config.sections import ModelConfig
from openr1.config.train import RolloutConfig, TrainConfig
from openr1.data.model_folder import read_text_config
from openr1.data.template import OWN_TEMPLATE, ChatTemplate, run_template
from openr1.placement.group import Place, Places
from openr1.rollout.adapters import AdapterSettings
from openr1.rollout.engine import EngineActor, EngineSettings, engine_dtype
from openr1.rollout.kv_cache import default_on_cpu
from openr1.rollout.pool import RolloutPool
from openr1.runtime.ray_calls import gather, numbered
from openr1.runtime.ray_cluster import start_actor
from openr1.weight_sync.backends import VLLM_NAMES, Transport
from openr1.weight_sync.choice import Site, choose_transport
from openr1.workers.model import DTYPES
from openr1.workers.rope import rope_scaling_overrides

ENGINE_VARIABLES = {
    # The actor steps vLLM in its own process.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    # The workers of tensor parallelism: a fork would copy the locks of this process's threads.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
ENGINE_CPU_VARIABLES = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}

GPU_MEMORY_ALONE, GPU_MEMORY_SHARED, GPU_MEMORY_IN_TURN = 0.9, 0.3, 0.5
"""Part of a GPU's memory that an engine takes by default: of one of its own, of one with training workers, and of one
where these keep only weights, and a reference, while it generates."""


def engine_settings(
    model: ModelConfig,
    *,
    max_model_len: int,
    max_num_seqs: int,
    log_path: Path,
    places: Places,
    index: int,
    tensor_parallel_size: int = 1,
    kv_cache_gib: float | None = None,
    gpu_memory_utilization: float | None = None,
    env: str = "single_turn",
    sleep: bool = False,
    transport: Transport = "shm",
    template: ChatTemplate = OWN_TEMPLATE,
) -> EngineSettings:
    """Settings of engine `index` of a run, for training, evaluation and benchmarks alike."""
    place, on_gpu = places.engines[index], places.placement.on_gpu
    share = GPU_MEMORY_ALONE
    if on_gpu and places.placement.shares_gpus(index):
        share = GPU_MEMORY_IN_TURN if sleep else GPU_MEMORY_SHARED
    cache = None if kv_cache_gib is None else int(kv_cache_gib * 2**30)
    if cache is None and not on_gpu:
        itemsize = DTYPES[engine_dtype(model.dtype, on_gpu)].itemsize
        cache = default_on_cpu(read_text_config(model.path), itemsize, max_model_len, max_num_seqs)
    return EngineSettings(
        model_path=model.path.resolve(),
        dtype=model.dtype,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        kv_cache_bytes=cache,
        gpu_memory_utilization=gpu_memory_utilization or share,
        tensor_parallel_size=tensor_parallel_size,
        visible_devices=place.visible,
        interface=place.interface,
        config_overrides=rope_scaling_overrides(model),
        on_gpu=on_gpu,
        weight_transfer_backend=VLLM_NAMES[transport],
        log_path=log_path.resolve(),
        env=env,
        sleep=sleep and on_gpu,
        adapters=_adapters(model),
        template=template,
    )


def _adapters(model: ModelConfig) -> AdapterSettings | None:
    if model.lora is None:
        return None
    # Imported late: it loads PEFT, which takes seconds.
    from openr1.workers.lora import adapted_layers

    return AdapterSettings(model.lora.rank, tuple(sorted(adapted_layers(model))))


def train_engine_settings(config: TrainConfig, places: Places) -> list[EngineSettings]:
    """Settings of a run's engines."""
    rollout: RolloutConfig = config.rollout
    template = run_template(config)
    return [
        engine_settings(
            config.model,
            max_model_len=config.data.prompt_max_len + rollout.generate_max_len,
            max_num_seqs=rollout.max_num_seqs,
            log_path=config.run.folder / "logs" / f"engine_{index}.log",
            places=places,
            index=index,
            tensor_parallel_size=rollout.tensor_parallel_size,
            kv_cache_gib=rollout.kv_cache_gib,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            env=rollout.env,
            sleep=config.placement.sleep,
            transport=transport_of(config, places),
            template=template,
        )
        for index in range(len(places.engines))
    ]


def transport_of(config: TrainConfig, places: Places) -> Transport:
    """How a run's weights reach its engines.

    Raises:
        ConfigError: `weight_sync.backend` cannot reach them.
    """
    placement = places.placement
    return choose_transport(
        config.weight_sync.backend, Site(places.num_nodes_of_pushes, placement.policy, placement.engines)
    )


def start_engines(
    settings: list[EngineSettings],
    threads: int,
    places: Sequence[Place],
    max_restarts: int = 0,
    kind: type[EngineActor] | None = None,
) -> list[ActorHandle]:
    """Start one engine for each of `settings`; returns at once. `kind` may add methods (tests).

    One whose process or node is lost is started again by Ray, `max_restarts` times, with the weights of the model's
    folder: it generates only after the next push.
    """
    return [
        start_actor(
            kind or EngineActor,
            threads,
            # Elsewhere, the numbers of an engine's GPUs would be those of others.
            place.options | {"max_restarts": 0 if place.visible else max_restarts},
            ENGINE_VARIABLES | ({} if one.on_gpu else ENGINE_CPU_VARIABLES),
            one,
        )
        for one, place in zip(settings, places, strict=True)
    ]


def wait_for_engines(engines: list[ActorHandle], timeout_seconds: float) -> None:
    """Block until every engine has loaded its model."""
    starting = [engine.ready.remote() for engine in engines]
    names = numbered("engine", len(engines))
    gather(starting, timeout_seconds, f"the run waits for {len(engines)} engine(s) to start", names)


def start_rollout(
    settings: list[EngineSettings], threads: int, places: Sequence[Place], timeout_seconds: float
) -> RolloutPool:
    """Only engines, for evaluation."""
    engines = start_engines(settings, threads, places)
    wait_for_engines(engines, timeout_seconds)
    return RolloutPool(engines, timeout_seconds)
