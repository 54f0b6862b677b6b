"""The stages of one RL run, as handed to its trainer; `replay` and tests exchange some of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from openr1.actors.gpu_memory import KeptMemory
from openr1.actors.rl import Actors
from openr1.interfaces import Critic, GpuMemory, Policy, Reference, RewardSource, Rollout
from openr1.runtime.interrupts import INTERRUPTS, Interrupts
from openr1.training.trainer import AdvantageStage


@dataclass(frozen=True)
class Stages:
    """Everything a trainer is given.

    Attributes:
        per_engine_rollouts: One single-engine rollout per engine, to verify each engine's weights.
        critic: None unless the estimator is gae.
        comparable: Whether engines, policy and reference run under the weights of this run, so that their log-probs
            must agree.
        memory: Who has the memory of shared GPUs.
        restarts: How often actors were started again so far, as metrics.
    """

    rollout: Rollout
    per_engine_rollouts: Sequence[Rollout]
    rewards: RewardSource
    reference: Reference | None
    estimate_advantages: AdvantageStage
    policy: Policy
    critic: Critic | None
    interrupts: Interrupts = INTERRUPTS
    comparable: bool = True
    memory: GpuMemory = field(default_factory=KeptMemory)
    restarts: Callable[[], dict[str, float]] = dict

    @classmethod
    def of_actors(cls, actors: Actors, rewards: RewardSource, estimate_advantages: AdvantageStage) -> "Stages":
        """The real ones."""
        return cls(
            rollout=actors.rollout,
            per_engine_rollouts=actors.per_engine_rollouts,
            rewards=rewards,
            reference=actors.reference,
            estimate_advantages=estimate_advantages,
            policy=actors.policy,
            critic=actors.critic,
            memory=actors.memory,
            restarts=actors.restarts,
        )
