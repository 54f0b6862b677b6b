"""Memory of log-probs and their gradient: computed in chunks, as in openr1, versus all logits at once.

    python -m benchmarks.log_prob_memory [--tokens 4096] [--output benchmarks/results/log_prob_memory.json]

Each implementation runs forward and backward on random hidden states in a separate process, with the vocabulary size of
Qwen2.5. The result is the peak memory of the process minus its memory before the computation. Times are of one pass.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.machine import ROOT, write_result
from openr1.algorithms.token_ops import Compute, TokenOutputs, chunking, token_log_probs

VOCABULARY, HIDDEN = 151_936, 256
IMPLEMENTATIONS = ("chunked", "naive")


def measure(way: str, tokens: int) -> dict[str, float]:
    """Compute log-probs of `tokens` tokens and the gradient of their sum; returns additional peak GiB and seconds."""
    torch.manual_seed(0)
    head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False)
    hidden = torch.randn(1, tokens + 1, HIDDEN, requires_grad=True)
    input_ids = torch.randint(0, VOCABULARY, (1, tokens + 1))
    mask = torch.ones(1, tokens + 1, dtype=torch.bool)
    mask[:, 0] = False
    before, start = _peak_gib(), time.monotonic()
    if way == "chunked":

        def run_head(hidden: torch.Tensor, compute: Compute) -> TokenOutputs:
            return compute(hidden, head.weight, None)

        outputs = token_log_probs(run_head, hidden, input_ids, mask, 1.0)
        log_probs = outputs.log_probs[:, 1:]
    else:
        log_probs = head(hidden[:, :-1]).log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    log_probs.sum().backward()
    assert hidden.grad is not None
    return {
        "gib": _peak_gib() - before,
        "seconds": time.monotonic() - start,
        "sum": float(log_probs.detach().sum()),
        "gradient_norm": float(hidden.grad.norm()),
    }


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.log_prob_memory", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument(
        "--way", choices=IMPLEMENTATIONS, help="run only this implementation, in this process, and print the result"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/log_prob_memory.json")
    args = parser.parse_args(argv)
    if args.way:
        print(json.dumps(measure(args.way, args.tokens)))
        return 0
    results = {}
    for way in IMPLEMENTATIONS:
        words = [sys.executable, "-m", "benchmarks.log_prob_memory", "--way", way, "--tokens", str(args.tokens)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        results[way] = json.loads(done.stdout.splitlines()[-1])
    ratio = results["naive"]["gib"] / results["chunked"]["gib"]
    settings = {
        "tokens": args.tokens,
        "vocabulary": VOCABULARY,
        "hidden": HIDDEN,
        "chunk_tokens": chunking(VOCABULARY, None).size,
    }
    write_result(args.output, {**settings, **results, "memory_ratio": ratio})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
