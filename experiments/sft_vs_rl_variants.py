"""The training variants of the comparison of SFT and RL, which spend the same token budget on the same base model.

The budget counts generated tokens, and trained tokens including prompts. Traces written by a program cost nothing until
they are trained on; forward passes of a reference model are not counted.
"""

import random
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import run_command
from benchmarks.machine import ROOT
from eval.samples import Sample, SampleFile
from experiments.sft_vs_rl_data import write_traces
from openr1.config.dpo import DpoConfig, DpoDataConfig
from openr1.config.load import load_config
from openr1.config.sft import SftDataConfig
from openr1.data.rollout_files import rollout_files
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import OpenR1Error
from openr1.offline.dpo import load_pairs
from openr1.offline.sft import load_examples
from openr1.runtime.files import read_objects, write_objects
from openr1.tracking.recorder import read_metrics

SEEDS = (1, 2, 3)
BUDGET = 600_000
CONFIGS = Path("experiments/configs")
GRPO_STEPS = 19
"""Slightly more steps than the budget allows; half as many for half of the budget."""
GROUP_SIZE = 8
NUM_GROUPS = 1200
"""Groups of eight responses from which preference pairs are made: about six tenths of the budget."""
NUM_CANDIDATES, NUM_FEW = 400, 256
"""Numbers of prompts: candidates whose pass rate is measured, and prompts of runs that visit each more than once."""
MIN_BUDGET_FRACTION = 0.9
"""Runs that spend a smaller fraction of the budget are invalid. A step is 2 to 7 % of a budget."""


@dataclass(frozen=True)
class RunContext:
    """Folder, task and seed of a run, and the root folder of the experiment."""

    folder: Path
    root: Path
    task: str
    seed: int

    @property
    def base(self) -> Path:
        """The base model, from which all runs start."""
        return self.root / "base/model"

    @property
    def prompts(self) -> Path:
        """The training prompts of the task."""
        return self.root / f"data/{self.task}_train.jsonl"

    def command(self, *words: object) -> float:
        """Run a command with its output in commands.log; returns its wall time in seconds."""
        return run_command(self.folder / "commands.log", *map(str, words))

    def cli(self, *words: object) -> float:
        """Run `python -m cli` with these arguments; returns its wall time in seconds."""
        return self.command(sys.executable, "-m", "cli", *words)


@dataclass(frozen=True)
class TrainResult:
    """A trained model, and the tokens and wall time of each stage."""

    model: Path
    stages: list[dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """A training variant; `seconds` is its estimated duration."""

    name: str
    seconds: float
    train: Callable[[RunContext], TrainResult | None]


def sft(context: RunContext, style: str, budget: int) -> TrainResult:
    """Supervised fine-tuning on as many traces of a style as the budget allows."""
    traces, name = context.folder / f"traces_{style}.jsonl", f"sft_{style}"
    # No trace has fewer than 40 tokens.
    write_traces(context.prompts, traces, style, budget // 40, context.seed)
    trained = truncate_to_budget(traces, context.base, budget)
    seconds = context.command(
        *("bash", "scripts/sft_cot.sh", CONFIGS / "sft.yaml", *_run_flags(context, name)),
        *("--model.path", context.base, "--data.train", traces),
    )
    stage = {"command": "sft", "generated": 0, "trained": trained, "seconds": round(seconds, 1)}
    return TrainResult(context.folder / name / "model", [stage])


def truncate_to_budget(traces: Path, model: Path, budget: int) -> int:
    """Truncate a trace file to the rows that fit into `budget` tokens (prompts and responses); returns their tokens."""
    examples, _ = load_examples(traces, load_tokenizer(model), SftDataConfig(train=traces))
    total = num_kept = 0
    for example in examples:
        tokens = len(example.prompt_ids) + len(example.response_ids)
        if total + tokens > budget:
            break
        total += tokens
        num_kept += 1
    write_objects(traces, [row for _, row in read_objects(traces)][:num_kept])
    return total


def grpo(
    context: RunContext, start: Path, prompts: Path, budget: int, num_steps: int, flags: Sequence[object] = ()
) -> TrainResult:
    """GRPO up to the last step within the budget; `num_steps` must be enough to exhaust the budget.

    `flags` override experiments/configs/grpo.yaml.
    """
    seconds = context.command(
        *("bash", "scripts/grpo.sh", CONFIGS / "grpo.yaml", *_run_flags(context, "grpo")),
        *("--model.path", start, "--data.train", prompts, "--num_steps", num_steps, *flags),
    )
    run = context.folder / "grpo"
    steps = _read_steps(run)
    within = steps_within_budget(steps, budget)
    # Checkpoints contain optimizer states, 25 MB per step: keep only the selected model.
    (run / f"checkpoints/step_{len(within):06d}/model").rename(run / "model")
    shutil.rmtree(run / "checkpoints")
    stage = {
        "command": "train",
        **_token_counts(within[-1]),
        "seconds": round(seconds * len(within) / len(steps), 1),
        "curve": within,
    }
    return TrainResult(run / "model", [stage])


def steps_within_budget(steps: list[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """Return the steps of a run, with cumulative tokens, that fit into the budget.

    Raises:
        OpenR1Error: The whole run spent less than `MIN_BUDGET_FRACTION` of the budget, or even the first step exceeds
            it.
    """
    within = [step for step in steps if sum(_token_counts(step).values()) <= budget]
    if len(within) == len(steps) and sum(_token_counts(steps[-1]).values()) < MIN_BUDGET_FRACTION * budget:
        raise OpenR1Error(
            f"{len(steps)} steps spend less than {MIN_BUDGET_FRACTION:.0%} of {budget:,} tokens; "
            "increase the number of steps"
        )
    if not within:
        raise OpenR1Error(f"the first step spends more than {budget:,} tokens; reduce the batch size")
    return within


def _token_counts(step: dict[str, Any]) -> dict[str, int]:
    return {kind: step[kind] for kind in ("generated", "trained")}


def _read_steps(run: Path) -> list[dict[str, Any]]:
    """Return, for each step, cumulative tokens and the accuracy and mean length of its responses."""
    generated = trained = 0.0
    steps, files = [], dict(rollout_files(run))
    for row in read_metrics(run / "metrics.jsonl"):
        sampled = [answer for _, answer in read_objects(files[int(row["step"])])]
        # Responses dropped by dynamic sampling were generated but not trained on.
        train = [answer["num_tokens"] for answer in sampled if answer["advantage"] is not None]
        new = sum(answer["num_tokens"] for answer in sampled)
        prompt = (row["throughput/tokens_per_second"] * row["time/step_seconds"] - new) / len(sampled)
        generated += new
        trained += sum(train) + prompt * len(train)
        steps.append(
            {
                "generated": round(generated),
                "trained": round(trained),
                "accuracy": round(row["reward/accuracy"], 4),
                "length": round(row["rollout/response_length_mean"], 1),
            }
        )
    return steps


def sample_base(context: RunContext, prompts: Path, samples: int) -> tuple[Path, dict[str, Any]]:
    """Sample the base model, `samples` responses per prompt; returns the file of samples and the cost of the stage."""
    output = context.folder / "sampled"
    seconds = context.cli(
        *("eval", "--model", context.base, "--benchmarks", prompts, "--output", output, "--n", samples),
        *("--temperature", 1, "--max-tokens", 160, "--seed", context.seed),
    )
    path = output / f"samples/{prompts.stem}.jsonl"
    tokens = sum(sample.num_tokens for group in SampleFile(path, samples).complete().values() for sample in group)
    return path, {"command": "eval", "generated": tokens, "trained": 0, "seconds": round(seconds, 1)}


def sample_prompts(context: RunContext, source: Path, count: int, name: str) -> Path:
    """Sample `count` prompts of a file with the seed of the run; returns the new file."""
    rows = [row for _, row in read_objects(source)]
    path = context.folder / f"{name}.jsonl"
    write_objects(path, random.Random(context.seed).sample(rows, count))
    return path


def dpo(context: RunContext, budget: int) -> TrainResult:
    """DPO on pairs of responses of the base model, for as many steps as the budget allows."""
    total = sum(1 for _ in read_objects(context.prompts))
    visits = -(-NUM_GROUPS // total)
    prompts = sample_prompts(context, context.prompts, NUM_GROUPS // visits, "asked")
    samples, sampled = sample_base(context, prompts, GROUP_SIZE * visits)
    pairs = context.folder / "pairs.jsonl"
    write_objects(pairs, make_pairs(prompts, SampleFile(samples, GROUP_SIZE * visits).complete()))
    tokenized, _ = load_pairs(pairs, load_tokenizer(context.base), DpoDataConfig(train=pairs))
    tokens = sum(len(ids) for pair in tokenized for ids in (pair.prompt_ids * 2, pair.chosen_ids, pair.rejected_ids))
    config = load_config(DpoConfig, ROOT / CONFIGS / "dpo.yaml", [])
    steps = (budget - sampled["generated"]) * len(tokenized) // (tokens * config.policy.train_batch_size)
    seconds = context.command(
        *("bash", "scripts/dpo.sh", CONFIGS / "dpo.yaml", *_run_flags(context, "dpo")),
        *("--model.path", context.base, "--data.train", pairs, "--max_steps", steps),
    )
    trained = sum(int(row["dpo/tokens"]) for row in read_metrics(context.folder / "dpo/metrics.jsonl"))
    stage = {"command": "dpo", "generated": 0, "trained": trained, "seconds": round(seconds, 1)}
    return TrainResult(context.folder / "dpo/model", [sampled | {"pairs": len(tokenized)}, stage])


def make_pairs(prompts: Path, sampled: dict[str, list[Sample]]) -> list[dict[str, Any]]:
    """Pair the first correct with the first wrong response in each group of eight that has both."""
    pairs = []
    for _, row in read_objects(prompts):
        samples = sampled[row["id"]]
        for start in range(0, len(samples), GROUP_SIZE):
            group = [sample for sample in samples[start : start + GROUP_SIZE] if not sample.truncated]
            correct = [sample.response for sample in group if sample.score == 1.0]
            wrong = [sample.response for sample in group if sample.score != 1.0]
            if correct and wrong:
                pairs.append({"prompt": row["prompt"], "chosen": correct[0], "rejected": wrong[0]})
    return pairs


def sft_then_grpo(context: RunContext, budget: int) -> TrainResult:
    """SFT on long traces with half of the budget, then GRPO with the other half."""
    first = sft(context, "long", budget // 2)
    second = grpo(context, first.model, context.prompts, budget // 2, GRPO_STEPS // 2)
    return TrainResult(second.model, first.stages + second.stages)


def grpo_band(context: RunContext, budget: int) -> TrainResult:
    """GRPO on prompts that the base model solves in one to three of four samples; these count towards the budget."""
    tried = sample_prompts(context, context.prompts, NUM_CANDIDATES, "tried")
    samples, sampled = sample_base(context, tried, 4)
    chosen = context.folder / "band"
    context.cli(
        *("data", "prepare", tried, "--output", chosen, "--pass-rates", samples),
        *("--pass-rate-min", 0.25, "--pass-rate-max", 0.75),
    )
    remaining = budget - sampled["generated"]
    trained = grpo(context, context.base, chosen / "train.jsonl", remaining, GRPO_STEPS)
    kept = sum(1 for _ in read_objects(chosen / "train.jsonl"))
    return TrainResult(trained.model, [sampled | {"kept": kept}, *trained.stages])


def grpo_few(context: RunContext, budget: int) -> TrainResult:
    """GRPO on a few random prompts, each visited several times."""
    prompts = sample_prompts(context, context.prompts, NUM_FEW, "few")
    return grpo(context, context.base, prompts, budget, GRPO_STEPS)


def grpo_half(context: RunContext, budget: int) -> TrainResult:
    """GRPO on a random half of the prompts of grpo_few: the control for grpo_limr."""
    prompts = sample_prompts(context, _find_few_run(context) / "few.jsonl", NUM_FEW // 2, "half")
    return grpo(context, context.base, prompts, budget, GRPO_STEPS)


def grpo_limr(context: RunContext, budget: int) -> TrainResult:
    """GRPO on the half of the prompts of grpo_few with the highest learning impact (LIMR).

    The budget of the run grpo_few, which LIMR needs, is not counted.
    """
    chosen = context.folder / "limr.jsonl"
    context.cli("data", "select", _find_few_run(context) / "grpo", "--output", chosen, "--count", NUM_FEW // 2)
    return grpo(context, context.base, chosen, budget, GRPO_STEPS)


def _find_few_run(context: RunContext) -> Path:
    """Return the folder of the run grpo_few with the same seed."""
    folder = context.root / run_name(context.task, "grpo_few", context.seed)
    if not (folder / "grpo/rollouts").exists():
        raise OpenR1Error(f"{folder}: has no rollouts to select from; delete the result of grpo_few to repeat that run")
    return folder


def _run_flags(context: RunContext, name: str) -> tuple[object, ...]:
    return ("--run.output_dir", context.folder, "--run.name", name, "--run.seed", context.seed)


VARIANTS = (
    Variant("base", 0, lambda context: None),
    Variant("sft_short", 55, lambda context: sft(context, "short", BUDGET)),
    Variant("sft_long", 75, lambda context: sft(context, "long", BUDGET)),
    Variant("grpo", 85, lambda context: grpo(context, context.base, context.prompts, BUDGET, GRPO_STEPS)),
    Variant("sft_then_grpo", 95, lambda context: sft_then_grpo(context, BUDGET)),
    Variant("dpo", 95, lambda context: dpo(context, BUDGET)),
)
SELECTION_VARIANTS = (
    Variant("grpo_band", 115, lambda context: grpo_band(context, BUDGET)),
    Variant("grpo_few", 85, lambda context: grpo_few(context, BUDGET)),
    Variant("grpo_half", 85, lambda context: grpo_half(context, BUDGET)),
    Variant("grpo_limr", 90, lambda context: grpo_limr(context, BUDGET)),
)
"""Variants that select prompts; only for Countdown, which has enough of them."""


def variants_of(task: str) -> tuple[Variant, ...]:
    """Return the variants of a task."""
    return VARIANTS + (SELECTION_VARIANTS if task == "countdown" else ())


def run_name(task: str, variant: str, seed: int) -> str:
    """Return the name of a run, of its folder and of its result file."""
    return f"{task}-{variant}-seed{seed}"
