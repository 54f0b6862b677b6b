"""Where the thinking ends and which text is the answer, by plain string search in linear time."""

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"


def has_think_answer_layout(text: str) -> bool:
    """True where the text is exactly `<think>...</think>\\n<answer>...</answer>`.

    Each of the four tags occurs once, one newline separates the two blocks, and only white space may stand before the
    first tag and after the last. The blocks may be empty: what they say is for other components to judge.

    Args:
        text: The prefix that the prompt opened, then the response.
    """
    text = text.strip()
    return (
        text.startswith(THINK_OPEN)
        and THINK_CLOSE + "\n" + ANSWER_OPEN in text
        and text.endswith(ANSWER_CLOSE)
        and all(text.count(tag) == 1 for tag in (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE))
    )


def find_answer(text: str) -> str | None:
    """Text of the last `<answer>...</answer>` after the thinking, without white space around it.

    Thinking ends with the last `</think>`. A text without think tags is searched from its beginning; one that opens
    `<think>` and never closes it has no answer yet.

    Args:
        text: The prefix that the prompt opened, then the response.

    Returns:
        None where there is no closed answer block, or where its content is blank.
    """
    _, closed, rest = text.rpartition(THINK_CLOSE)
    if not closed and THINK_OPEN in text:
        return None
    before_close, closed, _ = rest.rpartition(ANSWER_CLOSE)
    _, opened, answer = before_close.rpartition(ANSWER_OPEN)
    return (answer.strip() or None) if closed and opened else None


def find_thinking(text: str) -> str:
    """Text from the first `<think>` to the last `</think>`, or to the end where it never closes; nothing without tags.

    Args:
        text: The prefix that the prompt opened, then the response.
    """
    _, opened, rest = text.partition(THINK_OPEN)
    before, closed, _ = rest.rpartition(THINK_CLOSE)
    return (before if closed else rest) if opened else ""
