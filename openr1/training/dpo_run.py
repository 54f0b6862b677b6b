"""One run of preference optimization from start to exported model."""

import torch

from openr1.config.checks import check_dpo
from openr1.config.fixed_data import DpoConfig
from openr1.data.prompts import load_tokenizer
from openr1.errors import ConfigError
from openr1.runtime.files import read_objects, write_objects
from openr1.runtime.interrupts import INTERRUPTS
from openr1.tracking.loggers.client import check_tracking
from openr1.tracking.run_folder import check_unused
from openr1.training.dpo import Pair, fingerprint, load_pairs, order_of_pairs, sums_of_log_probs, train_step
from openr1.training.fixed_data_run import Metrics, OfflineRun, num_updates, started, told
from openr1.workers.rope import check_positions


def run_preferences(config: DpoConfig, resume: bool) -> None:
    """Train, write metrics.jsonl, and export the model to `<run folder>/model` in Hugging Face format.

    Raises:
        OpenR1Error: With one line on what is wrong.
        Interrupted: A signal came; past the first step a checkpoint was written.
    """
    with INTERRUPTS.installed():
        check_dpo(config)
        check_tracking(config.tracking)
        tokenizer = load_tokenizer(config.model.path)
        check_positions(config.model, config.data.max_len)
        pairs, dropped = load_pairs(config.data.train, tokenizer, config.data)
        updates = num_updates(config, len(pairs))
        check_dpo(config, updates)
        check_unused(config.run.folder, resume)
        with started(config, updates, resume, told(len(pairs), "pairs", dropped)) as run:
            reference = _reference(run, pairs, config)

            def train(chosen: list[int]) -> Metrics:
                return train_step(run.policy, [pairs[index] for index in chosen], reference[chosen], config.beta)

            run.go(order_of_pairs(len(pairs), config), train, None, 0, resume)


def _reference(run: OfflineRun, pairs: list[Pair], config: DpoConfig) -> torch.Tensor:
    """Log-probs [N, 2] under the weights before the first step, kept in the run folder for a resumed run.

    The policy computes them itself while it still is the reference: no second model is needed.

    Raises:
        ConfigError: They belong to other pairs.
    """
    path = config.run.folder / "reference_log_probs.jsonl"
    if not path.exists():
        sums = sums_of_log_probs(run.policy, pairs, config.policy.train_batch_size).tolist()
        rows = [
            {"pair": fingerprint(pair), "chosen": chosen, "rejected": rejected}
            for pair, (chosen, rejected) in zip(pairs, sums, strict=True)
        ]
        write_objects(path, rows)
    kept = [row for _, row in read_objects(path)]
    if [row["pair"] for row in kept] != [fingerprint(pair) for pair in pairs]:
        raise ConfigError(f"{path}: belongs to other pairs; {config.data.train} has changed since the run began")
    return torch.tensor([(row["chosen"], row["rejected"]) for row in kept], dtype=torch.float64)
