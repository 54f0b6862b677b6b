"""Chat templates that ask for today's date: a prompt must be the same on every day."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from transformers.utils import chat_template_utils

from openr1.data.chat import PromptFormat, render
from openr1.data.tokenizer import load_tokenizer

LIKE_LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}'
    "{%- endif %}Today Date: {{ date_string }} {{ messages[0].content }}"
)
"""How Llama 3.2's template begins."""


class Tomorrow(datetime):
    """The clock of the next day."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:
        """A day later."""
        return datetime.now() + timedelta(days=1)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (LIKE_LLAMA, "Today Date: 26 Jul 2024 What is 2 + 3?"),
        ("{{ strftime_now('%Y-%m-%d %H:%M') }} {{ messages[0].content }}", "2024-07-26 00:00 What is 2 + 3?"),
    ],
)
def test_prompts_are_the_same_on_the_next_day(
    template: str, expected: str, tiny_model: Callable[[bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a DPO run that cannot be resumed the next morning, because all of its pairs have other tokens."""
    tokenizer = load_tokenizer(tiny_model(True))
    tokenizer.chat_template = template

    def prompt() -> str:
        return render({"prompt": "What is 2 + 3?"}, tokenizer, PromptFormat())[0]

    assert prompt() == expected
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert prompt() == expected
