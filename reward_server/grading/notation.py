"""Normalizes notation that can be written in several ways; applied to answers and golds before comparing them."""

import re

_CHARACTERS = str.maketrans(
    {
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width forms
        **dict.fromkeys(
            "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000\t\n\r", " "
        ),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u200e\u200f\u202a\u202b\u202c\u202d\u202e", ""),
        **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014", "-"),
        "π": r"\pi ",
        "∞": r"\infty ",
        "∈": r"\in ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "×": r"\times ",
        "·": r"\cdot ",
        "÷": r"\div ",
        "°": r"^\circ ",
        "、": ",",
        "。": ".",
    }
)
_BARE_FUNCTION = re.compile(
    r"(?<![\\A-Za-z{])(arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt|pi)(?![A-Za-z])"
)
_BARE_PERCENT = re.compile(r"(?<!\\)%")
_ROOT_OF_ONE = re.compile(r"\\sqrt\s*(?:(\[[^\[\]{}]*\])\s*)?([0-9a-zA-Z])")
_ROOT_OF_PARENTHESES = re.compile(r"\\sqrt\s*\(([^()]*)\)")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|boldsymbol|bold)\s*\{([^{}]*)\}")
_BEGINNING = re.compile(r"(?:\\[$ ,;!]|[\s$*])*")
# Matched against the reversed text. A search for a match at the end of a text would restart at each of its characters,
# and so take quadratic time.
_END_BACKWARDS = re.compile(r"(?:[ ,;!]\\(?!\\)|[\s$.,;*。])*")


def normalize(text: str) -> str:
    r"""Write Unicode symbols as LaTeX, add missing backslashes to functions, and strip surrounding markup.

    Strips white space, dollar signs (also of currency), asterisks, a full stop, `\(...\)`, and a `\text{...}` around
    the whole text. The mathematical meaning does not change.
    """
    text = text.translate(_CHARACTERS)
    text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace(r"\cfrac", r"\frac")
    text = text.replace(r"\left", "").replace(r"\right", "") if r"\left" in text and "arrow" not in text else text
    text = text.replace(r"\(", " ").replace(r"\)", " ").replace(r"\[", " ").replace(r"\]", " ")
    text = _BEGINNING.sub("", text, count=1)
    text = _END_BACKWARDS.sub("", text[::-1], count=1)[::-1]
    if text.endswith("\\"):
        text = text.rstrip("\\").rstrip()
    whole = _WRAPPER.fullmatch(text)
    if whole:
        text = whole[1].strip()
    text = _BARE_FUNCTION.sub(r"\\\1", text)
    text = _ROOT_OF_PARENTHESES.sub(r"\\sqrt{\1}", text)
    text = _ROOT_OF_ONE.sub(r"\\sqrt\1{\2}", text)
    return _BARE_PERCENT.sub(r"\%", text)
