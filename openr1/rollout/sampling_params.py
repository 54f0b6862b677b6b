"""Sampling parameters from the configuration."""

from openr1.config.train import TrainConfig
from openr1.types import SamplingParams


def training_sampling(config: TrainConfig, seed_stream: str) -> SamplingParams:
    """As training steps are sampled."""
    rollout, seed = config.rollout, config.run.seed
    samples, longest = rollout.n_samples_per_prompt, rollout.generate_max_len
    return SamplingParams(samples, longest, rollout.temperature, rollout.top_p, seed, seed_stream)
