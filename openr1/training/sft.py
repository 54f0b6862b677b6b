"""One SFT run from config to exported model: negative log-likelihood of responses on the policy workers."""

from collections.abc import Sequence

from openr1.algorithms.objectives.sft import SftObjective
from openr1.config.checks import check_sft
from openr1.config.sft import SftConfig
from openr1.data.examples import Example, load_examples, to_batch
from openr1.data.order import batch_order
from openr1.data.prompts import load_tokenizer
from openr1.interfaces import Policy
from openr1.runtime.interrupts import INTERRUPTS
from openr1.tracking.loggers.client import check_tracking
from openr1.tracking.run_folder import check_unused
from openr1.training.fixed_dataset import (
    FixedDatasetJob,
    Metrics,
    count_steps,
    describe_count,
    run_fixed_dataset,
)
from openr1.workers.rope import check_context_length


def run_sft(config: SftConfig, resume: bool) -> None:
    """Train, write metrics.jsonl, and export the model to `<run folder>/model` in Hugging Face format.

    Raises:
        OpenR1Error: With one line on what is wrong.
        Interrupted: A signal came; past the first step a checkpoint was written.
    """
    with INTERRUPTS.installed():
        check_sft(config)
        check_tracking(config.tracking)
        tokenizer = load_tokenizer(config.model.path)
        check_context_length(config.model, config.data.max_len)
        examples, dropped = load_examples(config.data.train, tokenizer, config.data)
        data = describe_count(len(examples), "examples", dropped)
        held_out: list[Example] = []
        if config.data.held_out is not None:
            held_out, dropped = load_examples(config.data.held_out, tokenizer, config.data)
            data += ", " + describe_count(len(held_out), "held out", dropped)
        num_steps = count_steps(config, len(examples))
        check_sft(config, num_steps)
        check_unused(config.run.folder, resume)

        def make_job(policy: Policy) -> FixedDatasetJob:
            return sft_job(config, num_steps, examples, held_out, policy)

        run_fixed_dataset(config, num_steps, resume, data, make_job)


def sft_job(
    config: SftConfig, num_steps: int, examples: Sequence[Example], held_out: Sequence[Example], policy: Policy
) -> FixedDatasetJob:
    """The job of an SFT run around a policy."""
    size, seed = config.policy.train_batch_size, config.run.seed
    order = batch_order(len(examples), size, seed, config.max_epochs, config.data.shuffle)

    def train(rows: list[int]) -> Metrics:
        return train_step(policy, [examples[row] for row in rows], config.z_loss_coef)

    def loss() -> float:
        return held_out_loss(policy, held_out, size)

    return FixedDatasetJob(config, num_steps, order, policy, train, loss if held_out else None, config.eval_steps)


def train_step(policy: Policy, examples: Sequence[Example], z_loss_coef: float) -> Metrics:
    """One optimizer step on the mean over all response tokens; returns its metrics (loss in nats per token)."""
    # The longest response only matters to constant aggregation.
    batch = to_batch(examples).with_loss_weights("token", generate_max_len=1)
    update = policy.step(batch, SftObjective(z_loss_coef))
    return {
        "sft/loss": update.sums.nll / batch.num_response_tokens,
        "sft/tokens": sum(batch.lengths),
        "policy/grad_norm": update.grad_norm,
        "policy/learning_rate": update.learning_rate,
    }


def held_out_loss(policy: Policy, examples: Sequence[Example], size: int) -> float:
    """Mean negative log-likelihood over all response tokens, nats; `size` examples at a time."""
    total, tokens = 0.0, 0
    for start in range(0, len(examples), size):
        batch = to_batch(examples[start : start + size])
        total -= float(policy.log_probs(batch)[batch.response_mask].double().sum())
        tokens += batch.num_response_tokens
    return total / tokens
