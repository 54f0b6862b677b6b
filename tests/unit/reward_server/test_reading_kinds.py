r"""Kinds of misreading, each with a rule that makes it impossible: one table a rule, verdicts by hand."""

import pytest

from reward_server.grading.symbolic import equal as symbolic_equal
from reward_server.reading.statement import read
from tests.unit.reward_server.comparisons import is_equal

Row = tuple[str, str, bool]
"""Gold, answer, and whether they are equal."""

NAMES: list[Row] = [
    *((value, rf"\{name}(x)={value}", False) for name, value in
      (("exp", "5"), ("cot", "1"), ("arctan", "1"), ("arcsin", "1"), ("sec", "2"), ("csc", "2"), ("sinh", "2"))),
    ("4", "x(2)=4", False),
    ("9", "n(n)=9", False),
    ("6", "x(y)=6", False),
    ("6", r"\theta(2)=6", False),
    ("4", r"\vec{v}(2)=4", False),
    ("4", "x^{-1}=4", False),
    ("6", r"AB\sqrt{2}=6", False),
    ("6", "AB 2=6", False),
    ("6", "AB(2)=6", False),
    ("6", r"AB\pi=6", False),
    ("3", r"AB\sin A=3", False),
    ("3", r"\overline{x}\frac12=3", False),
    ("30", r"\angle A\frac12=30", False),
    ("9", r"\text{Area }x=9", False),
    ("4", r"\text{reciprocal}=4", False),
    ("5", "i=5", False),
    ("5", "e=5", False),
    ("5", r"\max(3,x)=5", False),
    ("5", r"|AB|2=5", False),
    ("4", r"f^{-1}(x)=4", True),
    ("30", r"\angle A_1BC=30^\circ", True),
    ("9", r"\text{Area}(ABC)=9", True),
    ("9", r"\text{Area of triangle}=9", False),  # "of" may also join a factor: half of it
    ("5", r"\overline{AB}=5", True),
    ("5", r"|\vec{v}|=5", True),
    ("9", "[ABC]=9", True),
    ("4", "a_{n+1}=4", True),
    ("4", "e_1=4", True),
    ("4", "S(n)=4", True),
    ("4", r"\theta=4", True),
    ("5", r"\max_{x} f(x)=5", True),
    ("5", r"\max(x+y)=5", True),
    ("5", r"\square=5", True),
]  # fmt: skip
TABLES = {
    "a product, a function or a constant as a name": NAMES,
}


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [pytest.param(*row, id=f"{name}: {row[0]} | {row[1]}") for name, rows in TABLES.items() for row in rows],
)
def test_kind(gold: str, answer: str, equal: bool) -> None:
    """Catches the mistake that the table is named after, with and without the LaTeX parser."""
    assert is_equal(symbolic_equal(answer, gold)) is equal


@pytest.mark.parametrize(
    "text", ["(x:y)=1:2", "P(X:Y)=2", r"\{x:x>2\}=A", "[AB:CD]=2", "(a," * 300 + "b" + ")" * 300 + "=1"]
)
def test_names_end(text: str) -> None:
    """Catches a name that is looked for in itself for ever, or in brackets nested deeper than the stack."""
    read(text, gold=False)
