"""A pretrained model with a real tokenizer, through every command: eval, SFT, GRPO, resume, LoRA and export."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.real_model import smollm2
from tests.running import ROOT, read_jsonl, run_grpo, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SUMS = [(3, 4), (2, 5), (8, 1), (6, 3), (7, 7), (9, 5), (12, 4), (15, 6)]
QUESTION = "What is {} + {}? Answer with the number."
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def model() -> Path:
    """SmolLM2-135M-Instruct."""
    return smollm2()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with sums as training prompts, held-out prompts, and as examples of one sentence."""
    folder = tmp_path_factory.mktemp("sums")
    rows = [
        {"id": f"{a}+{b}", "prompt": QUESTION.format(a, b), "label": str(a + b), "task": "math_any"} for a, b in SUMS
    ]
    examples = [row | {"response": f"The sum is {row['label']}."} for row in rows]
    for name, content in (("train", rows), ("held_out", rows[:2]), ("examples", examples)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return folder


def run_cli(*words: str) -> str:
    """Run a command of openr1 to its end."""
    done = subprocess.run([sys.executable, "-m", "cli", *words], cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def load(model: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model by transformers alone."""
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval(), AutoTokenizer.from_pretrained(model)


def chat(prompt: str, response: str | None = None) -> list[dict[str, str]]:
    """A conversation."""
    turns = [{"role": "user", "content": prompt}]
    return turns if response is None else [*turns, {"role": "assistant", "content": response}]


@torch.no_grad()
def test_greedy_evaluation_writes_what_transformers_writes(model: Path, data: Path, tmp_path: Path) -> None:
    """Catches a prompt that is rendered or tokenized otherwise than transformers does, a lost end token, and text that
    is decoded wrongly.
    """
    output = tmp_path / "eval"
    flags = ["--max-tokens", str(NUM_TOKENS), "--dtype", "float32", "--output", str(output), "--kv-cache-gib", "0.2"]
    run_cli("eval", "--model", str(model), "--benchmarks", str(data / "train.jsonl"), *flags)
    lm, tokenizer = load(model, torch.float32)
    samples = {row["id"]: row["response"] for row in read_jsonl(output / "samples/train.jsonl")}
    assert len(samples) == len(SUMS)
    for a, b in SUMS:
        ids = tokenizer.apply_chat_template(
            chat(QUESTION.format(a, b)), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        written = lm.generate(**ids, max_new_tokens=NUM_TOKENS, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert samples[f"{a}+{b}"] == tokenizer.decode(written, skip_special_tokens=True)


def test_the_loss_of_sft_is_that_of_transformers(model: Path, data: Path, tmp_path: Path) -> None:
    """Catches prompt tokens that count, an end-of-turn token that does not, and weights that are loaded wrongly."""
    config = {
        "run": {"name": "sft", "output_dir": str(tmp_path)},
        "model": {"path": str(model), "dtype": "float32"},
        "data": {"train": str(data / "examples.jsonl")},
        "optimizer": {"learning_rate": 1e-5},
        "policy": {"train_batch_size": len(SUMS), "zero_stage": 0, "micro_batch_tokens": 1024, "threads": 2},
    }
    path = tmp_path / "sft.yaml"
    path.write_text(yaml.safe_dump(config))
    run_cli("sft", "--config", str(path))
    loss = read_jsonl(tmp_path / "sft/metrics.jsonl")[0]["sft/loss"]
    assert loss == pytest.approx(mean_loss(model), rel=1e-4)
    # It learned the sentence: the export, by transformers alone, is better at it.
    assert mean_loss(tmp_path / "sft/model") < loss - 0.1


@torch.no_grad()
def mean_loss(model: Path) -> float:
    """Mean negative log-prob of all response tokens, the end of the turn included, in float32."""
    lm, tokenizer = load(model, torch.float32)
    losses = []
    for a, b in SUMS:
        prompt, response = QUESTION.format(a, b), f"The sum is {a + b}."
        whole = tokenizer.apply_chat_template(chat(prompt, response), tokenize=False).removesuffix("\n")
        start = tokenizer.apply_chat_template(chat(prompt), add_generation_prompt=True, tokenize=False)
        ids = tokenizer.encode(whole, add_special_tokens=False)
        first = len(tokenizer.encode(start, add_special_tokens=False))
        log_probs = lm(torch.tensor([ids])).logits[0].log_softmax(-1)
        losses += [-float(log_probs[at - 1, ids[at]]) for at in range(first, len(ids))]
    return sum(losses) / len(losses)


def rl_config(path: Path, base: Path, data: Path, lora: dict[str, Any] | None = None) -> Path:
    """Two steps of two sums, with four responses each, in bfloat16."""
    return write_config(
        path,
        base,
        data,
        model={"dtype": "bfloat16", "lora": lora},
        data={"held_out": None, "prompt_max_len": 96},
        rollout={
            "generate_max_len": NUM_TOKENS,
            "rollout_batch_size": 2,
            "threads": 2,
            "kv_cache_gib": 0.2,
            "timeout_seconds": 300,
        },
        policy={"train_batch_size": 8, "threads": 2, "micro_batch_tokens": 2048, "timeout_seconds": 300},
        optimizer={"learning_rate": 1e-5},
    )


def check_steps(run: Path, num_steps: int) -> None:
    """Engine and trainer agree in every step, and the policy moved away from where it started."""
    rows = read_jsonl(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, num_steps + 1))
    assert all(row["policy/grad_norm"] > 0 and row["reward/signal_fraction"] > 0 for row in rows)
    # bfloat16 costs 1 to 2 % of the entropy.
    assert all(row["rollout/mismatch_abs_mean"] < 0.03 * row["policy/entropy"] for row in rows)
    assert rows[0]["policy/kl_before"] == pytest.approx(0, abs=1e-6)
    assert rows[1]["policy/kl_before"] > 1e-6


def test_grpo_trains_it_and_resumes(model: Path, data: Path, tmp_path: Path) -> None:
    """Catches pushes that miss the tied head, a resume from other weights, and an export that transformers cannot load
    whole or that is not the trained policy.
    """
    config = rl_config(tmp_path / "config.yaml", model, data)
    run_grpo(config, "--num_steps", "1", seconds=400)
    run_grpo(config, "--resume", seconds=400)
    run = tmp_path / "runs/small"
    check_steps(run, 2)
    export = run / "checkpoints/step_000002/model"
    exported, loading = AutoModelForCausalLM.from_pretrained(export, dtype=torch.bfloat16, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    base, tokenizer = load(model, torch.bfloat16)
    assert exported.lm_head.weight.data_ptr() == exported.model.embed_tokens.weight.data_ptr()
    changed = sum(int((a != b).sum()) for a, b in zip(base.parameters(), exported.parameters(), strict=True))
    assert changed > 0
    assert AutoTokenizer.from_pretrained(export).get_vocab() == tokenizer.get_vocab()


def test_lora_trains_it(model: Path, data: Path, tmp_path: Path) -> None:
    """Catches adapters that do not reach the engine or the export."""
    config = rl_config(tmp_path / "config.yaml", model, data, lora={"rank": 8, "alpha": 16})
    run_grpo(config, seconds=400)
    run = tmp_path / "runs/small"
    check_steps(run, 2)
    assert (run / "checkpoints/step_000002/model/adapter/adapter_config.json").is_file()
