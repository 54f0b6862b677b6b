"""Finds the thinking and the answer of a response with `<think>` and `<answer>` tags, by linear string search."""

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"


def opened_thought(prompt: str) -> str:
    """The `<think>` with which a prompt ends, and the white space behind it; "" if it ends with something else.

    Chat templates of reasoning models open the thought themselves. It belongs to the response, which continues it.
    """
    before = prompt.rstrip()
    return prompt[len(before) - len(THINK_OPEN) :] if before.endswith(THINK_OPEN) else ""


def has_think_answer_layout(text: str) -> bool:
    """Whether the text is exactly `<think>...</think>\\n<answer>...</answer>`.

    Each of the four tags occurs once, one newline separates the two blocks, and only white space may precede the first
    tag or follow the last. The blocks may be empty; their content is graded by other components.

    Args:
        text: The prefix followed by the response.
    """
    text = text.strip()
    return (
        text.startswith(THINK_OPEN)
        and THINK_CLOSE + "\n" + ANSWER_OPEN in text
        and text.endswith(ANSWER_CLOSE)
        and all(text.count(tag) == 1 for tag in (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE))
    )


def find_answer(text: str) -> str | None:
    """Content of the last `<answer>...</answer>` after the thinking, stripped of surrounding white space.

    The thinking ends at the last `</think>`. A text without think tags is searched from its beginning; a text that
    opens `<think>` but never closes it has no answer yet.

    Args:
        text: The prefix followed by the response.

    Returns:
        None if there is no closed answer block, or if its content is blank.
    """
    _, closed, rest = text.rpartition(THINK_CLOSE)
    if not closed and THINK_OPEN in text:
        return None
    before_close, closed, _ = rest.rpartition(ANSWER_CLOSE)
    _, opened, answer = before_close.rpartition(ANSWER_OPEN)
    return (answer.strip() or None) if closed and opened else None


def find_thinking(text: str) -> str:
    """Text from the first `<think>` to the last `</think>`, or to the end if it is never closed; "" without tags.

    Args:
        text: The prefix followed by the response.
    """
    _, opened, rest = text.partition(THINK_OPEN)
    before, closed, _ = rest.rpartition(THINK_CLOSE)
    return (before if closed else rest) if opened else ""
