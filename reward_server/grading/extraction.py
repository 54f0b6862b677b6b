"""Extracts the answer of a mathematical response, by linear scans of the text."""

import re
from typing import NamedTuple

from reward_server.components.tags import THINK_CLOSE, THINK_OPEN

MAX_TAIL_CHARS = 1500
"""Length of the end of a response without a box that is searched for its answer, in characters."""

_TOKEN = re.compile(r"(\\*+)((?:(?<=\\)(?:boxed|fbox)\s*+)?[{}])|\\++")
_MAX_LINK_CHARS = 40
_SPACE = r"(?:[\s$.~]|\\[()\[\],;:! ]|\\q?quad)*"
_LINK = re.compile(_SPACE + r"(?:[,，、;；和或]|\\text\s*\{\s*(?:and|or)\s*\}|and|or)" + _SPACE)


class _Box(NamedTuple):
    r"""Offsets of a `\boxed{...}` in the text: its start, the start of its content, and its end after the brace."""

    start: int
    inside: int
    end: int


def after_thinking(text: str) -> str:
    """The text after the last `</think>`; the whole text without think tags, "" if the thinking never ends."""
    _, closed, rest = text.rpartition(THINK_CLOSE)
    return "" if not closed and THINK_OPEN in text else rest


def find_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` (or `\fbox{...}`) after the thinking.

    Consecutive boxes joined only by a comma, "and" or "or" are one answer, a comma-separated list: otherwise a policy
    could hedge with several boxes. Duplicates are dropped, and so are blank boxes before the last. Of nested boxes, the
    outermost is used.

    Returns:
        None if there is no box, or if the last one is never closed or blank.
    """
    text = after_thinking(text)
    boxes, open_box = _closed_boxes(text)
    if not boxes or open_box > boxes[-1].end:
        return None
    run = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        begin, end = box.end, run[-1].start
        if end - begin > _MAX_LINK_CHARS or not _LINK.fullmatch(text, begin, end):
            break
        run.append(box)
    contents = [text[box.inside : box.end - 1].strip() for box in reversed(run)]
    return ", ".join(dict.fromkeys(content for content in contents if content)) if contents[-1] else None


def find_tail(text: str) -> str | None:
    """The last `MAX_TAIL_CHARS` characters after the thinking, to be searched for an answer without a box."""
    return after_thinking(text)[-MAX_TAIL_CHARS:].strip() or None


def _closed_boxes(text: str) -> tuple[list[_Box], int]:
    """The outermost closed boxes, and the start of the last box that is never closed, or -1 if there is none."""
    boxes: list[_Box] = []
    opened: list[tuple[int, int] | None] = []
    for token in _TOKEN.finditer(text):
        slashes, word = token.groups()
        if word is None or (len(word) == 1 and len(slashes) % 2):
            continue  # not a brace, or an escaped one
        if word.endswith("{"):
            opened.append((token.start(), token.end()) if len(word) > 1 else None)
        elif opened:
            box = opened.pop()
            if box is not None:
                start, inside = box
                while boxes and boxes[-1].start > start:
                    boxes.pop()
                boxes.append(_Box(start, inside, token.end()))
    return boxes, max((box[0] for box in opened if box is not None), default=-1)
