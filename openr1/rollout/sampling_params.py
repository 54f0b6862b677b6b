"""How responses are sampled, and the seeds that make a run repeatable."""

import hashlib
from dataclasses import dataclass

from openr1.config.train import TrainConfig
from openr1.types import Prompt

LARGEST_SEED = 2**31


@dataclass(frozen=True)
class Sampling:
    """One request's sampling: `n_samples_per_prompt` responses of at most `generate_max_len` tokens.

    `temperature` 0 is greedy. `seed_stream` names who samples ("train/12", "eval/before"): with the run's `seed` and
    the prompt's id it determines every response, whatever else the engine is doing, up to rounding.
    """

    n_samples_per_prompt: int
    generate_max_len: int
    temperature: float
    top_p: float
    seed: int
    seed_stream: str

    @classmethod
    def of_training(cls, config: TrainConfig, seed_stream: str) -> "Sampling":
        """As the config's steps are sampled."""
        rollout, seed = config.rollout, config.run.seed
        samples, longest = rollout.n_samples_per_prompt, rollout.generate_max_len
        return cls(samples, longest, rollout.temperature, rollout.top_p, seed, seed_stream)

    def seed_of(self, prompt: Prompt) -> int:
        """The seed of the prompt's first response; vLLM gives response i this plus i, so seeds are G apart."""
        text = f"{self.seed}/{self.seed_stream}/{prompt.id}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        spacing = self.n_samples_per_prompt
        return number % (LARGEST_SEED // spacing) * spacing
