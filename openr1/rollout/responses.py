"""From what an engine or an environment returned to a response that can be trained on; what cannot is refused."""

import math
import os
from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

from openr1.errors import EngineError
from openr1.types import Prompt, Response

if TYPE_CHECKING:
    from vllm import CompletionOutput

TEXT_CONTEXT_TOKENS = 16
"""Tokens before a response that are decoded with it: tokenizers may write the first word of a text otherwise. Some are
more than special tokens, which have no text."""

UNKNOWN_CHARACTER = "\ufffd"
"""What bytes that are no UTF-8 are decoded to."""


def response_text(tokenizer: Any, context: Sequence[int], token_ids: Sequence[int], finish_reason: str | None) -> str:
    """The text of sampled tokens, decoded at once. It is the text that vLLM's own detokenizer has at the end.

    Special tokens have no text, and neither has the token that stopped the response, whatever it is. Tokens at the end
    whose text is not valid UTF-8, such as the first bytes of a character, are left out.

    Args:
        tokenizer: A tokenizer of transformers.
        context: What came before the sampled tokens.
        token_ids: The sampled tokens.
        finish_reason: vLLM's: "stop" if the last token stopped the response.

    Example:
        "a", the first two of the three bytes of "€" and no stop: the text is "a".
    """

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    before = list(context[-TEXT_CONTEXT_TOKENS:])
    tokens = before + list(token_ids[:-1] if finish_reason == "stop" else token_ids)
    # The last tokens tell in nearly all cases, and the whole text would be decoded once per token that is left out.
    while len(tokens) > len(before) and (
        decode(tokens[-TEXT_CONTEXT_TOKENS:]).endswith(UNKNOWN_CHARACTER) or decode(tokens).endswith(UNKNOWN_CHARACTER)
    ):
        tokens.pop()
    text = decode(tokens)
    # Not the length of what came before: its last bytes may be the start of a character that the response completes.
    return text[len(os.path.commonprefix([decode(before), text])) :]  # noqa: RUF071 (these are no paths)


def to_response(prompt: Prompt, completion: "CompletionOutput", text: str) -> Response:
    """A finished request and its text as a response, all of its tokens sampled.

    Raises:
        EngineError: It has no tokens, not one log-prob per token, or was broken off.
    """
    token_ids = tuple(completion.token_ids)
    log_probs = tuple(completion.logprobs.logprobs)
    if not token_ids or len(log_probs) != len(token_ids):
        raise EngineError(
            f"prompt {prompt.id}: the engine returned {len(token_ids)} tokens with {len(log_probs)} log-probs"
        )
    reason = completion.finish_reason
    if reason not in ("stop", "length"):
        raise EngineError(
            f"prompt {prompt.id}: the engine broke a response off after {len(token_ids)} tokens ({reason})"
        )
    versions = [int(span.version) for span in completion.weight_versions]
    sampled = (True,) * len(token_ids)
    return Response(text, token_ids, log_probs, sampled, reason, versions[0], versions[-1])


def checked_response(prompt: Prompt, response: Response, generate_max_len: int) -> Response:
    """Refuse what an environment got wrong before anything trains on it.

    Raises:
        EngineError: Lengths of the per-token fields differ, no token was sampled, the response is too long, or a
            log-prob is no number.
    """
    length, sampled = len(response.token_ids), response.num_tokens
    lengths = {length, len(response.log_probs), len(response.loss_mask)}
    if len(lengths) != 1 or sampled == 0 or length > generate_max_len:
        raise EngineError(
            f"prompt {prompt.id}: the environment returned {length} tokens ({sampled} of them sampled), "
            f"{len(response.log_probs)} log-probs and a loss_mask of {len(response.loss_mask)}; all must have the same "
            f"length, from 1 to rollout.generate_max_len {generate_max_len}, with at least one sampled token"
        )
    # Those of inserted tokens are not read.
    if not math.isfinite(sum(compress(response.log_probs, response.loss_mask))):
        raise EngineError(
            f"prompt {prompt.id}: a log-prob of a sampled token is NaN or infinite; the engine's weights or logits are "
            "not finite; resume from an older checkpoint, or lower optimizer.learning_rate"
        )
    return response
