r"""Splits LaTeX into tokens, in linear time on any text: numbers, letters, words, commands and signs.

Synonyms become one token here: `\dfrac` is `\frac`, `\leq` is `\le`, `\text{i}` is the letter i, `^\circ` and `\degree`
are one sign. Blanks and sizes are no tokens; a token only remembers whether a blank stood before it.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from reward_server.vocabulary import BARE_UNITS, DEGREE_WORDS, PERCENT_WORDS, SEPARATORS, is_half_day

Kind = Literal["number", "letter", "run", "words", "command", "sign"]


class Unreadable(ValueError):
    """The text is no expression that this package reads by itself; a parser for all of LaTeX may still read it."""


@dataclass(frozen=True)
class Token:
    """A piece of an expression.

    Kinds: a `number`; a `letter`; a `run` of letters, which is a product or a word; `words`, the content of `\\text`; a
    `command` with its backslash; a `sign`, any other character. The word "and" is an upright comma.
    """

    kind: Kind
    text: str
    spaced: bool = False
    upright: bool = False


DEGREE = "°"
_SYNONYMS = {
    **dict.fromkeys((r"\dfrac", r"\tfrac", r"\cfrac"), r"\frac"),
    **dict.fromkeys((r"\dbinom", r"\tbinom"), r"\binom"),
    **dict.fromkeys((r"\leq", r"\leqslant", r"\leqq"), r"\le"),
    **dict.fromkeys((r"\geq", r"\geqslant", r"\geqq"), r"\ge"),
    **dict.fromkeys((r"\varnothing", r"\O"), r"\emptyset"),
    **dict.fromkeys((r"\lt",), "<"),
    **dict.fromkeys((r"\gt",), ">"),
    **dict.fromkeys((r"\neq", r"\not="), r"\ne"),
    **dict.fromkeys((r"\cdot", r"\times", r"\ast", r"\cdotp", r"\bullet"), "*"),
    **dict.fromkeys((r"\div", r"\slash"), "/"),
    **dict.fromkeys((r"\lbrace",), r"\{"),
    **dict.fromkeys((r"\rbrace",), r"\}"),
    **dict.fromkeys((r"\lbrack",), "["),
    **dict.fromkeys((r"\rbrack",), "]"),
    **dict.fromkeys((r"\vert", r"\lvert", r"\rvert"), "|"),
    **dict.fromkeys((r"\colon",), ":"),
    **dict.fromkeys((r"\isin",), r"\in"),
    **dict.fromkeys((r"\degree", r"\textdegree", r"\degrees"), DEGREE),
    **dict.fromkeys((r"\varphi",), r"\phi"),
    **dict.fromkeys((r"\varepsilon",), r"\epsilon"),
    **dict.fromkeys((r"\overrightarrow",), r"\vec"),
    **dict.fromkeys((r"\bar", r"\overbar"), r"\overline"),
    **dict.fromkeys((r"\pounds", r"\euro", r"\yen", r"\$", r"\texteuro", r"\textdollar", r"\textsterling"), "$"),
    **dict.fromkeys((r"\approxeq", r"\simeq"), r"\approx"),
    **dict.fromkeys((r"\%",), "%"),
    **dict.fromkeys((r"\mod",), r"\bmod"),
    **dict.fromkeys((r"\backslash", r"\smallsetminus"), r"\setminus"),
    **dict.fromkeys((r"\subseteq",), r"\subset"),
}
_BLANKS = {r"\ ", r"\,", r"\;", r"\:", r"\quad", r"\qquad", r"\space", "~", r"\thinspace", r"\enspace", r"\>"}
_NOTHING = {
    r"\!", r"\left", r"\right", r"\displaystyle", r"\textstyle", r"\limits", r"\nolimits", r"\big", r"\Big", r"\bigg",
    r"\Bigg", r"\bigl", r"\bigr", r"\Bigl", r"\Bigr", r"\biggl", r"\biggr", r"\bm", r"\boldsymbol", r"\rm", r"\bf",
    r"\it", r"\mathop", r"\mathopen", r"\mathclose", r"\mathord", r"\mathbin", r"\mathrel", r"\ensuremath",
    r"\scriptstyle", r"\large", r"\Large", r"\bold", r"\boxed", r"\fbox", r"\(", r"\)", r"\[", r"\]",
}  # fmt: skip
_TEXT = {
    r"\text", r"\textbf", r"\textit", r"\textrm", r"\textnormal", r"\textsf", r"\texttt", r"\mbox", r"\hbox",
    r"\mathrm", r"\mathit", r"\mathbf", r"\mathsf", r"\operatorname", r"\mathtt", r"\emph", r"\unit",
}  # fmt: skip
_WITH_CONTENT = _TEXT | {r"\mathbb", r"\begin", r"\end"}
_BOLD = {r"\mathbf", r"\textbf"}
FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "ln", "log", "exp", "gcd", "lcm", "max", "min", "sgn", "arcsinh", "det",
})  # fmt: skip
_BARE_COMMANDS = FUNCTIONS - {"det", "sgn"} | {"sqrt", "pi", "infty"}
_PIECE = re.compile(
    r"""
      (?P<command> \\(?:q?quad|[A-Za-z]+\*?|.|\Z) )
    | (?P<number> \d+(?:\.\d+)?[eE][+-]?\d{1,3}(?![\w^])
        | \d{1,3}(?:\ \d{3})+(?![\d/])(?:\.\d+)?
        | (?<!\d,)\d{1,3}(?:(?:\{,\}|,\\!\s*|\\[,!]\s*|,)\d{3})+(?!\d|,\d)(?:\.\d+)?
        | \d{1,3}(?:(?:\{,\}|,\\!\s*|\\[,!]\s*)\d{3})+(?!\d)(?:\.\d+)?
        | \d+(?:\.\d+)? | \.\d+ )
    | (?P<run> [A-Za-z]+ )
    | (?P<space> \s+ )
    | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_SCIENTIFIC = re.compile(r"(?<![\d.])\d+e[+-]\d{1,3}(?![\w^])")
"""A number with an exponent, or a number times e, plus or minus another."""
_EXPONENT = re.compile(r"[\d.]+[eE][+-]?\d+")
_GROUPED = re.compile(r" |\{,\}|,\\!\s*|\\[,!]\s*")
_LEADING_DIGIT = re.compile(r"[.,;:\s]*\d")
_SQUARED = BARE_UNITS | {"in"}
_UNIT_POWER = re.compile(r"(?<![A-Za-z])([A-Za-z]{2,})\$?\^\{?[23]\}?\$?(?![A-Za-z\d])")
_GLUED_SEPARATOR = re.compile(r"(and|or)(?=[A-Z])")
_GLUED_FUNCTION = re.compile(r"(sin|cos|tan|cot|ln|log)([xyn])")
OPENING, CLOSING = frozenset({"(", "[", "{", r"\{", r"\langle"}), frozenset({")", "]", "}", r"\}", r"\rangle"})
COMMAND_ENDS = frozenset({
    r"\le", r"\ge", r"\ne", r"\in", r"\approx", r"\cup", r"\cap", r"\rfloor", r"\rceil", r"\pm",
    r"\mp", "\\\\", r"\to", r"\rightarrow", r"\mid", r"\notin", r"\subset", r"\equiv", r"\}",
    r"\rangle", r"\forall", r"\setminus", r"\pmod", r"\bmod", r"\iff", r"\implies", r"\Rightarrow", r"\land", r"\lor",
})  # fmt: skip
"""Commands that end a product."""
_INFIX = {r"\over": r"\frac", r"\choose": r"\binom"}
"""Commands between their arguments, which are all that is in a group before and behind them."""
_GROUP_ENDS = CLOSING | {"=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\approx", ",", ";", "or", ":", "&", "\\\\"}
_LONE_SIGNS = frozenset({":", "=", "<", ">", "+", "-", "*", "/", ","})
"""Signs that braces make a plain character, which changes the blanks around them only: `3{:}20`."""
MAX_TEXT_DEPTH = 5
MAX_TOKENS = 3000
"""A longer text has no tokens. The limits on answers are below, so that only golds can be that long."""
_WORD_RUN = re.compile(r"[A-Za-z]{2,}")


def tokenize(
    text: str, thousands: bool = True, depth_left: int = MAX_TEXT_DEPTH, scientific: bool = True
) -> list[Token]:
    """The tokens of a text. Every character but blanks, dollar signs for mathematics and sizes is in one of them.

    Args:
        text: Unified by `notation.unify`.
        thousands: Whether a comma between digits that could group them (`24,300`) does; else it separates a list.
            Inside of brackets, it does only before a group that begins with 0.
        scientific: Whether `2e-1` is 0.2; else the e is a letter.
        depth_left: How many `\\text{...}` inside of each other are still opened; others are words.

    Raises:
        Unreadable: There are more than `MAX_TOKENS`.
    """
    tokens: list[Token] = []
    depth = position = 0
    spaced = False
    while position < len(text):
        if len(tokens) > MAX_TOKENS:
            raise Unreadable(f"more than {MAX_TOKENS} tokens")
        piece = _PIECE.match(text, position)
        assert piece is not None  # the last alternative takes any character
        kind, found = piece.lastgroup or "sign", piece.group()
        if _EXPONENT.fullmatch(found) and (
            (not scientific and _SCIENTIFIC.fullmatch(found)) or (tokens and _is_before_letter(tokens[-1]))
        ):
            found = found[: found.lower().index("e")]
        position += len(found)
        if kind == "space" or found in _BLANKS:
            spaced = True
            continue
        new: list[Token]
        if kind == "command":
            content, end = _content(text, position) if found in _WITH_CONTENT else ("", -1)
            if end >= 0:
                position = end
                new = _read_content(found, content, depth_left)
            else:
                new = _read_command(found)
        elif kind == "number":
            new = _read_number(found, thousands, depth > 0)
        elif kind == "run":
            new = _read_run(found, bool(tokens) and (tokens[-1].kind == "number" or tokens[-1].text in (")", "}")))
        else:
            new = [] if found == "$" else [Token("sign", found)]
        depth += sum(token.text in ("(", "[", r"\{") for token in new)
        depth -= sum(token.text in (")", "]", r"\}") for token in new)
        if new:
            tokens.append(replace(new[0], spaced=True) if spaced else new[0])
            tokens.extend(new[1:])
            spaced = False
        elif found == r"\!":
            spaced = False
    return _with_arguments_behind(_join(tokens)) if r"\over" in text or r"\choose" in text else _join(tokens)


def _is_before_letter(token: Token) -> bool:
    r"""Whether the e of a number with an exponent is a letter behind this token: `\frac1e2`, `x^2e3`, `(2)1e3`."""
    if token.kind == "sign":
        return token.text in ("^", "_", "!", "%", "'", DEGREE) or token.text in CLOSING
    return token.kind in ("letter", "run") or (token.kind == "command" and token.text not in COMMAND_ENDS)


def has_scientific(text: str) -> bool:
    """Whether an e of the text may be a letter behind a number, or mark the exponent of the number."""
    return _SCIENTIFIC.search(text) is not None


def has_plain_thousands(text: str) -> bool:
    """Whether a comma of the text may group digits or separate a list."""
    return re.search(r"(?<![\d.])(?<!\d,)\d{1,3}(?:,\d{3})+(?!\d|,\d)", text) is not None


def _content(text: str, position: int) -> tuple[str, int]:
    """The group or letter that begins at a position, and its end; a group that is never closed ends with the text."""
    while position < len(text) and text[position] == " ":
        position += 1
    if not text.startswith("{", position):
        # `\mathbf v` is `\mathbf{v}`
        return (text[position], position + 1) if text[position : position + 1].isalpha() else ("", -1)
    depth = 0
    for index in range(position, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[position + 1 : index], index + 1
    return text[position + 1 :], len(text)


def _read_command(command: str) -> list[Token]:
    if command in _NOTHING:
        return []
    if command == r"\lg":
        return tokenize(r"\log_{10}")
    text = _SYNONYMS.get(command.rstrip("*") if len(command) > 2 else command, command)
    if text in (r"\mathcal", r"\mathscr", r"\mathfrak"):
        return []
    return [Token("command" if text.startswith("\\") else "sign", text)]


def _read_content(command: str, content: str, depth_left: int) -> list[Token]:
    if command == r"\mathbb":
        return [Token("letter", rf"\mathbb{{{content.strip()}}}")]
    if command in (r"\begin", r"\end"):
        return [Token("command", f"{command}{{{content.strip()}}}")]
    if depth_left == 0:
        return [Token("words", content)]
    return _read_text(content, command in _BOLD, depth_left - 1)


def _read_number(text: str, thousands: bool, inside: bool) -> list[Token]:
    grouped = _GROUPED.sub("", text)
    if "," not in grouped:
        return [Token("number", grouped)]
    zeros = any(group.startswith("0") for group in grouped.split(",")[1:])
    if (thousands and not inside) or (inside and zeros):
        return [Token("number", grouped.replace(",", ""))]
    tokens = [Token("number", group) for group in grouped.split(",")]
    return [part for token in tokens for part in (Token("sign", ","), token)][1:]


def _read_run(run: str, glued: bool) -> list[Token]:
    """The tokens of a run of letters; `glued` if it stands behind a number or a bracket, as in `1orW(x)`."""
    if len(run) == 1:
        return [Token("letter", run)]
    separator = _GLUED_SEPARATOR.match(run) if glued else None
    if separator:
        return [Token("sign", "or" if separator[1] == "or" else ","), *_read_run(run[separator.end() :], False)]
    glued_function = _GLUED_FUNCTION.fullmatch(run)
    if glued_function:
        return [Token("command", "\\" + glued_function[1]), Token("letter", glued_function[2])]
    if run in _BARE_COMMANDS:
        return [Token("command", "\\" + run)]
    if run == "infinity":
        return [Token("command", r"\infty")]
    lower = run.lower()
    if lower in SEPARATORS:
        return [_separator(lower)]
    if lower in PERCENT_WORDS:
        return [Token("sign", "%")]
    return [Token("run", run)]


def _read_text(content: str, bold: bool, depth_left: int) -> list[Token]:
    """The tokens of `\\text{content}` and its kin: mathematics, a single letter, a separator, or words."""
    content = _UNIT_POWER.sub(lambda found: found[1] if found[1].lower() in _SQUARED else found[0], content)
    plain = content.strip().rstrip(".,;: ")
    plain = plain if _LEADING_DIGIT.match(plain) else plain.lstrip(".,;: ")
    if not plain:
        return [Token("sign", ",")] if "," in content else []
    single = plain.strip("()")
    if len(single) == 1 and single.isalpha():
        return [Token("letter", single, upright=not bold)]
    if plain in FUNCTIONS:
        return [Token("command", "\\" + plain)]
    lower = " ".join(plain.lower().split())
    if is_half_day(lower):
        return [Token("words", lower)]
    if lower in SEPARATORS:
        return [_separator(lower)]
    if lower in PERCENT_WORDS:
        return [Token("sign", "%")]
    if lower in DEGREE_WORDS:
        return [Token("sign", DEGREE)]
    if "\\" not in plain and not _WORD_RUN.search(plain) and not any(char.isdigit() for char in plain):
        return [replace(token, upright=not bold) for token in tokenize(plain, depth_left=depth_left)]
    if "\\" in plain or not _WORD_RUN.search(plain):
        tokens = tokenize(re.sub(r"(?:US|HK|CA|AU)\s*(?=\\\$)", "", plain), depth_left=depth_left)
        return [replace(token, upright=not bold) if token.kind == "letter" else token for token in tokens]
    return _split_words(content)


def _separator(word: str) -> Token:
    return Token("sign", "or") if word == "or" else Token("sign", ",", upright=word == "and")


def _split_words(content: str) -> list[Token]:
    """Words, with numbers at their ends and "and" or "or" behind them as tokens of their own: `3 red` is 3, `red`."""
    head = re.match(r"\s*(\d+(?:\.\d+)?)(?=\s)", content)
    rest = content[head.end() :] if head else content
    tail = re.search(r"(?<=\s)(\d+(?:\.\d+)?)\s*\Z", rest)
    middle = rest[: tail.start()] if tail else rest
    words, _, last = " ".join(middle.split()).rpartition(" ")
    tokens = [Token("number", head[1])] if head else []
    if words and last.lower() in SEPARATORS:
        tokens += [Token("words", words), _separator(last.lower())]
    else:
        tokens.append(Token("words", f"{words} {last}".strip()))
    return tokens + ([Token("number", tail[1])] if tail else [])


def _join(tokens: list[Token]) -> list[Token]:
    r"""Join what is one sign but several tokens, such as `^\circ`, `^{\circ}` and `<=`; drop signs of currency."""
    joined: list[Token] = []
    position = 0
    while position < len(tokens):
        texts = [token.text for token in tokens[position : position + 4]]
        if texts[:1] == ["{"] and texts[1:2] == ["}"]:
            position += 2
        elif texts[:2] in (["^", r"\circ"], ["^", DEGREE]):
            joined.append(Token("sign", DEGREE))
            position += 2
        elif texts in (["^", "{", r"\circ", "}"], ["^", "{", DEGREE, "}"]):
            joined.append(Token("sign", DEGREE))
            position += 4
        elif texts[:2] in (["<", "="], [">", "="]):
            joined.append(Token("command", r"\le" if texts[0] == "<" else r"\ge"))
            position += 2
        elif len(texts) > 2 and texts[0] == "{" and texts[1] in _LONE_SIGNS and texts[2] == "}":
            joined.append(tokens[position + 1])
            position += 3
        elif texts[:1] == ["$"]:
            position += 1
        elif tokens[position].kind == "number" and _is_root(joined):
            joined += [Token("sign", "{"), tokens[position], Token("sign", "}")]
            position += 1
        else:
            joined.append(tokens[position])
            position += 1
    return joined


def _with_arguments_behind(tokens: list[Token]) -> list[Token]:
    r"""The tokens with `\frac{a}{b}` for `a \over b`, and `\binom` for `\choose`."""
    written: list[Token] = []
    groups = [(0, False)]
    """Where each open group begins, and whether such a command was in it."""
    opening, closing = Token("sign", "{"), Token("sign", "}")
    for token in [*tokens, Token("sign", "")]:
        start, divided = groups[-1]
        if token.text in _INFIX and not divided:
            written[start:start] = [Token("command", _INFIX[token.text]), opening]
            written += [closing, opening]
            groups[-1] = (start, True)
            continue
        ends = token.kind != "words" and (token.text in _GROUP_ENDS or not token.text)
        if ends and divided:
            written.append(closing)
        if ends and token.text in CLOSING and len(groups) > 1:
            groups.pop()
        elif ends:
            groups[-1] = (len(written) + 1, False)
        elif token.kind != "words" and token.text in OPENING:
            groups.append((len(written) + 1, False))
        written.append(token)
    return written[:-1]


def _is_root(tokens: list[Token]) -> bool:
    r"""Whether tokens end in a root that lacks its argument. A number behind it is under the root as a whole."""
    texts = [token.text for token in tokens[-4:]]
    return texts[-1:] == [r"\sqrt"] or (texts[:2] == [r"\sqrt", "["] and texts[3:] == ["]"])
