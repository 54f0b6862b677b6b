"""Advantage estimators: functions from rewards [P, G] to advantages [P, G]; `ESTIMATORS` names them.

Every estimator takes rewards [P, G] of any finite range and `valid_mask` [P, G] bool, True for graded responses; other
rewards are not read. It returns advantages [P, G] float32, computed in float64, and exactly 0 for invalid responses.
Statistics cover valid responses only. Zero-variance groups are set to 0, not computed: the rounded mean of equal
rewards such as 0.1 leaves a deviation that is not 0. TrainingError is raised if a valid reward is NaN or infinite.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from openr1.errors import TrainingError
from openr1.runtime.import_path import import_function
from openr1.types import RunningReward

STD_EPS = 1e-6


def update_running_reward(
    past: RunningReward | None, momentum: float, rewards: Float[Tensor, " N"]
) -> RunningReward | None:
    """Add a step's valid rewards [N]: momentum x past + (1 - momentum) x theirs; only theirs at the first step.

    Fewer than two rewards have no standard deviation and change nothing.
    """
    if len(rewards) < 2:
        return past
    mean, std = float(rewards.double().mean()), float(rewards.double().std())
    if past is None:
        return RunningReward(mean, std)
    return RunningReward(momentum * past.mean + (1 - momentum) * mean, momentum * past.std + (1 - momentum) * std)


def group_normalized_advantages(
    rewards: Float[Tensor, "P G"],
    valid_mask: Bool[Tensor, "P G"],
    running: RunningReward | None = None,
    momentum: float = 0.0,
    eps: float = STD_EPS,
) -> Float[Tensor, "P G"]:
    """Center and scale each prompt's rewards within its own group (GRPO).

    A[p, g] = (r[p, g] - mean_p) / (std_p + eps), mean and std over the valid responses to prompt p; std divides
    by n - 1. A group with fewer than two valid responses, or whose valid rewards are all equal, is exactly 0.

    Args:
        rewards: See the module's docstring.
        valid_mask: See the module's docstring.
        running: Running statistics of past steps. If given, mean_p and std_p are blended: (1 - momentum) x the group's
            + momentum x these, and zero-variance groups have advantages, too.
        momentum: In [0, 1).
        eps: Added to the standard deviation, in reward units.

    Example:
        >>> r = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
        >>> group_normalized_advantages(r, torch.ones_like(r, dtype=torch.bool)).round(decimals=3)
        tensor([[ 0.8660, -0.8660, -0.8660,  0.8660]])

    Reference:
        Shao et al., DeepSeekMath, arXiv:2402.03300, section 4.1.2 (outcome supervision). The paper leaves open
        n or n - 1 and eps; both are fixed here.
    """
    values, mean, count = _group_means(rewards, valid_mask)
    centered = torch.where(valid_mask, values - mean, 0.0)
    std = (centered.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    # A running std of 0 carries no scale; dividing by it would let a single group dominate the gradient.
    if running is None or momentum == 0 or running.std == 0:
        return torch.where(has_reward_variance(rewards, valid_mask)[:, None], centered / (std + eps), 0.0).float()
    baseline = (1 - momentum) * mean + momentum * running.mean
    scale = (1 - momentum) * std + momentum * running.std
    return torch.where(valid_mask, (values - baseline) / (scale + eps), 0.0).float()


def group_centered_advantages(rewards: Float[Tensor, "P G"], valid_mask: Bool[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """A = r - mean_p, without a scale (Dr. GRPO); 0 for groups of one and of equal rewards.

    Reference:
        Liu et al., Understanding R1-Zero-Like Training, arXiv:2503.20783, section 3.2. Its constant divisor of the
        loss is `loss_aggregation: constant`.
    """
    return _centered(rewards, valid_mask).float()


def leave_one_out_advantages(rewards: Float[Tensor, "P G"], valid_mask: Bool[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """A = r - mean of the other valid responses of the group (RLOO); 0 for groups of one and of equal rewards.

    Computed as n / (n - 1) (r - mean_p), which is the same.

    Reference:
        Ahmadian et al., Back to Basics, arXiv:2402.14740, section 3.1.
    """
    count = valid_mask.sum(-1, keepdim=True)
    return (_centered(rewards, valid_mask) * count / (count - 1).clamp(min=1)).float()


def plain_advantages(rewards: Float[Tensor, "P G"], valid_mask: Bool[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """A = r, without a baseline (REINFORCE; Williams, 1992). Zero-variance groups and groups of one train, too."""
    return _checked(rewards, valid_mask).float()


def no_advantages(rewards: Float[Tensor, "P G"], valid_mask: Bool[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """A = 0: nothing is learned from rewards, as where a teacher alone trains the policy (`algorithm.kl_in`)."""
    return torch.zeros_like(_checked(rewards, valid_mask)).float()


def batch_normalized_advantages(
    rewards: Float[Tensor, "*shape"], valid_mask: Bool[Tensor, "*shape"], eps: float = STD_EPS
) -> Float[Tensor, "*shape"]:
    """A = (r - mean) / (std + eps), both over all valid responses of the batch, std by n - 1 (REINFORCE++).

    Every response counts once, whatever its length. 0 if all rewards of the batch are equal. The axes do not matter:
    gae normalizes its advantages of tokens [B, T] with it.

    Reference:
        Hu et al., REINFORCE++, arXiv:2501.03262, section 3. The paper normalizes over tokens, so that long
        responses weigh more in mean and std.
    """
    flat, valid = rewards.reshape(1, -1), valid_mask.reshape(1, -1)
    return group_normalized_advantages(flat, valid, eps=eps).reshape(rewards.shape)


def batch_scaled_advantages(
    rewards: Float[Tensor, "P G"], valid_mask: Bool[Tensor, "P G"], eps: float = STD_EPS
) -> Float[Tensor, "P G"]:
    """A = (r - mean_p) / (std + eps), std over the batch's values of r - mean_p (REINFORCE++ with baseline).

    Groups of one and of equal rewards are 0, and count as such in the deviation, which divides by n - 1.

    Reference:
        Hu et al., REINFORCE++, arXiv:2501.03262, the variant for several responses a prompt; over responses here,
        over tokens there.
    """
    centered = _centered(rewards, valid_mask)
    # The mean of centered values is 0, up to rounding.
    std = (centered.square().sum() / (valid_mask.sum() - 1).clamp(min=1)).sqrt()
    return (centered / (std + eps)).float()


def decoupled_advantages(
    components: Float[Tensor, "K P G"],
    present: Bool[Tensor, "K P G"],
    weights: Float[Tensor, " K"],
    valid_mask: Bool[Tensor, "P G"],
    eps: float = STD_EPS,
) -> Float[Tensor, "P G"]:
    """A = S / (std of S over the batch + eps), S the weighted sum of each component's own GRPO advantage (GDPO).

    The sum of rewards hides which of them a response earned: with two components, (1, 0) and (0, 1) are the same to
    `grpo`. The range of a component does not matter, only its weight. S has mean 0, so nothing is subtracted.

    Args:
        components: K components of the rewards before weighting, any finite range.
        present: False where a graded response has no such component; it is then left out of that component's mean and
            std, and gets 0 of it. A component that fewer than two responses of a group have, or all in equal
            measure, adds 0 to that group.
        weights: Of the components in S; any finite number.
        valid_mask: See the module's docstring. A group in which no component varies is 0.
        eps: Added to both standard deviations.

    Reference:
        Liu et al., GDPO, arXiv:2601.05242.
    """
    apart = [
        group_normalized_advantages(values, there & valid_mask, eps=eps)
        for values, there in zip(components, present, strict=True)
    ]
    total = sum(
        (weight * one for weight, one in zip(weights.tolist(), apart, strict=True)),
        torch.zeros_like(valid_mask, dtype=torch.float64),
    )
    std = (total.square().sum() / (valid_mask.sum() - 1).clamp(min=1)).sqrt()
    return (total / (std + eps)).float()


def has_reward_variance(rewards: Float[Tensor, "P G"], valid_mask: Bool[Tensor, "P G"]) -> Bool[Tensor, " P"]:
    """True [P] for groups with at least two valid rewards that are not all equal (not a zero-variance group)."""
    highest = rewards.masked_fill(~valid_mask, -torch.inf).amax(-1)
    lowest = rewards.masked_fill(~valid_mask, torch.inf).amin(-1)
    return highest > lowest


def _checked(rewards: Float[Tensor, "P G"], valid_mask: Bool[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """The rewards in float64, 0 where they are not valid."""
    if not torch.isfinite(rewards[valid_mask]).all():
        raise TrainingError("a graded reward is NaN or infinite; rewards must be finite")
    return torch.where(valid_mask, rewards.double(), 0.0)


def _group_means(
    rewards: Float[Tensor, "P G"], valid_mask: Bool[Tensor, "P G"]
) -> tuple[Float[Tensor, "P G"], Float[Tensor, "P 1"], Int[Tensor, "P 1"]]:
    """Checked rewards [P, G], their mean in each group [P, 1], and how many are valid [P, 1]."""
    values = _checked(rewards, valid_mask)
    count = valid_mask.sum(-1, keepdim=True)
    return values, values.sum(-1, keepdim=True) / count.clamp(min=1), count


def _centered(rewards: Float[Tensor, "P G"], valid_mask: Bool[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """r - mean_p in float64, 0 for groups without a signal."""
    values, mean, _ = _group_means(rewards, valid_mask)
    return torch.where(has_reward_variance(rewards, valid_mask)[:, None] & valid_mask, values - mean, 0.0)


AdvantageEstimator = Callable[[Tensor, Tensor], Tensor]


ESTIMATORS: dict[str, AdvantageEstimator] = {
    "grpo": group_normalized_advantages,
    "dr_grpo": group_centered_advantages,
    "rloo": leave_one_out_advantages,
    "reinforce": plain_advantages,
    "reinforce++": batch_normalized_advantages,
    "reinforce++-baseline": batch_scaled_advantages,
    "none": no_advantages,
}


def find_estimator(name: str) -> AdvantageEstimator:
    """The estimator of a name in `ESTIMATORS`, or of an import path (`package.module:name`, `/folder/file.py:name`).

    Raises:
        ConfigError: The import path cannot be resolved to a function.
    """
    return ESTIMATORS[name] if name in ESTIMATORS else import_function(name)
