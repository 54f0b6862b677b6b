"""How much of a LoRA policy's update reaches the engines: as adapters, and merged into weights in bfloat16.

    python -m benchmarks.lora_update [--model FOLDER] [--output benchmarks/results/lora_update.json]

Adapters of rank 16 on all linear layers are trained by AdamW on four rows, with float32 master weights as DeepSpeed
keeps them. After some steps, the log-probs of the rows' tokens are computed with the master weights, with the adapters
that engines get (`lora.factors`), and with merged weights (`lora.Weight.merged`); all in float32, so that only what was
rounded differs. The share is how far log-probs moved from those of the base model in the direction of the policy's,
relative to the policy's own movement. Without `--model`: the tiny model with rows of Countdown, and random weights and
rows in the shape of SmolLM2-135M.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.machine import ROOT, write_result
from openr1.config.sections import LoraConfig
from openr1.data.tokenizer import load_tokenizer
from openr1.workers.lora import add_adapters, factors, full_weights

STEPS = (1, 2, 5, 10)
LEARNING_RATES = (1e-5, 1e-4)
LORA = LoraConfig(rank=16, alpha=32)
ROWS, LENGTH = 4, 64
TEXT = "Using the numbers 3, 7 and 25, make an equation that equals 46. 25 + 3 * 7 = 46, so it is (25 + 3 * 7). "


def load(model: Path | None) -> PreTrainedModel:
    """A model in float32 whose weights are bfloat16 numbers."""
    torch.manual_seed(0)
    if model is None:
        shape = LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
        lm: PreTrainedModel = LlamaForCausalLM(shape)
    else:
        lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    return lm.to(torch.bfloat16).float()


def rows_for(model: Path | None) -> Tensor:
    """Tokens [4, 64]: a text, shifted from row to row, or random ones."""
    if model is None:
        return torch.randint(0, 49_152, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    tokens = load_tokenizer(model).encode(TEXT * 20, add_special_tokens=False)
    return torch.tensor([tokens[5 * row :][:LENGTH] for row in range(ROWS)])


def log_probs(lm: nn.Module, rows: Tensor) -> Tensor:
    """Log-probs [4, 63] of the tokens after the first."""
    logits: Tensor = lm(rows).logits[:, :-1]
    return logits.log_softmax(-1).gather(-1, rows[:, 1:, None]).squeeze(-1)


@contextmanager
def in_place_of(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """For the block, these parameters have other values."""
    own = [parameter.data for parameter in parameters]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = value
    yield
    for parameter, value in zip(parameters, own, strict=True):
        parameter.data = value


@torch.no_grad()
def as_adapters(lm: PreTrainedModel, rows: Tensor) -> Tensor:
    """Log-probs under the adapters in bfloat16."""
    parameters = [factor.parameter for factor in factors(lm)]
    with in_place_of(parameters, [parameter.data.bfloat16().float() for parameter in parameters]):
        return log_probs(lm, rows)


@torch.no_grad()
def as_merged(lm: PreTrainedModel, rows: Tensor) -> Tensor:
    """Log-probs under merged weights in bfloat16."""
    adapted = [weight for weight in full_weights(lm) if weight.adapter is not None]
    merged = [weight.merged().bfloat16().float() for weight in adapted]
    zeros = [torch.zeros_like(factor.parameter.data) for factor in factors(lm)]
    parameters = [*(weight.base for weight in adapted), *(factor.parameter for factor in factors(lm))]
    with in_place_of(parameters, [*merged, *zeros]):
        return log_probs(lm, rows)


def train(model: Path | None, learning_rate: float) -> dict[str, dict[str, float]]:
    """Shares, and the mean difference to the policy in nats a token, by step."""
    lm, rows = load(model), rows_for(model)
    add_adapters(lm, LORA)
    trained = [factor.parameter for factor in factors(lm)]
    for parameter in trained:
        # Master weights start from the values of the bfloat16 model.
        parameter.data = parameter.data.bfloat16().float()
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    base = log_probs(lm, rows).detach()
    found = {}
    for step in range(1, max(STEPS) + 1):
        (-log_probs(lm, rows).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step not in STEPS:
            continue
        with torch.no_grad():
            moved = log_probs(lm, rows) - base
        one = {"moved": float(moved.abs().mean())}
        for way, engine in {"adapters": as_adapters, "merged": as_merged}.items():
            reached = engine(lm, rows) - base
            one[f"{way}_share"] = float((reached * moved).sum() / moved.square().sum())
            one[f"{way}_difference"] = float((reached - moved).abs().mean())
        found[str(step)] = one
        print(f"lr {learning_rate:g}, step {step}: " + ", ".join(f"{name} {value:.3g}" for name, value in one.items()))
    return found


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lora_update", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", type=Path, help="measure this model instead")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/lora_update.json", metavar="FILE")
    args = parser.parse_args()
    models = {"tiny_base": ROOT / "data/models/tiny_base", "smollm2_shape": None}
    if args.model is not None:
        models = {args.model.name: args.model}
    result: dict[str, Any] = {
        name: {f"{rate:g}": train(model, rate) for rate in LEARNING_RATES} for name, model in models.items()
    }
    write_result(args.output, {"models": result})


if __name__ == "__main__":
    main()
