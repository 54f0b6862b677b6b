"""Create a tiny Qwen2 model with random weights and a trained tokenizer, in Hugging Face format.

    python -m data.generate.tiny_model --output DIR [--seed 0 --hidden-size 192 --layers 4 --untied]

The tokenizer is byte-level BPE: decode(encode(text)) returns every text in Unicode normal form C unchanged, Chinese
included. Each digit is one token, so that a number has only one tokenization. The training corpus comes from
data.generate.countdown with a fixed seed, so that the same arguments always give the same files.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from data.generate.countdown import WORDINGS, ProblemSpace, TraceStyle, draw_traces

PAD_TOKEN = "<|endoftext|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS_ROWS_PER_WORDING = 2000


def _corpus() -> Iterator[str]:
    """Yield prompts in every wording with traces, from a fixed seed."""
    rng = random.Random(0)
    space = ProblemSpace(counts=(3, 4), largest=99, target_largest=99)
    for wording in sorted(WORDINGS):
        for row in draw_traces(
            space, CORPUS_ROWS_PER_WORDING, 0.5, TraceStyle(0.6, 0.0), TraceStyle(0.3, 0.5), rng, wording
        ):
            yield f"user\n{row['prompt']}\nassistant\n{row['response']}\nsystem\n"


def build_tokenizer(vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer, with a chat template and distinct padding and end-of-turn tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAGS),
        special_tokens=[PAD_TOKEN, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens(list(TAGS))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD_TOKEN, eos_token=TURN_END)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(
    tokenizer: PreTrainedTokenizerFast, hidden_size: int, layers: int, tied: bool, seed: int
) -> Qwen2ForCausalLM:
    """Build a Qwen2 model with random float32 weights and a head size of 32, the minimum of vLLM's CPU attention.

    Raises:
        ValueError: `hidden_size` is not a positive multiple of 64.
    """
    if hidden_size <= 0 or hidden_size % 64:
        raise ValueError(
            f"hidden_size is {hidden_size}; it must be a multiple of 64 (an even number of heads of size 32)"
        )
    heads = hidden_size // 32
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 8 // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(config)


def write_tiny_model(
    output: Path,
    hidden_size: int = 192,
    layers: int = 4,
    tied: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write model and tokenizer to a folder in Hugging Face format."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, hidden_size, layers, tied, seed)
    model.to(dtype).save_pretrained(output)
    # AutoTokenizer replaces the pre-tokenizer by Qwen2's; save again so that the files match what is used.
    tokenizer.save_pretrained(output)
    AutoTokenizer.from_pretrained(output, trust_remote_code=False).save_pretrained(output)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data.generate.tiny_model", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden-size", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--untied", action="store_true", help="do not tie the output head to the embeddings")
    args = parser.parse_args(argv)
    try:
        write_tiny_model(args.output, args.hidden_size, args.layers, not args.untied, args.seed)
    except ValueError as error:
        parser.error(str(error))
    print(f"{args.output}: tiny model with random weights")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
