"""Where the answer of a mathematical response stands, by linear scans of the text."""

import re

from reward_server.components.tags import THINK_CLOSE, THINK_OPEN

MAX_TAIL_CHARS = 1500
"""Characters at the end of a response without a box that may hold its answer."""

_TOKEN = re.compile(r"\\+(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_MAX_LINK_CHARS = 40
_SPACE = r"(?:[\s$.~]|\\[()\[\],;:! ]|\\q?quad)*"
_LINK = re.compile(_SPACE + r"(?:[,，、;；和或]|\\text\s*\{\s*(?:and|or)\s*\}|and|or)" + _SPACE)


def after_thinking(text: str) -> str:
    """The text after the last `</think>`; all of it without think tags, nothing where thinking never ends."""
    _, closed, rest = text.rpartition(THINK_CLOSE)
    return "" if not closed and THINK_OPEN in text else rest


def find_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` (or `\fbox{...}`) after the thinking.

    Boxes in a row that are joined by nothing but a comma, "and" or "or" are one answer, joined by commas: two boxes
    do not make two chances. Of a box within a box, the outer counts.

    Returns:
        None where there is no box, the last one is never closed, or it is blank.
    """
    text = after_thinking(text)
    boxes, open_box = _closed_boxes(text)
    if not boxes or open_box > boxes[-1][1]:
        return None
    run = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        link = text[box[1] : run[0][0]]
        if len(link) > _MAX_LINK_CHARS or not _LINK.fullmatch(link):
            break
        run.insert(0, box)
    contents = dict.fromkeys(content for _, _, content in run)
    return ", ".join(contents).strip() or None


def find_tail(text: str) -> str | None:
    """The last `MAX_TAIL_CHARS` characters after the thinking: where the answer of a text without a box stands."""
    return after_thinking(text)[-MAX_TAIL_CHARS:].strip() or None


def _closed_boxes(text: str) -> tuple[list[tuple[int, int, str]], int]:
    """Outermost closed boxes as (start, end, content), and where the last box that stays open starts (-1: none)."""
    boxes: list[tuple[int, int, str]] = []
    opened: list[tuple[int, int] | None] = []
    for token in _TOKEN.finditer(text):
        word = token.group()
        if word.endswith("{") and len(word) > 2:
            opened.append((token.start(), token.end()))
        elif word == "{":
            opened.append(None)
        elif word == "}" and opened:
            box = opened.pop()
            if box is not None:
                start, inside = box
                while boxes and boxes[-1][0] > start:
                    boxes.pop()
                boxes.append((start, token.end(), text[inside : token.start()]))
    return boxes, max((box[0] for box in opened if box is not None), default=-1)
