r"""Golds in another spelling must stay equal, golds that were changed must not, for real golds and generated ones.

"Every gold equals itself" cannot show that a part of a gold is not read: it is not read twice. These tests change a
part, and expect the difference to be seen.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from reward_server.grading import GoldUnparseable
from reward_server.grading.decision import decide
from reward_server.grading.golds import formula_of, read_gold
from reward_server.tasks.math import parse_label
from reward_server.tasks.task import LabelError

DATA = Path(os.environ.get("OPENR1_DATA_DIR", "no-data"))
FILES = ("benchmarks/AMC23", "benchmarks/MATH500", "benchmarks/OlympiadBench", "train/math3k_cot")
BUILT_IN = [
    r"\frac{\sqrt{2}}{2}", "3+4i", "6m", "-x + c", r"90^\circ", r"\pi(R^2-r^2)", "52_8", r"\text{even}", "16,3,1,1",
    r"12\frac{1}{2}", "(3, -1)", r"(-\infty, 2] \cup (3, 5)", "x^2 + y^2 = 13", "a_1 + 2d", "f(x) = 2x + 3", r"25\%",
    r"\begin{pmatrix} 1 & -2 \\ 3 & 4 \end{pmatrix}", r"1 \pm \sqrt{19}", "1:4", "10,080", r"2\cdot 3^{n}", "x = 5",
    "e^{2} - 1", r"\frac{Mm}{M+m}", r"\frac{n(n+1)}{2}", r"\log_2 n", r"\text{Evelyn}", r"\frac{3}{4}, -\frac{3}{4}",
    r"5\sqrt[3]{4}",
]  # fmt: skip

Change = Callable[[str], str]
"""Another text for a gold; the same text where it does not apply."""


def real_golds() -> list[str]:
    """All different golds that are more than a number, where OPENR1_DATA_DIR has them; else none."""
    found: set[str] = set()
    for name in FILES if DATA.is_dir() else ():
        for line in (DATA / f"{name}.jsonl").read_text().splitlines():
            try:
                gold = parse_label(str(json.loads(line)["answer"]))
                if read_gold(gold) and not re.fullmatch(r"-?[\d.,]+", gold):
                    found.add(formula_of(gold).strip(" ."))
            except (LabelError, GoldUnparseable):
                continue
    return sorted(found)


GOLDS = BUILT_IN + real_golds()
_LETTER = r"(?<![A-Za-z\\{])"
_VALUE = re.compile(r"[^,=<>:;&]*")
_WORD = re.compile(r"\\text\{([A-Za-z]{3,})\}")
_COMMANDS = re.compile(r"\\(?:text|mbox|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")


def is_value(gold: str) -> bool:
    """Whether a gold is a single expression, without words, commas, relations and sets."""
    other = (
        r"\text",
        r"\mbox",
        r"\cup",
        r"\in ",
        r"\le",
        r"\ge",
        r"\{",
        r"\begin",
        r"\pm",
        "_",
        "%",
        "circ",
        "triangle",
    )
    words = re.search(r"[A-Za-z]{4,}", re.sub(r"\\[A-Za-z]+", "", gold))
    return _VALUE.fullmatch(gold) is not None and not any(part in gold for part in other) and not words


def outside_commands(pattern: str, replacement: str | Callable[[re.Match[str]], str], gold: str, count: int = 0) -> str:
    """Replace in a gold, but in no command and no text."""
    pieces, last, left = [], 0, count
    for command in [*_COMMANDS.finditer(gold), None]:
        end = command.start() if command else len(gold)
        piece, done = (
            re.subn(pattern, replacement, gold[last:end], count=left) if not count or left else (gold[last:end], 0)
        )
        left -= done
        pieces += [piece, command.group() if command else ""]
        last = command.end() if command else end
    return "".join(pieces)


def reversed_list(gold: str) -> str:
    """A list without brackets in the other order."""
    parts = gold.split(", ")
    plain = len(parts) > 1 and not re.search(
        r"[(\[{=]|\\text|\\quad", gold.replace(r"\frac{", "").replace(r"\sqrt{", "")
    )
    return (
        ", ".join(reversed(parts)) if plain and "\\" not in gold.replace("\\frac", "").replace("\\sqrt", "") else gold
    )


def size_brackets(gold: str) -> str:
    r"""Round brackets with `\left` and `\right`."""
    return gold if "left" in gold else re.sub(r"(?<![\\A-Za-z])\(([^()]*)\)", r"\\left(\1\\right)", gold)


def use_unicode(gold: str) -> str:
    """Commands as the characters that they print."""
    for command, char in ((r"\pi", "π "), (r"\infty", "∞"), (r"\cup", "∪"), (r"\pm", "±")):
        gold = gold.replace(command, char)
    return gold


def add_unit(gold: str) -> str:
    """A value that ends in a number, with a unit behind it."""
    plain = re.fullmatch(r"[\d\\{}a-z]*\d[\d}]*", gold) and "_" not in gold
    return rf"{gold}\text{{ cm}}" if plain else gold


RESPELLINGS: dict[str, Change] = {
    "blanks around signs": lambda gold: outside_commands(r"(?<=[\w})]) ?([-+=]) ?(?=[\w\\({])", r" \1 ", gold),
    "no blanks around signs": lambda gold: outside_commands(r" *([-+=]) *", r"\1", gold),
    "display fractions": lambda gold: gold.replace(r"\frac", r"\dfrac"),
    "sized brackets": size_brackets,
    "upright i": lambda gold: outside_commands(rf"{_LETTER}i(?![A-Za-z])", r"\\mathrm{i}", gold),
    "upright e": lambda gold: outside_commands(rf"{_LETTER}e(?![A-Za-z])", r"\\mathrm{e}", gold),
    "degree": lambda gold: gold.replace(r"^\circ", r"\degree").replace(r"^{\circ}", r"\degree"),
    "degree sign": lambda gold: gold.replace(r"^\circ", "°").replace(r"^{\circ}", "º"),
    "unicode minus": lambda gold: gold.replace("-", "\u2212"),
    "unicode signs": use_unicode,
    "unicode roots": lambda gold: re.sub(r"\\sqrt\{(\d)\}", r"√\1 ", gold),
    "full-width digits": lambda gold: gold.translate({ord(d): ord(d) + 0xFEE0 for d in "0123456789"}),
    "other order": reversed_list,
    "a unit": add_unit,
    "in dollars": lambda gold: f"${gold}$",
    "a full stop": lambda gold: f"{gold}.",
    "display style": lambda gold: rf"\displaystyle {gold}",
    "square matrices": lambda gold: gold.replace("pmatrix", "bmatrix"),
    "a name": lambda gold: f"W = {gold}" if is_value(gold) and "W" not in gold else gold,
    "thin blanks": lambda gold: gold.replace(", ", r",\, "),
    "in words": lambda gold: gold.replace(r"\%", r"\text{ percent}"),
    "a twin": lambda gold: rf"{gold}\text{{ or }}{gold}" if is_value(gold) else gold,
    "times": lambda gold: gold.replace(r"\cdot", r"\times"),
    "a product with one": lambda gold: rf"1\cdot({gold})" if is_value(gold) else gold,
}  # fmt: skip


def outside_units(pattern: str, replacement: Callable[[re.Match[str]], str], gold: str) -> str:
    """Replace once in a gold without a unit, whose exponent would be ignored."""
    return gold if "text" in gold or "mbox" in gold else re.sub(pattern, replacement, gold, count=1)


def reverse_tuple(gold: str) -> str:
    """A pair or triple of simple entries in the other order."""
    found = re.fullmatch(r"\((-?\w+), ?(-?\w+)\)", gold)
    return f"({found[2]},{found[1]})" if found and found[1] != found[2] else gold


def drop_repeat(gold: str) -> str:
    """A list of numbers without one of two equal numbers."""
    parts = [part.strip() for part in gold.split(",")]
    plain = all(re.fullmatch(r"-?\d+", part) for part in parts)
    return ",".join(dict.fromkeys(parts)) if plain and len(set(parts)) < len(parts) else gold


def swap_case(gold: str) -> str:
    """One letter in the other case, where the gold has it in both."""
    letters = set(re.sub(r"\\[A-Za-z]+", "", gold))
    both = sorted(letter for letter in letters if letter.islower() and letter.upper() in letters)
    return outside_commands(both[0], both[0].upper(), gold, 1) if both else gold


def next_digit(found: re.Match[str]) -> str:
    """The digit that follows, 0 after 9."""
    return str((int(found.group()) + 1) % 10)


def one_more(found: re.Match[str]) -> str:
    """The number that follows."""
    return f"{found[1]}{int(found[2]) + 1}{found[3]}"


CHANGES: dict[str, Change] = {
    "last letter dropped": lambda gold: re.sub(r"(?<=[\w)} ])[a-hj-z]\Z", "", gold) if is_value(gold) else gold,
    "letter added": lambda gold: f"{gold} q" if is_value(gold) else gold,
    "word reversed": lambda gold: _WORD.sub(lambda word: rf"\text{{{word[1][::-1]}}}", gold),
    "last letter of a word dropped": lambda gold: _WORD.sub(lambda word: rf"\text{{{word[1][:-1]}}}", gold),
    "case swapped": swap_case,
    "index changed": lambda gold: re.sub(r"([A-Za-z]_\{?)(\d)(\}?)", one_more, gold, count=1),
    "base changed": lambda gold: re.sub(r"(\d_\{?)(\d)(\}?)\Z", one_more, gold),
    "repeat dropped": drop_repeat,
    "left side changed": lambda gold: re.sub(r"\A[a-zA-Z] ?= ?", "q=", gold),
    "left side squared": lambda gold: re.sub(r"\A([a-zA-Z]) ?= ?", r"\1^2=", gold),
    "sign flipped": lambda gold: f"-({gold})" if is_value(gold) else gold,
    "fraction inverted": lambda gold: re.sub(r"\\frac\{(\w+)\}\{(\w+)\}", r"\\frac{\2}{\1}", gold, count=1),
    "tuple reversed": reverse_tuple,
    "number changed": lambda gold: outside_commands(r"(?<![\d_^.{])\d(?![\d.])", next_digit, gold, 1),
    "exponent raised": lambda gold: outside_units(r"(\^\{?)(\d)(\}?)", one_more, gold),
    "plus to minus": lambda gold: outside_commands(r"(?<=[\w})] )\+|(?<=[\w})])\+", "-", gold, 1),
    "interval closed": lambda gold: re.sub(r"\((?=[^()]*,[^()]*\])", "[", gold, count=1),
    "one element less": lambda gold: ", ".join(gold.split(", ")[:-1]) if not re.search(r"[(\[]", gold) else gold,
    "imaginary unit dropped": lambda gold: outside_commands(r"(?<=\d)i(?![A-Za-z])", "", gold, 1),
    "million": lambda gold: rf"{gold}\text{{ million}}" if re.fullmatch(r"\d+\\?[a-z]*", gold) else gold,
}  # fmt: skip


def is_equal(answer: str, gold: str) -> bool:
    """Whether an answer equals a gold without a parser; False for what is left open or cannot be read."""
    try:
        return decide(answer, gold) is True
    except GoldUnparseable:
        return False


@pytest.mark.parametrize("name", RESPELLINGS)
def test_respelled_golds_stay_equal(name: str) -> None:
    """Catches a spelling of a gold that is not understood, and so costs a right answer its reward."""
    respell = RESPELLINGS[name]
    pairs = [(gold, respell(gold)) for gold in GOLDS]
    assert any(gold != other for gold, other in pairs)
    assert [(gold, other) for gold, other in pairs if not is_equal(other, gold)] == []


@pytest.mark.parametrize("name", CHANGES)
def test_changed_golds_differ(name: str) -> None:
    """Catches a part of a gold that is not read, so that a wrong answer is paid."""
    change = CHANGES[name]
    pairs = [(gold, change(gold)) for gold in GOLDS]
    changed = [(gold, other) for gold, other in pairs if gold != other and other.strip()]
    assert changed
    assert [(gold, other) for gold, other in changed if is_equal(other, gold)] == []


def combine(left: str, sign: str, right: str) -> str:
    """Two expressions with a sign between them, in brackets where the sign needs them."""
    forms = {
        "+": f"{left}+{right}",
        "-": f"{left}-({right})",
        "*": rf"({left})\cdot ({right})",
        "/": rf"\frac{{{left}}}{{{right}}}",
    }
    return forms[sign]


leaves = st.sampled_from(
    ["2", "3", "7", "10", "x", "y", "m", "R", "r", r"\pi ", r"\sqrt{2}", r"\sqrt{x}", "3x", "x^{2}", "2i"]
)
expressions = st.recursive(
    leaves, lambda inner: st.builds(combine, inner, st.sampled_from("+-*/"), inner), max_leaves=5
)
"""Expressions of numbers, letters, surds and fractions."""
golds = expressions | st.builds("x = {}".format, expressions) | st.builds("({},{})".format, expressions, expressions)


@given(golds, st.sampled_from(sorted(RESPELLINGS)), st.sampled_from(sorted(RESPELLINGS)))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_respelled_grammar(gold: str, first: str, second: str) -> None:
    """Catches two spellings that are understood alone but not together, and forms that real golds do not have."""
    assume(is_equal(gold, gold))
    assert is_equal(RESPELLINGS[second](RESPELLINGS[first](gold)), gold)


@given(expressions, expressions, st.sampled_from("+-*/"))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_changed_grammar(left: str, right: str, sign: str) -> None:
    """Catches a term that is lost: adding 1, and multiplying by a new letter, always change a value that is not 0."""
    gold = combine(left, sign, right)
    assume(is_equal(gold, gold))
    assume(not is_equal("0", gold))
    assume(is_equal(f"{gold}+0", gold))  # what has no value equals only its own text
    assert not is_equal(f"{gold}+1", gold)
    assert not is_equal(rf"({gold})\cdot q", gold)
    assert not is_equal(f"-({gold})", gold)
    assert is_equal(f"{gold}+q-q", gold)
