"""A trainer of given stages, as `openr1 train` builds it, without evaluation, records and checkpoints."""

from openr1.config.train import TrainConfig
from openr1.interfaces import PromptSource
from openr1.rollout.producer import ExperienceProducer
from openr1.training.stages import Stages
from openr1.training.trainer import Trainer


def make_trainer(config: TrainConfig, stages: Stages, prompts: PromptSource) -> Trainer:
    """Return a trainer that makes steps of `prompts` with these stages."""
    producer = ExperienceProducer(config, prompts, stages.rollout, stages.rewards, stages.reference, stages.interrupts)
    estimate, policy, critic, memory = stages.estimate_advantages, stages.policy, stages.critic, stages.memory
    return Trainer(config, producer, estimate, policy, critic, memory, stages.interrupts)
