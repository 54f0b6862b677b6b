"""One supervised run from start to exported model."""

from openr1.algorithms.batch import TrainBatch
from openr1.config.checks import check_sft
from openr1.config.fixed_data import SftConfig
from openr1.data.prompts import load_tokenizer
from openr1.runtime.interrupts import INTERRUPTS
from openr1.tracking.loggers.client import check_tracking
from openr1.tracking.run_folder import check_unused
from openr1.training.fixed_data_run import Metrics, num_updates, started, told
from openr1.training.sft import Example, batches, held_out_loss, load_examples, train_step
from openr1.workers.rope import check_positions


def run_supervised(config: SftConfig, resume: bool) -> None:
    """Train, write metrics.jsonl, and export the model to `<run folder>/model` in Hugging Face format.

    Raises:
        OpenR1Error: With one line on what is wrong.
        Interrupted: A signal came; past the first step a checkpoint was written.
    """
    with INTERRUPTS.installed():
        check_sft(config)
        check_tracking(config.tracking)
        tokenizer = load_tokenizer(config.model.path)
        check_positions(config.model, config.data.max_len)
        examples, dropped = load_examples(config.data.train, tokenizer, config.data)
        data = told(len(examples), "examples", dropped)
        held_out: list[Example] = []
        if config.data.held_out is not None:
            held_out, dropped = load_examples(config.data.held_out, tokenizer, config.data)
            data += ", " + told(len(held_out), "held out", dropped)
        updates = num_updates(config, len(examples))
        check_sft(config, updates)
        check_unused(config.run.folder, resume)
        with started(config, updates, resume, data) as run:

            def train(batch: TrainBatch) -> Metrics:
                return train_step(run.policy, batch, config.z_loss_coef)

            def measure() -> Metrics:
                return {"eval/loss": held_out_loss(run.policy, held_out, config.policy.train_batch_size)}

            run.go(batches(examples, config), train, measure if held_out else None, config.eval_steps, resume)
