"""Forward and backward pass of a bfloat16 model on a CPU without bfloat16 instructions: PyTorch's own, and openr1's.

    python -m benchmarks.cpu_bfloat16 [--rounds 7] [--output benchmarks/results/cpu_bfloat16.json]

The three variants take turns: layers as PyTorch computes them in bfloat16, layers with float32 arithmetic
(`cpu_layers.use_float32_arithmetic`), and a float32 model. Each round gives the ratios of its times.
"""

import argparse
import time
from pathlib import Path

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks.machine import ROOT, spread, write_result
from openr1.algorithms.bfloat16 import cpu_multiplies_bfloat16
from openr1.config.sections import Dtype, ModelConfig
from openr1.workers.cpu_layers import attend_in_float32, use_float32_arithmetic
from openr1.workers.model import DTYPES, LogProbModel, load_causal_lm

MODEL = ROOT / "data/models/tiny_base"
ROWS, LENGTH, THREADS = 32, 128, 2


def load(dtype: Dtype, own: bool) -> LogProbModel:
    """The tiny model, with PyTorch's layers or ours."""
    # Loaded in float32, its layers are PyTorch's on every CPU.
    lm = load_causal_lm(ModelConfig(path=MODEL, dtype="float32", packing=False)).to(DTYPES[dtype])
    if own:
        use_float32_arithmetic(lm)
    return LogProbModel(lm, 1.0)


def seconds(model: LogProbModel, own: bool) -> float:
    """One forward and backward pass over the same rows."""
    AttentionInterface.register("sdpa", attend_in_float32 if own else sdpa_attention_forward)
    ids = torch.randint(3, 200, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    start = time.perf_counter()
    model(ids, mask, mask & (torch.arange(LENGTH) > 0)).log_probs.sum().backward()
    return time.perf_counter() - start


def main() -> int:
    """Measure and write the result; on a CPU that has the instructions there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu_bfloat16", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/cpu_bfloat16.json", metavar="FILE")
    args = parser.parse_args()
    if cpu_multiplies_bfloat16():
        print("cpu_bfloat16: this CPU multiplies bfloat16 itself, and openr1 leaves its layers as they are")
        return 0
    torch.set_num_threads(THREADS)
    variants = {
        "pytorch": (load("bfloat16", own=False), False),
        "openr1": (load("bfloat16", own=True), True),
        "float32": (load("float32", own=False), False),
    }
    rounds = [{name: seconds(*variant) for name, variant in variants.items()} for _ in range(args.rounds + 1)][1:]
    result = {
        "rows": ROWS,
        "tokens": ROWS * LENGTH,
        "threads": THREADS,
        "rounds": args.rounds,
        "seconds": {name: spread([one[name] for one in rounds]) for name in variants},
        "speedup": spread([one["pytorch"] / one["openr1"] for one in rounds]),
        "against_float32": spread([one["openr1"] / one["float32"] for one in rounds]),
    }
    write_result(args.output, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
