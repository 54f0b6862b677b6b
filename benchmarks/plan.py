"""What `openr1 plan` predicts against what is measured, on the CPU: peak memory of training ranks, time of steps.

    python -m benchmarks.plan [--only memory,time] [--output benchmarks/results/plan.json]

Memory: for each variant of a random model of 27 million parameters, real training workers make two optimizer steps. The
peak is that of the resident set, less what a worker has before it loads the model: 0.54 GiB, which would hide errors.
The C library returns freed memory to the system at once here (`MALLOC_MMAP_THRESHOLD_`); by default it keeps some.

Time: shipped configs make ten steps each. The plan is told the mean response length that these steps had.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from benchmarks.commands import run_command
from benchmarks.controller import make_groups
from benchmarks.machine import ROOT, write_result
from benchmarks.markdown import fill_table
from openr1.actors import workers as workers_module
from openr1.actors.workers import start_workers
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.losses import ClipBounds
from openr1.algorithms.objectives.policy import PolicyObjective
from openr1.algorithms.objectives.value import ValueObjective
from openr1.config.load import load_config
from openr1.config.sections import Dtype, LoraConfig, ModelConfig, OptimizerConfig, PolicyConfig
from openr1.config.train import TrainConfig
from openr1.placement.group import Place
from openr1.plan.hardware import WORKER_FIRST_STEP_BYTES
from openr1.plan.machine import this_machine
from openr1.plan.memory import rank_memory
from openr1.plan.plan import Planner
from openr1.plan.shapes import read_shape
from openr1.plan.trace import MicroBatch, TracedModel
from openr1.runtime.files import write_whole
from openr1.runtime.ray_cluster import running_ray
from openr1.workers.micro_batches import cut_into_micro_batches, plan_batch
from openr1.workers.settings import LearnerSettings
from openr1.workers.worker import TrainWorker

RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
PROMPT, RESPONSE, STEPS = 64, 192, 10
TIMED = ("grpo_countdown_tiny", "grpo_math_tiny", "grpo_gsm8k_zh_tiny")
RESULT, PAGE = ROOT / "benchmarks/results/plan.json", ROOT / "docs/plan.md"


@dataclass(frozen=True)
class Variant:
    """A model and how it is trained."""

    zero_stage: int
    dtype: Dtype = "bfloat16"
    ranks: int = 1
    lora: bool = False
    critic: bool = False
    packing: bool = False
    checkpointing: bool = False
    offload: Literal["none", "cpu"] = "none"
    tokens: int = 2048
    layers: int = 8
    vocab: int = 8192
    tied: bool = True

    def model(self, folder: Path) -> ModelConfig:
        """Settings of the model in a folder."""
        return ModelConfig(
            path=folder,
            dtype=self.dtype,
            packing=self.packing,
            gradient_checkpointing=self.checkpointing,
            lora=LoraConfig(rank=16) if self.lora else None,
        )


VARIANTS = {
    "ZeRO 0, float32": Variant(0, "float32"),
    "ZeRO 1": Variant(1),
    "ZeRO 1, 2 ranks": Variant(1, ranks=2),
    "ZeRO 1, 12 layers, micro-batches of 512 tokens": Variant(1, layers=12, tokens=512),
    "ZeRO 1, LoRA": Variant(1, lora=True),
    "ZeRO 2": Variant(2),
    "ZeRO 2, 2 ranks": Variant(2, ranks=2),
    "ZeRO 2, float32": Variant(2, "float32"),
    "ZeRO 2, packing": Variant(2, packing=True),
    "ZeRO 2, gradient checkpointing": Variant(2, checkpointing=True),
    "ZeRO 2, micro-batches of 4,096 tokens": Variant(2, tokens=4096),
    "ZeRO 2, vocabulary of 65,536": Variant(2, layers=4, vocab=65_536),
    "ZeRO 2, untied head, offload": Variant(2, tied=False, offload="cpu"),
    "ZeRO 2, critic": Variant(2, critic=True),
    "ZeRO 3": Variant(3),
    "ZeRO 3, 2 ranks": Variant(3, ranks=2),
    "ZeRO 3, float32, 2 ranks": Variant(3, "float32", ranks=2),
    "ZeRO 3, LoRA": Variant(3, lora=True),
}


class MeasuredWorker(TrainWorker):
    """A training worker that knows the peak of its resident set."""

    def load_model(self, store_at: tuple[str, int], learner: LearnerSettings) -> None:
        """See `TrainWorker`; the libraries are imported first, and do not count."""
        import openr1.workers.deepspeed.backend
        import openr1.workers.learner  # noqa: F401 (for what they load)

        self._before = _status("VmRSS:")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        super().load_model(store_at, learner)

    def peak_bytes(self) -> int:
        """Peak since the model was loaded, above what was there before."""
        return _status("VmHWM:") - self._before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measured_bytes(variant: Variant) -> int:
    """Peak of the rank that needs most, in two optimizer steps of two micro-batches."""
    with tempfile.TemporaryDirectory() as name, running_ray():
        folder = Path(name)
        _write_model(folder / "model", variant)
        settings = variant.model(folder / "model")
        optimizer = OptimizerConfig(offload=variant.offload)
        role: Literal["critic", "policy"] = "critic" if variant.critic else "policy"
        learner = LearnerSettings(settings, optimizer, variant.zero_stage, 1.0, 2, role=role)
        policy = PolicyConfig(num_ranks=variant.ranks, zero_stage=variant.zero_stage)
        workers = start_workers(learner, policy, [Place()] * variant.ranks, folder, MeasuredWorker)
        batch, objective = _batch(variant)
        plan = plan_batch(batch, variant.ranks, variant.tokens, 512, variant.packing)
        shares = cut_into_micro_batches(batch, plan)
        for _ in range(2):
            ray.get([worker.step.remote(share, objective, True) for worker, share in zip(workers, shares, strict=True)])
        peaks: list[int] = ray.get([worker.peak_bytes.remote() for worker in workers])
        return max(peaks)


def _write_model(folder: Path, variant: Variant) -> None:
    config = Qwen2Config(
        hidden_size=512,
        num_hidden_layers=variant.layers,
        vocab_size=variant.vocab,
        intermediate_size=1408,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=variant.tied,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ROOT / "data/models/tiny_base").save_pretrained(folder)


def _batch(variant: Variant) -> tuple[TrainBatch, Any]:
    rows = 2 * variant.ranks * variant.tokens // (PROMPT + RESPONSE)
    batch = TrainBatch.from_groups(make_groups(rows, 1, RESPONSE, PROMPT, variant.vocab))
    zeros = torch.zeros_like(batch.rollout_log_probs)
    if variant.critic:
        return replace(batch, values=zeros, returns=zeros + 1).mini_batches(rows, "token", RESPONSE)[0], ValueObjective(
            0.5
        )
    batch = replace(batch, advantages=zeros + 1, ref_log_probs=zeros - 1)
    objective = PolicyObjective("ppo", ClipBounds(0.2, 0.2, None), kl_coef=0.01)
    return batch.mini_batches(rows, "token", RESPONSE)[0], objective


def predicted_bytes(variant: Variant) -> int:
    """The plan's peak of a rank, with the libraries that its first step loads."""
    with tempfile.TemporaryDirectory() as name:
        _write_model(Path(name), variant)
        settings = variant.model(Path(name))
        model = TracedModel(read_shape(settings), settings, None, variant.critic)
    length = PROMPT + RESPONSE
    cost = model.cost(MicroBatch(variant.tokens // length, length, RESPONSE), backward=True)
    memory = rank_memory(model, cost, variant.zero_stage, variant.ranks, variant.offload, on_gpu=False)
    return memory.device_bytes + memory.host_bytes + WORKER_FIRST_STEP_BYTES


def compare_memory() -> dict[str, Any]:
    """Predicted and measured peaks of all variants."""
    workers_module.WORKER_CPU_VARIABLES.update(RETURN_MEMORY)
    rows = {}
    for name, variant in VARIANTS.items():
        predicted, measured = predicted_bytes(variant), measured_bytes(variant)
        rows[name] = {"predicted": predicted, "measured": measured, "error": predicted / measured - 1}
        print(f"{name}: {rows[name]['error']:+.1%}", flush=True)
    return rows


def compare_time(config_name: str, folder: Path) -> dict[str, Any]:
    """Predicted and measured seconds of a step; medians of ten steps by phase."""
    changes = ["--num_steps", str(STEPS), "--data.held_out", "null"]
    changes += ["--evaluation.eval_steps", "0", "--optimizer.lr_warmup_steps", "0", "--run.output_dir", str(folder)]
    changes += ["--run.name", config_name, "--tracking.backends", "[]"]
    run_command(folder / "log", sys.executable, "-m", "cli", "train", "--config", config_name, *changes)
    rows = [json.loads(line) for line in (folder / config_name / "metrics.jsonl").read_text().splitlines()]
    config = load_config(TrainConfig, Path(config_name), changes)
    predictions = [Planner(this_machine(), row["rollout/response_length_mean"]).seconds(config) for row in rows]
    result = {
        phase: {
            "predicted": statistics.median(vars(one)[phase] for one in predictions),
            "measured": statistics.median(row[f"time/{phase}_seconds"] for row in rows),
        }
        for phase in ("step", "generate", "reference", "update")
    }
    errors = [one.step / row["time/step_seconds"] - 1 for one, row in zip(predictions, rows, strict=True)]
    return {"phases": result, "step_error": statistics.median(errors), "step_errors": [min(errors), max(errors)]}


def memory_table(rows: dict[str, Any]) -> list[list[str]]:
    """Of docs/plan.md: MiB and errors by variant."""
    mib = [(name, one["predicted"] / 2**20, one["measured"] / 2**20, one["error"]) for name, one in rows.items()]
    return [
        ["variant", "predicted, MiB", "measured, MiB", "error"],
        *([name, f"{predicted:,.0f}", f"{measured:,.0f}", f"{error:+.1%}"] for name, predicted, measured, error in mib),
    ]


def time_table(configs: dict[str, Any]) -> list[list[str]]:
    """Of docs/plan.md: seconds, predicted / measured, by config."""
    phases = ("step", "generate", "reference", "update")
    return [
        ["config", *(f"{phase}, predicted / measured" for phase in phases), "error of a step [smallest, largest]"],
        *(
            [
                f"`{name}`",
                *(
                    f"{one['phases'][phase]['predicted']:.2f} / {one['phases'][phase]['measured']:.2f}"
                    for phase in phases
                ),
                f"{one['step_error']:+.0%} [{one['step_errors'][0]:+.0%}, {one['step_errors'][1]:+.0%}]",
            ]
            for name, one in configs.items()
        ),
    ]


def write_page(result: dict[str, Any]) -> None:
    """Fill the tables of docs/plan.md."""
    text = fill_table(PAGE.read_text(encoding="utf-8"), "plan memory", memory_table(result["memory"]))
    write_whole(PAGE, fill_table(text, "plan time", time_table(result["time"])))


def main() -> None:
    """Compare and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="memory,time", metavar="NAMES", help="memory, time, or both (default)")
    parser.add_argument("--output", type=Path, default=RESULT, metavar="FILE")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    old = json.loads(args.output.read_text()) if args.output.exists() else {}
    result = {name: old[name] for name in ("memory", "time") if name in old}
    if "memory" in args.only:
        result["memory"] = compare_memory()
    if "time" in args.only:
        with tempfile.TemporaryDirectory() as folder:
            result["time"] = {name: compare_time(name, Path(folder)) for name in TIMED}
    write_result(args.output, result)
    if args.output == RESULT:
        write_page(result)


if __name__ == "__main__":
    main()
