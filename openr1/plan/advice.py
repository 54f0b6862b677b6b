"""What to change next: the settings with which a run fits, or the one that saves most of a step's time.

Every suggestion is planned before it is made.
"""

from collections.abc import Callable, Iterator

from openr1.config.checks import check_train
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError
from openr1.plan.plan import MemoryPlan, Planner

WORTHWHILE = 0.05
"""Part of a step's time that a change must save to be suggested."""

Change = tuple[str, object]
"""A config key and its new value."""
Propose = Callable[[TrainConfig, MemoryPlan], Iterator[list[Change]]]
"""Variants of a change for a config and what it occupies, the least costly first."""


def changed(config: TrainConfig, changes: list[Change]) -> TrainConfig:
    """The config with some keys changed."""
    for key, value in changes:
        section, name = key.split(".")
        part = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: part})
    return config


def _engine_share(config: TrainConfig, plan: MemoryPlan) -> Iterator[list[Change]]:
    if plan.placement.on_gpu and config.rollout.kv_cache_gib is None:
        for hundredths in range(90, 5, -5):
            yield [("rollout.gpu_memory_utilization", hundredths / 100)]


def _sharding(last: int) -> Propose:
    def propose(config: TrainConfig, plan: MemoryPlan) -> Iterator[list[Change]]:
        if len(plan.placement.policy) > 1:
            for stage in range(config.policy.zero_stage + 1, last + 1):
                yield [("policy.zero_stage", stage)]

    return propose


def _micro_batches(least: int) -> Propose:
    def propose(config: TrainConfig, _: MemoryPlan) -> Iterator[list[Change]]:
        tokens = config.policy.micro_batch_tokens // 2
        while tokens >= least:
            yield [("policy.micro_batch_tokens", tokens)]
            tokens //= 2

    return propose


def _sleep(config: TrainConfig, plan: MemoryPlan) -> Iterator[list[Change]]:
    stage, state = config.policy.zero_stage, config.optimizer.offload
    colocated = plan.placement.layout == "colocated" and config.rollout.max_staleness == 0
    if colocated and not config.placement.sleep and (stage <= 2 or state == "cpu"):
        yield [("placement.sleep", True), ("policy.zero_stage", stage if state == "cpu" else 2)]


def _checkpointing(config: TrainConfig, _: MemoryPlan) -> Iterator[list[Change]]:
    if not config.model.gradient_checkpointing:
        yield [("model.gradient_checkpointing", True)]


def _offload(config: TrainConfig, plan: MemoryPlan) -> Iterator[list[Change]]:
    if plan.placement.on_gpu and config.optimizer.offload == "none" and config.policy.zero_stage > 0:
        yield [("optimizer.offload", "cpu")]


FITTING: tuple[Propose, ...] = (
    _engine_share,
    _sharding(2),
    _micro_batches(4096),
    _sleep,
    _engine_share,
    _checkpointing,
    _sharding(3),
    # Smaller ones leave a GPU idle between its kernels.
    _micro_batches(2048),
    _offload,
    _engine_share,
)
"""What to try, one after the other, the least costly first. An engine's best share depends on what is left."""


def what_makes_it_fit(planner: Planner, config: TrainConfig) -> list[Change] | None:
    """Few changes with which a run fits, the least costly first; None if all of them are not enough."""
    made: list[Change] = []
    for propose in FITTING:
        plan = planner.memory(changed(config, made))
        variants = [[*made, *changes] for changes in propose(changed(config, made), plan)]
        variants = [changes for changes in variants if _is_consistent(changed(config, changes))]
        plans = [planner.memory(changed(config, changes)) for changes in variants]
        for changes, variant in zip(variants, plans, strict=True):
            if not variant.problems():
                return _without_needless(planner, config, changes)
        excess = [variant.excess_bytes for variant in plans]
        if excess and min(excess) < plan.excess_bytes:
            made = variants[excess.index(min(excess))]
    return None


def _without_needless(planner: Planner, config: TrainConfig, changes: list[Change]) -> list[Change]:
    """The changes without those that it fits without, the costliest first."""
    kept = list(dict(changes).items())
    for change in reversed(kept):
        fewer = [one for one in kept if one != change]
        variant = changed(config, fewer)
        if _is_consistent(variant) and not planner.memory(variant).problems():
            kept = fewer
    return kept


def _is_consistent(config: TrainConfig) -> bool:
    try:
        check_train(config)
    except ConfigError:
        return False
    return True


def _faster(config: TrainConfig) -> Iterator[list[Change]]:
    """What may make a step faster."""
    if not config.model.packing:
        yield [("model.packing", True)]
    if config.model.gradient_checkpointing:
        yield [("model.gradient_checkpointing", False)]
    yield [("policy.micro_batch_tokens", 2 * config.policy.micro_batch_tokens)]
    yield [("rollout.max_num_seqs", 2 * config.rollout.max_num_seqs)]
    if config.rollout.max_staleness == 0:
        yield [("rollout.max_staleness", 1)]
        yield [("rollout.max_staleness", 1), ("placement.layout", "half")]


def what_saves_time(planner: Planner, config: TrainConfig) -> tuple[list[Change], float] | None:
    """The change that saves most seconds of a step and still fits, and the seconds; None if none is worthwhile."""
    now = planner.seconds(config).step
    best: tuple[list[Change], float] | None = None
    for changes in _faster(config):
        variant = changed(config, changes)
        try:
            saved = now - planner.seconds(variant).step
            fits = not planner.memory(variant).problems()
        except ConfigError:
            # A layout that needs more GPUs.
            continue
        if fits and saved > WORTHWHILE * now and (best is None or saved > best[1]):
            best = (changes, saved)
    return best
