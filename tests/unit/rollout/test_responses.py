"""What an engine returned becomes a response, or is refused."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from openr1.errors import EngineError
from openr1.rollout.responses import checked_response, to_response
from openr1.types import Response
from tests.fakes import make_prompt, make_response

NAN, INFINITY = float("nan"), float("inf")


def completion_of(**changes: Any) -> Any:
    """A finished request of two tokens, of weight versions 3 and 4, changed as told."""
    fields = {
        "token_ids": [7, 2],
        "logprobs": SimpleNamespace(logprobs=[-0.5, -1.0]),
        "weight_versions": [SimpleNamespace(version="3"), SimpleNamespace(version="4")],
        "finish_reason": "stop",
    }
    return SimpleNamespace(**fields | changes)


def test_a_finished_request_by_hand() -> None:
    """Catches tokens that do not train, a version that is not the first or the last, and a lost text."""
    response = to_response(make_prompt(), completion_of(), "seven")
    assert response == Response("seven", (7, 2), (-0.5, -1.0), (True, True), "stop", 3, 4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"token_ids": [], "logprobs": SimpleNamespace(logprobs=[])}, "returned 0 tokens with 0 log-probs"),
        ({"token_ids": [7, 2, 2]}, "returned 3 tokens with 2 log-probs"),
        ({"logprobs": SimpleNamespace(logprobs=[])}, "returned 2 tokens with 0 log-probs"),
        ({"finish_reason": "abort"}, r"broke a response off after 2 tokens \(abort\)"),
        ({"finish_reason": "error"}, r"broke a response off after 2 tokens \(error\)"),
        ({"finish_reason": None}, r"broke a response off after 2 tokens \(None\)"),
    ],
)
def test_what_an_engine_got_wrong_is_refused(changes: dict[str, Any], told: str) -> None:
    """Catches a response without tokens, whose last one would be the prompt's, tokens with another's log-prob, and half
    of a response that trains as a whole one.
    """
    with pytest.raises(EngineError, match=f"^prompt p0: the engine {told}$"):
        to_response(make_prompt(), completion_of(**changes), "")


@pytest.mark.parametrize("wrong", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("packed", [False, True])
def test_log_probs_that_are_no_numbers_are_refused(wrong: float, packed: bool) -> None:
    """Catches a step that is applied although its engine's logits are not finite: where top_p is below 1 or weights
    may be older, the mismatch is not compared with a bound, and NaN would pass.
    """
    response = replace(make_response(1, 2, 3), log_probs=(-0.5, wrong, -1.0))
    with pytest.raises(EngineError, match="prompt p0: a log-prob of a sampled token is NaN or infinite") as told:
        checked_response(make_prompt(), response.packed() if packed else response, 5)
    assert "\n" not in str(told.value)


def test_log_probs_of_inserted_tokens_may_be_anything() -> None:
    """Catches an environment that is refused for numbers which nothing reads."""
    response = replace(make_response(1, 2, inserted=[1]), log_probs=(-0.5, NAN))
    assert checked_response(make_prompt(), response, 5) is response
