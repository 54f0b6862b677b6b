"""The text of a response against vLLM's own detokenizer, which gets the same tokens one by one."""

import random
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from openr1.data.tokenizer import load_tokenizer
from openr1.rollout.engine import to_vllm
from openr1.rollout.responses import response_text
from openr1.types import SamplingParams
from tests.running import ROOT

VllmText = Callable[[PreTrainedTokenizerFast, Sequence[int], Sequence[int], str], str | None]

SAMPLING = SamplingParams(
    n_samples_per_prompt=1, generate_max_len=64, temperature=1.0, top_p=1.0, seed=7, seed_stream="train/0"
)


@pytest.fixture(scope="module")
def vllm_text() -> VllmText:
    """What vLLM makes of tokens by default, when each of them comes in a step of its own.

    None where its stream starts again and forgets tokens: it warns, and does so if a token changes the text before.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

    def text(
        tokenizer: PreTrainedTokenizerFast, context: Sequence[int], tokens: Sequence[int], finish_reason: str
    ) -> str | None:
        params = to_vllm(SAMPLING, 1, 64, [])
        request = SimpleNamespace(request_id="1", prompt_token_ids=list(context), sampling_params=params)
        detokenizer = FastIncrementalDetokenizer(tokenizer, request)
        stream = detokenizer.stream
        for place, token in enumerate(tokens, 1):
            detokenizer.update([token], place == len(tokens) and finish_reason == "stop")
        whole = detokenizer.stream is stream
        return str(detokenizer.get_next_output_text(finished=True, delta=False)) if whole else None

    return text


def byte_level() -> PreTrainedTokenizerFast:
    """The tokenizer of the tiny model, whose vocabulary has every byte."""
    return load_tokenizer(ROOT / "data/models/tiny_base")


def of_bytes(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """One token for each byte of a text."""
    alphabet = Tokenizer.from_str(tokenizer._tokenizer.to_str()).pre_tokenizer.pre_tokenize_str(text)
    return [tokenizer.convert_tokens_to_ids(character) for piece, _ in alphabet for character in piece]


def spaced() -> PreTrainedTokenizerFast:
    """A tokenizer that writes words with a space in front, except the first of a text, as that of Llama 2 does."""
    words = ["<unk>", "<s>", "</s>", "\u2581hello", "\u2581world", "ly", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = [(word, -float(place)) for place, word in enumerate(words)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words[:3]])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def ids(tokenizer: PreTrainedTokenizerFast, *words: str) -> list[int]:
    """Ids of words of the vocabulary."""
    return [tokenizer.convert_tokens_to_ids(word) for word in words]


def test_text_by_hand() -> None:
    """Catches an end token or half a character in the text, and a space that is lost or doubled at the start.

    The text of a stopped response ends before its last token, special or not; one that was cut off has its last token.
    """
    tokenizer = byte_level()
    context = tokenizer.encode("the sum is", add_special_tokens=False)
    tokens = tokenizer.encode(" 3 + 4", add_special_tokens=False)
    eos = tokenizer.eos_token_id
    euro = of_bytes(tokenizer, "\u20ac")
    assert len(euro) == 3
    assert response_text(tokenizer, context, tokens, "length") == " 3 + 4"
    assert response_text(tokenizer, context, [*tokens, eos], "stop") == " 3 + 4"
    assert response_text(tokenizer, context, [*tokens, euro[0]], "stop") == " 3 + 4"
    assert response_text(tokenizer, context, [*tokens, eos], "length") == " 3 + 4"
    assert response_text(tokenizer, context, [*tokens, *euro], "length") == " 3 + 4\u20ac"
    for count in (1, 2):
        assert response_text(tokenizer, context, [*tokens, *euro[:count]], "length") == " 3 + 4"
    assert response_text(tokenizer, context, [eos], "stop") == ""
    assert response_text(tokenizer, context, [euro[0]], "length") == ""
    # A context that was cut off inside a character: it belongs to who completes it.
    assert response_text(tokenizer, [*context, *euro[:2]], [euro[2], *tokens], "length") == "\u20ac 3 + 4"


def test_first_word_of_a_response_has_its_space() -> None:
    """Catches a response that is decoded by itself, where such tokenizers take the first space away."""
    tokenizer = spaced()
    context = ids(tokenizer, "<s>", "\u2581hello")
    assert tokenizer.decode(ids(tokenizer, "\u2581world")) == "world"
    assert response_text(tokenizer, context, ids(tokenizer, "\u2581world", "ly"), "length") == " worldly"
    assert response_text(tokenizer, context, ids(tokenizer, "ly", "\u2581world"), "length") == "ly world"


@pytest.mark.parametrize("kind", ["byte_level", "spaced"])
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_text_is_that_of_vllm(
    kind: str,
    finish_reason: str,
    vllm_text: VllmText,
) -> None:
    """Catches any difference from the text that vLLM gives, on random tokens: most of them are no whole characters."""
    tokenizer = byte_level() if kind == "byte_level" else spaced()
    context = tokenizer.encode("hello world", add_special_tokens=False)
    assert context
    draw = random.Random(0)
    texts = set()
    for _ in range(300):
        tokens = draw.choices(range(len(tokenizer)), k=draw.randint(1, 12))
        expected = vllm_text(tokenizer, context, tokens, finish_reason)
        if expected is not None:
            assert response_text(tokenizer, context, tokens, finish_reason) == expected, tokens
            texts.add(expected)
    assert len(texts) > (200 if kind == "byte_level" else 100)


@pytest.mark.usefixtures("vllm_text")
def test_vllm_is_asked_for_no_text() -> None:
    """Catches text that is decoded twice, the first time token by token between two steps of the engine."""
    assert to_vllm(SAMPLING, 1, 64, [0]).detokenize is False
