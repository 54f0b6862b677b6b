"""One SFT run from config to exported model: negative log-likelihood of responses on the policy workers."""

from collections.abc import Sequence
from pathlib import Path

from openr1.algorithms.objectives.sft import SftObjective
from openr1.config.checks import check_sft
from openr1.config.sft import SftConfig, SftDataConfig
from openr1.data.columns import example_schema
from openr1.data.examples import Example, load_examples, to_batch
from openr1.data.fingerprint import fingerprint
from openr1.data.order import batch_order
from openr1.data.template import run_template
from openr1.inputs.model_check import CheckedModel, check_model
from openr1.interfaces import Policy
from openr1.offline.fixed_dataset import (
    FixedDatasetJob,
    Metrics,
    count_steps,
    describe_count,
    run_fixed_dataset,
)
from openr1.runtime.interrupts import INTERRUPTS
from openr1.tracking.data_record import check_data, record_data
from openr1.tracking.loggers.client import check_tracking
from openr1.tracking.run_folder import check_unused


def run_sft(config: SftConfig, resume: bool) -> None:
    """Train, write metrics.jsonl, and export the model to `<run folder>/model` in Hugging Face format.

    Raises:
        OpenR1Error: With one line on what is wrong.
        Interrupted: A signal came; past the first step a checkpoint was written.
    """
    with INTERRUPTS.installed():
        check_sft(config)
        check_tracking(config.tracking)
        model = check_model(config.model, config.data.max_len, run_template(config))
        examples, dropped = load_model_examples(model, config.data.train, config.data)
        data = describe_count(len(examples), "examples", dropped)
        held_out: list[Example] = []
        if config.data.held_out is not None:
            held_out, dropped = load_model_examples(model, config.data.held_out, config.data)
            data += ", " + describe_count(len(held_out), "held out", dropped)
        num_steps = count_steps(config, len(examples))
        check_sft(config, num_steps)
        check_unused(config.run.folder, resume)
        schema = example_schema(config.data.columns)
        paths = [path for path in (config.data.train, config.data.held_out) if path is not None]
        fingerprints = {str(path): fingerprint(path, schema) for path in paths}
        if resume:
            check_data(config.run.folder, fingerprints)

        def make_job(policy: Policy) -> FixedDatasetJob:
            record_data(config.run.folder, fingerprints)
            return sft_job(config, num_steps, examples, held_out, policy)

        run_fixed_dataset(config, num_steps, resume, data, make_job)


def load_model_examples(model: CheckedModel, path: Path, data: SftDataConfig) -> tuple[list[Example], int]:
    """`load_examples` for a model: its tokenizer, and no token for which it has no embedding."""
    examples, dropped = load_examples(path, model.tokenizer, data)
    model.check_token_ids(path, (example.prompt_ids + example.response_ids for example in examples))
    return examples, dropped


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
