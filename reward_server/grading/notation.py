"""Normalizes notation that can be written in several ways; applied to answers and golds before comparing them."""

import re

_FRACTIONS = (
    ("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5), ("⅗", 3, 5),
    ("⅘", 4, 5), ("⅙", 1, 6), ("⅚", 5, 6), ("⅐", 1, 7), ("⅛", 1, 8), ("⅜", 3, 8), ("⅝", 5, 8), ("⅞", 7, 8),
    ("⅑", 1, 9), ("⅒", 1, 10),
)  # fmt: skip
_GREEK_NAMES = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu",
    "xi", "omicron", "pi", "rho", "varsigma", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
)  # fmt: skip
_GREEK_CODES = range(ord("α"), ord("ω") + 1)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ⁽⁾", "0123456789+-ni()")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙᵢₐₓ", "0123456789+-niax")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ⁽⁾]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙᵢₐₓ]+")
_RAISED_OVER_LOWERED = re.compile("([⁰¹²³⁴-⁹]+)[⁄/]([₀-₉]+)")
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
        **dict.fromkeys("°º˚", r"^\circ "),
        "ℝ": r"\mathbb{R}",
        "ℤ": r"\mathbb{Z}",
        "ℕ": r"\mathbb{N}",
        "ℚ": r"\mathbb{Q}",
        "ℂ": r"\mathbb{C}",
        "⩽": r"\le ",
        "⩾": r"\ge ",
        "≦": r"\le ",
        "≧": r"\ge ",
        "≈": r"\approx ",
        "±": r"\pm ",
        "∓": r"\mp ",
        "⋅": r"\cdot ",
        "∙": r"\cdot ",
        "∗": "*",
        "∶": ":",
        "∅": r"\emptyset ",
        "∠": r"\angle ",
        "△": r"\triangle ",
        "∀": r"\forall ",
        "⌊": r"\lfloor ",
        "⌋": r"\rfloor ",
        "⌈": r"\lceil ",
        "⌉": r"\rceil ",
        "√": r"\sqrt ",
        **dict.fromkeys("€£¥￥￡", r"\$"),
        "′": "'",
        **dict.fromkeys("⁄∕", "/"),
        **{char: rf"\frac{{{top}}}{{{bottom}}}" for char, top, bottom in _FRACTIONS},
        **{chr(code): f"\\{name} " for code, name in zip(_GREEK_CODES, _GREEK_NAMES, strict=True) if name != "pi"},
        "、": ",",
        "。": ".",
    }
)
_DOUBLE_ASTERISK = re.compile(r"(?<=[A-Za-z0-9)}\]])( ?)\*\*\1(?=[A-Za-z0-9({\\-])")
_ESCAPED_TWICE = re.compile(
    r"\\\\(?=(?:left|right|[dt]?frac|sqrt|text|boxed|pi|infty|cdot|times|le|ge|ne|circ|cup|in|begin|end)(?![A-Za-z]))"
)
r"""A command with two backslashes: the text went through JSON twice. `\\\\` alone ends a row of a matrix."""
_BARE_FUNCTION = re.compile(
    r"(?<![\\A-Za-z{])(arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt|pi)(?![A-Za-z])"
)
_BARE_PERCENT = re.compile(r"(?<!\\)%")
_ROOT_OF_ONE = re.compile(r"\\sqrt\s*(?:(\[[^\[\]{}]*\])\s*)?(\d+|[a-zA-Z])")
_ROOT_OF_PARENTHESES = re.compile(r"\\sqrt\s*\(([^()]*)\)")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|boldsymbol|bold)\s*\{([^{}]*)\}")
_BEGINNING = re.compile(r"(?:\\[$ ,;!]|[\s$*])*")
# Matched against the reversed text. A search for a match at the end of a text would restart at each of its characters,
# and so take quadratic time.
_END_BACKWARDS = re.compile(r"(?:[ ,;!]\\(?!\\)|[\s$,;*。]|\.(?!\.\.))*")


def unify(text: str) -> str:
    r"""Write Unicode symbols as LaTeX, and strip the markup around the whole text.

    Strips white space, dollar signs (also of currency), asterisks, a full stop, and `\(...\)`, but no ellipsis. The
    mathematical meaning does not change.
    """
    if not text.isascii():
        text = _RAISED_OVER_LOWERED.sub(_as_fraction, text)
        text = _RAISED.sub(lambda found: f"^{{{found.group().translate(_SUPERSCRIPTS)}}}", text)
        text = _LOWERED.sub(lambda found: f"_{{{found.group().translate(_SUBSCRIPTS)}}}", text)
        text = text.translate(_CHARACTERS)
    elif not text.isprintable():
        text = text.translate(_CHARACTERS)  # line breaks and tabs
    if "\\" in text:
        text = _ESCAPED_TWICE.sub(r"\\", text)
        text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace(r"\cfrac", r"\frac")
        if r"\left" in text and "arrow" not in text:
            text = text.replace(r"\left", "").replace(r"\right", "")
        text = text.replace(r"\(", " ").replace(r"\)", " ").replace(r"\[", " ").replace(r"\]", " ")
    text = _BEGINNING.sub("", with_carets(text), count=1)
    text = _END_BACKWARDS.sub("", text[::-1], count=1)[::-1]
    return text.rstrip("\\").rstrip() if text.endswith("\\") else text


def _as_fraction(found: re.Match[str]) -> str:
    return rf"\frac{{{found[1].translate(_SUPERSCRIPTS)}}}{{{found[2].translate(_SUBSCRIPTS)}}}"


def with_carets(text: str) -> str:
    """The text with `^` for `**` between two operands, which may be asterisks of bold text everywhere else."""
    return _DOUBLE_ASTERISK.sub("^", text) if "**" in text else text


def normalize(text: str) -> str:
    r"""`unify` a text, take off a `\text{...}` around the whole of it, and add missing backslashes to functions.

    This is the spelling in which texts are compared as they stand.
    """
    text = unify(text)
    whole = _WRAPPER.fullmatch(text)
    if whole:
        text = whole[1].strip()
    text = _BARE_FUNCTION.sub(r"\\\1", text)
    text = _ROOT_OF_PARENTHESES.sub(r"\\sqrt{\1}", text)
    text = _ROOT_OF_ONE.sub(r"\\sqrt\1{\2}", text)
    return _BARE_PERCENT.sub(r"\%", text)
