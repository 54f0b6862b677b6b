"""The ways to spend a budget of tokens on a base model: what each run of the comparison of SFT and RL does.

The budget counts tokens that a model generated and tokens that it was trained on, prompts included in the latter. What
a search program wrote costs nothing until it is trained on; forward passes of a reference model are not counted.
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
from openr1.config_file import load_config
from openr1.config_offline import DpoConfig, DpoDataConfig, SftDataConfig
from openr1.errors import OpenR1Error
from openr1.files import read_objects, write_objects
from openr1.preferences import load_pairs
from openr1.prompts import load_tokenizer
from openr1.supervised import load_examples
from openr1.tracking import read_metrics

SEEDS = (1, 2, 3)
BUDGET = 600_000
CONFIGS = Path("experiments/configs")
GRPO_STEPS = 19
"""A few more than the budget has room for, and half as many for half of it."""
GROUP_SIZE = 8
NUM_GROUPS = 1200
"""Groups of eight that preferences are taken from: about six tenths of a budget."""
NUM_TRIED, NUM_FEW = 400, 256
"""Prompts that are tried for their pass rate; and of the runs that visit each prompt more than once."""
LEAST_SPENT = 0.9
"""Of a budget: runs that spend less are faulty. A step is 2 to 7 % of a budget."""


@dataclass(frozen=True)
class Place:
    """Where a run is: its folder, that of the experiment, and what sets it apart."""

    folder: Path
    root: Path
    task: str
    seed: int

    @property
    def base(self) -> Path:
        """The model that all start from."""
        return self.root / "base/model"

    @property
    def prompts(self) -> Path:
        """What the task trains on."""
        return self.root / f"data/{self.task}_train.jsonl"

    def command(self, *words: object) -> float:
        """Run a command; its output goes to commands.log. Returns seconds."""
        return run_command(self.folder / "commands.log", *map(str, words))

    def cli(self, *words: object) -> float:
        """Run `python -m cli`."""
        return self.command(sys.executable, "-m", "cli", *words)


@dataclass(frozen=True)
class Trained:
    """A model, and for each stage that led to it the tokens and the wall time that it took."""

    model: Path
    stages: list[dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """One way to train; `seconds` is what it takes, about."""

    name: str
    seconds: float
    train: Callable[[Place], Trained | None]


def sft(place: Place, style: str, budget: int) -> Trained:
    """Supervised training on traces of a style, as many as the budget has room for."""
    traces, name = place.folder / f"traces_{style}.jsonl", f"sft_{style}"
    # No trace has fewer than 40 tokens.
    write_traces(place.prompts, traces, style, budget // 40, place.seed)
    trained = cut(traces, place.base, budget)
    seconds = place.command(
        *("bash", "scripts/sft_cot.sh", CONFIGS / "sft.yaml", *_run_flags(place, name)),
        *("--model.path", place.base, "--data.train", traces),
    )
    stage = {"command": "sft", "generated": 0, "trained": trained, "seconds": round(seconds, 1)}
    return Trained(place.folder / name / "model", [stage])


def cut(traces: Path, model: Path, budget: int) -> int:
    """Leave only the first rows, as many as `budget` tokens of prompts and responses allow; returns their tokens."""
    examples, _ = load_examples(traces, load_tokenizer(model), SftDataConfig(train=traces))
    total = kept = 0
    for example in examples:
        tokens = len(example.prompt_ids) + len(example.response_ids)
        if total + tokens > budget:
            break
        total += tokens
        kept += 1
    write_objects(traces, [row for _, row in read_objects(traces)][:kept])
    return total


def grpo(
    place: Place, start: Path, prompts: Path, budget: int, num_steps: int, flags: Sequence[object] = ()
) -> Trained:
    """Reinforcement learning up to the last step within the budget; `num_steps` must reach it.

    `flags` override experiments/configs/grpo.yaml.
    """
    seconds = place.command(
        *("bash", "scripts/grpo.sh", CONFIGS / "grpo.yaml", *_run_flags(place, "grpo")),
        *("--model.path", start, "--data.train", prompts, "--num_steps", num_steps, *flags),
    )
    run = place.folder / "grpo"
    steps = _steps(run)
    within = within_budget(steps, budget)
    # Each checkpoint has the optimizer's state: 25 MB a step.
    (run / f"checkpoints/step_{len(within):06d}/model").rename(run / "model")
    shutil.rmtree(run / "checkpoints")
    stage = {
        "command": "train",
        **_spent(within[-1]),
        "seconds": round(seconds * len(within) / len(steps), 1),
        "curve": within,
    }
    return Trained(run / "model", [stage])


def within_budget(steps: list[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """The steps of a run, each with the tokens until then, that a budget has room for.

    Raises:
        OpenR1Error: The whole run spent so little that it ended too early.
    """
    within = [step for step in steps if sum(_spent(step).values()) <= budget]
    if len(within) == len(steps) and sum(_spent(steps[-1]).values()) < LEAST_SPENT * budget:
        raise OpenR1Error(f"{len(steps)} steps spend less than {LEAST_SPENT:.0%} of {budget:,} tokens; allow more")
    if not within:
        raise OpenR1Error(f"the first step spends more than {budget:,} tokens; make steps smaller")
    return within


def _spent(step: dict[str, Any]) -> dict[str, int]:
    return {kind: step[kind] for kind in ("generated", "trained")}


def _steps(run: Path) -> list[dict[str, Any]]:
    """For each step the tokens until then, and how its responses were."""
    generated = trained = 0.0
    steps = []
    for row in read_metrics(run / "metrics.jsonl"):
        sampled = [answer for _, answer in read_objects(run / f"rollouts/step_{row['step']:06d}.jsonl")]
        # Responses that dynamic sampling dropped were generated, and did not train.
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


def sample_base(place: Place, prompts: Path, samples: int) -> tuple[Path, dict[str, Any]]:
    """Responses of the base model to the prompts of a file, `samples` each; the file of samples, and what they took."""
    output = place.folder / "sampled"
    seconds = place.cli(
        *("eval", "--model", place.base, "--benchmarks", prompts, "--output", output, "--n", samples),
        *("--temperature", 1, "--max-tokens", 160, "--seed", place.seed),
    )
    path = output / f"samples/{prompts.stem}.jsonl"
    tokens = sum(sample.num_tokens for group in SampleFile(path, samples).complete().values() for sample in group)
    return path, {"command": "eval", "generated": tokens, "trained": 0, "seconds": round(seconds, 1)}


def draw_prompts(place: Place, source: Path, count: int, name: str) -> Path:
    """So many prompts of a file, drawn by the run's seed."""
    rows = [row for _, row in read_objects(source)]
    path = place.folder / f"{name}.jsonl"
    write_objects(path, random.Random(place.seed).sample(rows, count))
    return path


def dpo(place: Place, budget: int) -> Trained:
    """Preferences between the base model's own responses, as many times over as the budget has room for."""
    total = sum(1 for _ in read_objects(place.prompts))
    visits = -(-NUM_GROUPS // total)
    prompts = draw_prompts(place, place.prompts, NUM_GROUPS // visits, "asked")
    samples, sampled = sample_base(place, prompts, GROUP_SIZE * visits)
    pairs = place.folder / "pairs.jsonl"
    write_objects(pairs, make_pairs(prompts, SampleFile(samples, GROUP_SIZE * visits).complete()))
    tokenized, _ = load_pairs(pairs, load_tokenizer(place.base), DpoDataConfig(train=pairs))
    tokens = sum(len(ids) for pair in tokenized for ids in (pair.prompt_ids * 2, pair.chosen_ids, pair.rejected_ids))
    config = load_config(DpoConfig, ROOT / CONFIGS / "dpo.yaml", [])
    steps = (budget - sampled["generated"]) * len(tokenized) // (tokens * config.policy.train_batch_size)
    seconds = place.command(
        *("bash", "scripts/dpo.sh", CONFIGS / "dpo.yaml", *_run_flags(place, "dpo")),
        *("--model.path", place.base, "--data.train", pairs, "--max_steps", steps),
    )
    trained = sum(int(row["dpo/tokens"]) for row in read_metrics(place.folder / "dpo/metrics.jsonl"))
    stage = {"command": "dpo", "generated": 0, "trained": trained, "seconds": round(seconds, 1)}
    return Trained(place.folder / "dpo/model", [sampled | {"pairs": len(tokenized)}, stage])


def make_pairs(prompts: Path, sampled: dict[str, list[Sample]]) -> list[dict[str, Any]]:
    """The first right and the first wrong response of each eight to a prompt, where there are both."""
    pairs = []
    for _, row in read_objects(prompts):
        samples = sampled[row["id"]]
        for start in range(0, len(samples), GROUP_SIZE):
            group = [sample for sample in samples[start : start + GROUP_SIZE] if not sample.truncated]
            right = [sample.response for sample in group if sample.score == 1.0]
            wrong = [sample.response for sample in group if sample.score != 1.0]
            if right and wrong:
                pairs.append({"prompt": row["prompt"], "chosen": right[0], "rejected": wrong[0]})
    return pairs


def sft_then_grpo(place: Place, budget: int) -> Trained:
    """Half of the budget for long traces, the other half for reinforcement learning from there."""
    first = sft(place, "long", budget // 2)
    second = grpo(place, first.model, place.prompts, budget // 2, GRPO_STEPS // 2)
    return Trained(second.model, first.stages + second.stages)


def grpo_band(place: Place, budget: int) -> Trained:
    """Prompts that the base model solves in one to three of four tries; trying is part of the budget."""
    tried = draw_prompts(place, place.prompts, NUM_TRIED, "tried")
    samples, sampled = sample_base(place, tried, 4)
    chosen = place.folder / "band"
    place.cli(
        *("data", "prepare", tried, "--output", chosen, "--pass-rates", samples),
        *("--pass-rate-min", 0.25, "--pass-rate-max", 0.75),
    )
    left = budget - sampled["generated"]
    trained = grpo(place, place.base, chosen / "train.jsonl", left, GRPO_STEPS)
    kept = sum(1 for _ in read_objects(chosen / "train.jsonl"))
    return Trained(trained.model, [sampled | {"kept": kept}, *trained.stages])


def grpo_few(place: Place, budget: int) -> Trained:
    """A few prompts, drawn at random, each visited several times."""
    prompts = draw_prompts(place, place.prompts, NUM_FEW, "few")
    return grpo(place, place.base, prompts, budget, GRPO_STEPS)


def grpo_half(place: Place, budget: int) -> Trained:
    """A random half of the few prompts, which grpo_limr must beat."""
    prompts = draw_prompts(place, _few(place) / "few.jsonl", NUM_FEW // 2, "half")
    return grpo(place, place.base, prompts, budget, GRPO_STEPS)


def grpo_limr(place: Place, budget: int) -> Trained:
    """The half of the few prompts that followed the mean of the run on all of them (LIMR).

    That run cost a budget of its own.
    """
    chosen = place.folder / "limr.jsonl"
    place.cli("data", "select", _few(place) / "grpo", "--output", chosen, "--count", NUM_FEW // 2)
    return grpo(place, place.base, chosen, budget, GRPO_STEPS)


def _few(place: Place) -> Path:
    """The folder of the run grpo_few of the same seed."""
    folder = place.root / run_name(place.task, "grpo_few", place.seed)
    if not (folder / "grpo/rollouts").exists():
        raise OpenR1Error(f"{folder}: has no rollouts to select from; remove the result of this run, to make it anew")
    return folder


def _run_flags(place: Place, name: str) -> tuple[object, ...]:
    return ("--run.output_dir", place.folder, "--run.name", name, "--run.seed", place.seed)


VARIANTS = (
    Variant("base", 0, lambda place: None),
    Variant("sft_short", 55, lambda place: sft(place, "short", BUDGET)),
    Variant("sft_long", 75, lambda place: sft(place, "long", BUDGET)),
    Variant("grpo", 85, lambda place: grpo(place, place.base, place.prompts, BUDGET, GRPO_STEPS)),
    Variant("sft_then_grpo", 95, lambda place: sft_then_grpo(place, BUDGET)),
    Variant("dpo", 95, lambda place: dpo(place, BUDGET)),
)
SELECTION_VARIANTS = (
    Variant("grpo_band", 115, lambda place: grpo_band(place, BUDGET)),
    Variant("grpo_few", 85, lambda place: grpo_few(place, BUDGET)),
    Variant("grpo_half", 85, lambda place: grpo_half(place, BUDGET)),
    Variant("grpo_limr", 90, lambda place: grpo_limr(place, BUDGET)),
)
"""Which prompts to learn from; on Countdown, which has many."""


def variants_of(task: str) -> tuple[Variant, ...]:
    """The variants that are tried on a task."""
    return VARIANTS + (SELECTION_VARIANTS if task == "countdown" else ())


def run_name(task: str, variant: str, seed: int) -> str:
    """Name of a run, of its folder and of its result."""
    return f"{task}-{variant}-seed{seed}"
