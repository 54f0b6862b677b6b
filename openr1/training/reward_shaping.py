"""Reward shaping: what happens to the server's rewards before advantages are computed from them."""

from dataclasses import replace

import torch

from openr1.algorithms.kl import KL_ESTIMATORS
from openr1.algorithms.shaping import clip_rewards, overlong_penalties
from openr1.config.train import TrainConfig
from openr1.rollout.experience import Experience


def shape_rewards(experience: Experience, config: TrainConfig, kl_coef: float) -> Experience:
    """Clip rewards, subtract the overlong penalty, and compute the KL penalty of each token unless KL is in the loss.

    Ungraded responses, and truncated ones if `algorithm.mask_truncated` is set, are taken out of the loss.

    Args:
        experience: Sampled and scored.
        config: Sections `reward` and `algorithm`.
        kl_coef: KL coefficient of this step.
    """
    batch, rewards = experience.batch, experience.rewards
    if config.reward.clip is not None:
        rewards = clip_rewards(rewards, *config.reward.clip)
    if config.reward.overlong_buffer_len > 0:
        # All tokens, inserted ones too, as the length limit counts.
        lengths = torch.tensor([[len(response.token_ids) for response in one.responses] for one in experience.groups])
        penalties = overlong_penalties(lengths, config.rollout.generate_max_len, config.reward.overlong_buffer_len)
        rewards = rewards + config.reward.overlong_penalty * penalties
    penalty, kl_in = None, config.algorithm.kl_in
    if batch.ref_log_probs is not None and kl_in != "loss":
        kl = KL_ESTIMATORS[config.algorithm.kl_estimator](batch.rollout_log_probs, batch.ref_log_probs)
        penalty = kl_coef * kl * batch.response_mask
    trains = experience.valid
    if config.algorithm.mask_truncated:
        truncated = [[response.truncated for response in group.responses] for group in experience.groups]
        trains = trains & ~torch.tensor(truncated)
    batch = batch.mask_responses(~trains.flatten())
    experience = replace(experience, batch=batch, rewards=rewards)
    if kl_in == "advantage":
        return replace(experience, advantage_penalty=penalty)
    return replace(experience, kl_penalty=penalty)
