"""All of GRPO on one page: prompts -> rollout -> rewards -> advantages -> update, in one process.

    python -m examples.grpo_loop [--num_steps 20] [--seed 0]

Trains data/models/tiny_base on Countdown with two CPU cores. P prompts a step with G responses each make B = P x G rows
of T tokens, V is the vocabulary. `openr1 train` does the same with vLLM, DeepSpeed and a reward server.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from openr1.algorithms.advantages import group_normalized_advantages
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.losses import ClipBounds
from openr1.algorithms.objectives.policy import PolicyObjective
from openr1.algorithms.optimizer_step import optimizer_step
from openr1.config.sections import ModelConfig
from openr1.data.chat import PromptFormat, end_token_ids
from openr1.data.prompts import PromptStream, load_prompts
from openr1.data.tokenizer import load_tokenizer
from openr1.types import Group, Prompt, Response
from openr1.workers.micro_batches import plan_micro_batches
from openr1.workers.model import LogProbModel, load_causal_lm
from reward_server.scoring import GradingResult, get_score
from reward_server.tasks import find_task

MODEL, PROMPTS = Path("data/models/tiny_base"), Path("data/samples/countdown_tiny/train.jsonl")
NUM_PROMPTS, GROUP_SIZE, TRAIN_BATCH_SIZE = 16, 8, 64  # P, G, and the rows of an optimizer step
GENERATE_MAX_LEN, TEMPERATURE, LEARNING_RATE, MICRO_BATCH_TOKENS = 160, 1.0, 1e-4, 4096


class PlainBackend:
    """The model with PyTorch's AdamW, in place of DeepSpeed: a `TrainBackend` of `optimizer_step`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, **kwargs: Any) -> Any:
        return self.model(input_ids, attention_mask, response_mask, **kwargs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


@torch.no_grad()
def generate(lm: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]) -> list[Group]:
    """Sample G responses per prompt, one token of all unfinished rows at a time, and keep their log-probs."""
    rows = [list(prompt.token_ids) for prompt in prompts for _ in range(GROUP_SIZE)]
    inputs = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
    input_ids, attention_mask = inputs["input_ids"], inputs["attention_mask"]  # [B, longest prompt]
    sampled: list[list[tuple[int, float]]] = [[] for _ in rows]
    ends, cache, unfinished = end_token_ids(tokenizer), DynamicCache(), torch.arange(len(rows))
    for _ in range(GENERATE_MAX_LEN):
        logits = lm(input_ids, attention_mask=attention_mask, past_key_values=cache, logits_to_keep=1).logits[:, -1]
        log_softmax = (logits / TEMPERATURE).log_softmax(-1)  # [unfinished, V]
        token_ids = torch.multinomial(log_softmax.exp(), 1)  # [unfinished, 1]
        columns = (unfinished, token_ids.flatten(), log_softmax.gather(-1, token_ids).flatten())
        for row, token_id, log_prob in zip(*(column.tolist() for column in columns), strict=True):
            sampled[row].append((token_id, log_prob))
        goes_on = ~torch.isin(token_ids.flatten(), torch.tensor(ends))
        unfinished, input_ids, attention_mask = unfinished[goes_on], token_ids[goes_on], attention_mask[goes_on]
        if len(unfinished) == 0:
            break
        attention_mask = nn.functional.pad(attention_mask, (0, 1), value=1)
        cache.batch_select_indices(goes_on)
    responses = []
    for pairs in sampled:
        ids, log_probs = zip(*pairs, strict=True)
        text, loss_mask = tokenizer.decode(ids, skip_special_tokens=True), (True,) * len(ids)
        responses.append(Response(text, ids, log_probs, loss_mask, "stop" if ids[-1] in ends else "length", 0, 0))
    return [Group(prompt, tuple(responses[i * GROUP_SIZE :][:GROUP_SIZE])) for i, prompt in enumerate(prompts)]


def grade(group: Group) -> list[GradingResult]:
    """Grade the G responses of a group, as the reward server does."""
    task, label = find_task(group.prompt.task), group.prompt.label
    return [get_score(task, one.text, label, finish_reason=one.finish_reason) for one in group.responses]


def train(num_steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(MODEL)
    stream = PromptStream(load_prompts(PROMPTS, tokenizer, prompt_max_len=64, prompt_format=PromptFormat()), seed)
    lm = load_causal_lm(ModelConfig(path=MODEL, dtype="float32", packing=False))
    policy = PlainBackend(LogProbModel(lm, TEMPERATURE))
    objective = PolicyObjective("ppo", ClipBounds(low=0.2, high=0.2), kl_coef=0.0)
    for step in range(1, num_steps + 1):
        prompts = stream.take(NUM_PROMPTS)
        groups = generate(lm, tokenizer, prompts)
        grades = [grade(group) for group in groups]
        rewards = torch.tensor([[one.reward or 0.0 for one in row] for row in grades])  # [P, G]
        valid = torch.tensor([[one.reward is not None for one in row] for row in grades])  # [P, G]
        advantages = group_normalized_advantages(rewards, valid)  # [P, G]
        batch = TrainBatch.from_groups(groups).with_advantages(advantages.flatten())  # tensors [B, T]
        batch = replace(batch, old_log_probs=batch.rollout_log_probs)  # the policy itself sampled
        for mini_batch in batch.mini_batches(TRAIN_BATCH_SIZE, "token", GENERATE_MAX_LEN):
            rows = mini_batch.drop_zero_advantage()
            plan = plan_micro_batches(rows.lengths, 1, MICRO_BATCH_TOKENS)[0]
            stats = optimizer_step(policy, [rows.select(part) for part in plan], objective)
        accuracy = sum(one.score or 0.0 for row in grades for one in row) / len(batch)
        print(f"step {step}: accuracy {accuracy:.3f}, reward {rewards.mean():.3f}, loss {stats.loss:.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="GRPO on one page.")
    parser.add_argument("--num_steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    train(**vars(parser.parse_args()))
