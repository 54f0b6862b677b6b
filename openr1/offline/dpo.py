"""One DPO run from config to exported model: pairs of responses, on the policy workers."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from openr1.algorithms.objectives.dpo import DpoObjective
from openr1.config.checks import check_dpo
from openr1.config.dpo import DpoConfig
from openr1.data.order import batch_order
from openr1.data.pairs import Pair, fingerprint, load_pairs, to_batch
from openr1.data.template import run_template
from openr1.errors import ConfigError
from openr1.inputs.model_check import check_model
from openr1.interfaces import Policy
from openr1.offline.fixed_dataset import (
    FixedDatasetJob,
    Metrics,
    count_steps,
    describe_count,
    run_fixed_dataset,
)
from openr1.runtime.files import read_objects, write_objects
from openr1.runtime.interrupts import INTERRUPTS
from openr1.tracking.loggers.client import check_tracking
from openr1.tracking.run_folder import check_unused


def run_dpo(config: DpoConfig, resume: bool) -> None:
    """Train, write metrics.jsonl, and export the model to `<run folder>/model` in Hugging Face format.

    Raises:
        OpenR1Error: With one line on what is wrong.
        Interrupted: A signal came; past the first step a checkpoint was written.
    """
    with INTERRUPTS.installed():
        check_dpo(config)
        check_tracking(config.tracking)
        model = check_model(config.model, config.data.max_len, run_template(config))
        pairs, dropped = load_pairs(config.data.train, model.tokenizer, config.data)
        model.check_token_ids(
            config.data.train, (pair.prompt_ids + pair.chosen_ids + pair.rejected_ids for pair in pairs)
        )
        num_steps = count_steps(config, len(pairs))
        check_dpo(config, num_steps)
        check_unused(config.run.folder, resume)

        def make_job(policy: Policy) -> FixedDatasetJob:
            return dpo_job(config, num_steps, pairs, policy)

        run_fixed_dataset(config, num_steps, resume, describe_count(len(pairs), "pairs", dropped), make_job)


def dpo_job(config: DpoConfig, num_steps: int, pairs: Sequence[Pair], policy: Policy) -> FixedDatasetJob:
    """The job of a DPO run around a policy that holds the initial weights."""
    reference = reference_log_probs(policy, pairs, config) if config.loss == "dpo" else None

    def train(rows: list[int]) -> Metrics:
        known = None if reference is None else reference[rows]
        objective = DpoObjective(config.beta, len(rows), config.loss, config.target_margin)
        return train_step(policy, [pairs[row] for row in rows], known, objective)

    order = batch_order(len(pairs), config.policy.train_batch_size, config.run.seed, config.max_epochs)
    return FixedDatasetJob(config, num_steps, order, policy, train)


def reference_log_probs(policy: Policy, pairs: Sequence[Pair], config: DpoConfig) -> torch.Tensor:
    """Log-probs [N, 2] of whole responses under the initial weights, kept in the run folder for a resumed run.

    The policy computes them itself while it still is the reference: no second model is needed.

    Raises:
        ConfigError: The kept ones belong to other pairs.
    """
    path = config.run.folder / "reference_log_probs.jsonl"
    if not path.exists():
        sums = sequence_log_probs(policy, pairs, config.policy.train_batch_size).tolist()
        rows = [
            {"pair": fingerprint(pair), "chosen": chosen, "rejected": rejected}
            for pair, (chosen, rejected) in zip(pairs, sums, strict=True)
        ]
        write_objects(path, rows)
    kept = [row for _, row in read_objects(path)]
    if [row["pair"] for row in kept] != [fingerprint(pair) for pair in pairs]:
        raise ConfigError(f"{path}: belongs to other pairs; {config.data.train} has changed since the run began")
    return torch.tensor([(row["chosen"], row["rejected"]) for row in kept], dtype=torch.float64)


def sequence_log_probs(policy: Policy, pairs: Sequence[Pair], size: int) -> torch.Tensor:
    """Log-prob of each whole response [N, 2] (chosen, rejected), nats, `size` pairs at a time."""
    sums = []
    for start in range(0, len(pairs), size):
        batch = to_batch(pairs[start : start + size])
        log_probs = policy.log_probs(batch) * batch.response_mask
        sums.append(log_probs.double().sum(-1).view(-1, 2))
    return torch.cat(sums)


def train_step(
    policy: Policy, pairs: Sequence[Pair], reference: torch.Tensor | None, objective: DpoObjective
) -> Metrics:
    """One optimizer step; its metrics are means over pairs.

    `reference` [N, 2] as `sequence_log_probs` returns; None if the loss needs none.
    """
    batch = to_batch(pairs)
    if reference is not None:
        batch = replace(batch, ref_sequence_log_probs=reference.flatten())
    update = policy.step(batch, objective)
    sums = update.sums
    return {
        "dpo/loss": sums.loss / len(pairs),
        "dpo/accuracy": sums.correct / len(pairs),
        "dpo/margin": sums.margin / len(pairs),
        "dpo/chosen_reward": sums.chosen_reward / len(pairs),
        "dpo/rejected_reward": sums.rejected_reward / len(pairs),
        "dpo/tokens": sum(batch.lengths),
        "policy/grad_norm": update.grad_norm,
        "policy/learning_rate": update.learning_rate,
    }
