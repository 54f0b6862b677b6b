r"""Reads a number with what a Chinese answer puts around it: `7元`, `¥7`, `7万`, `\boxed{7}`, full-width digits."""

import re
from fractions import Fraction

from reward_server.grading.exact import read_number
from reward_server.grading.extraction import find_boxed
from reward_server.grading.notation import normalize

_SCALES = {"百": 10**2, "千": 10**3, "万": 10**4, "百万": 10**6, "千万": 10**7, "亿": 10**8}
_QUANTITY = re.compile(
    r"(?P<number>[-+]?[\d.,/{}\\a-z ]*[\d}])\s*(?P<scale>百万|千万|[万亿]|[百千](?![克米瓦卡帕升]))?"
    r"\s*(?P<unit>[\u4e00-\u9fff]{1,5}|[A-Za-z]{1,4})?"
)
_CHANGING = re.compile("[多余几约半折成倍至到或点第的]|以上|以下|以内|左右|分之")
"""Words that change a number: seven and a half (`7个半`), 70 % (`7折`), more than seven (`7个以上`)."""
MAX_CHARS = 200


def read_quantity(text: str) -> Fraction | None:
    """The value of a number, with a sign of currency before it, and a scale and a unit behind it.

    Returns:
        None for a text that is not a single number, or with a word behind it that may change its value.
    """
    plain = normalize(find_boxed(text) or text)
    if len(plain) > MAX_CHARS:
        return None
    match = _QUANTITY.fullmatch(plain.removeprefix("\\$").strip())
    if match is None or _CHANGING.search(match["unit"] or ""):
        return None
    number = read_number(match["number"].strip())
    return None if number is None else number * _SCALES.get(match["scale"], 1)
