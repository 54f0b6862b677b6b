r"""Faults that testers found in the reading of answers: one table a class of mistake, verdicts by hand."""

import pytest

from reward_server.grading.symbolic import equal as symbolic_equal
from tests.unit.reward_server.comparisons import is_equal

Row = tuple[str, str, bool]
"""Gold, answer, and whether they are equal."""

OPEN_EQUATIONS: list[Row] = [
    ("12", r"13=\sum_{k=1}^3 k=12", False),
    ("12", "2x_1=12", False),
    ("12", r"2\lim_{x\to0}x=12", False),
    ("12", r"\int_0^x t\,dt=12", False),
    ("12", r"\frac10=12", False),
    ("12", r"x=\frac10=12", False),
    ("12", "(2x_1=12)", False),
    ("12", r"\{\sum_{k=1}^2k=12\}", False),
    (r"\int_0^x t\,dt=12", r"\int_0^x t^2\,dt=12", False),
    ("2x_1=12", "3x_1=12", False),
    ("12", r"x_1=12", True),
    ("6", r"\sum_{k=1}^3 k=6", True),
    (r"\sum_{k=1}^3 k", "6", True),
]
ROOTS: list[Row] = [
    ("5", "√15", False),
    ("2", "√12", False),
    ("44", "√144", False),
    ("12", "√144", True),
    ("5", "sqrt15", False),
    (r"\sqrt{15}", "√15", True),
    (r"\sqrt{15}", "sqrt15", True),
    (r"2\sqrt3", "√12", True),
    ("5", r"\sqrt15", False),
    (r"\sqrt{3}", "√3", True),
    (r"x\sqrt2", "√2x", True),
]
ARGUMENTS: list[Row] = [
    (r"\frac4{11}", r"\frac12\frac34", False),
    (r"\frac38", r"\frac12\frac34", True),
    (r"\frac{1}{2}\cdot\frac{3}{4}", r"\frac12\frac34", True),
    (r"2\frac12", r"2\frac12", True),
    (r"\frac52", r"2\frac12", True),
    (r"-2\cdot\frac{1}{3}", r"\log_2\frac14\cdot\frac13", True),
    ("-2", r"\log_2\frac14", True),
    (r"\sqrt{5}\cdot\frac12", r"\sqrt5\frac12", True),
]
EXPONENTS: list[Row] = [
    ("ye^x", "e^xy", True),
    ("e^{xy}", "e^xy", False),
    ("e^{xy}", "e^{xy}", True),
    ("x^ab", "bx^a", True),
    ("2^{10}", "1024", True),
]
E_NOTATION: list[Row] = [
    (r"\frac15", "2e-1", True),
    ("2e-1", r"\frac15", False),
    ("2e-1", "0.2", False),
    ("2e-1", "2e-1", True),
    ("2e-1", "-1+2e", True),
    ("2e+1", "20", False),
]
SET_BUILDERS: list[Row] = [
    (r"(2,\infty)", r"\{x+1\mid x>2\}", False),
    (r"(2,\infty)", r"\{x\mid x>2\}", True),
    (r"(2,\infty)", r"\{x\in\mathbb R\mid x>2\}", True),
    (r"(2,\infty)", r"\{x\in\mathbb{R}: x>2\}", True),
    (r"(2,\infty)", r"\{x^2\mid x>2\}", False),
    (r"(2,\infty)", r"\{x\in\mathbb{Z}\mid x>2\}", False),
    (r"(2,\infty)", r"\{x\mid y>2\}", False),
]
INEQUALITIES: list[Row] = [
    (r"x<1\text{ or }x>2", r"x<1\text{ and }x>2", False),
    (r"(-\infty,1)\cup(2,\infty)", r"x<1\text{ or }y>2", False),
    (r"(-\infty,1)\cup(2,\infty)", r"x<1\text{ and }x>2", False),
    (r"(-\infty,1)\cup(2,\infty)", r"x<1\text{ or }x>2", True),
    (r"x<1\text{ or }x>2", r"x>2\text{ or }x<1", True),
    (r"x<1\text{ and }y>2", r"y>2\text{ and }x<1", True),
    (r"(-\infty,x)", "e<x", False),
    (r"(-\infty,x)", r"\pi<x", False),
    (r"[\pi,\infty)", r"x\ge\pi", True),
    (r"(-\infty,\pi)", r"x<\pi", True),
    (r"(e,\infty)", "e<x", True),
]
CHANGING_WORDS = """
    fifths quarters tenths hundredths sixths eighths tens lakh quadrillion gross seven rejected invalid untrue excluded
    larger smaller reciprocal inverse opposite fourth fourths sevenths ninths thousandths millionths twentieths higher
    lower bigger octal hexadecimal forty crore promille
"""
WORDS_THAT_CHANGE: list[Row] = [
    *(("2", rf"2\text{{ {word}}}", False) for word in CHANGING_WORDS.split()),
    ("2", r"2\text{ point five}", False),
    ("2", r"2\text{ per mille}", False),
    ("2", r"2\text{ miles per hour}", True),
    ("11", r"11\text{ binary}", False),
    (r"30^\circ", r"30\text{ radians}", False),
    ("30", r"30\text{ radians}", True),
    (r"(30^\circ,60^\circ)", r"(30\text{ rad},60\text{ rad})", False),
    (r"30^\circ", r"\frac{\pi}{6}\text{ rad}", True),
    ("5", r"\text{excluded}=5", False),
    ("5", r"\text{larger angle}=5", True),
    (r"\pi", r"\pi^\circ", False),
    (r"36^\circ", "36", True),
    ("5", r"5\text{ apples}", True),
]
CONDITIONS: list[Row] = [
    ("7", r"7\text{ if }n\text{ is even}, 8\text{ if }n\text{ is odd}", False),
    ("7", r"7\text{ where }8", False),
    ("7", r"7\text{ if }n=2\text{ else }8", False),
    ("x=5", r"x=5\text{ when }7=x", False),
    ("7", r"7\text{ for }n=1,8\text{ for }n=2", False),
    ("5", r"5\text{ let }6,7", False),
    ("x=5", r"x=5\text{ as }x=7", False),
    ("5", r"5\text{ as }n\to\infty", True),
    ("2x", r"2x\text{ for all }x", True),
    ("2x", r"2x\text{ where }x>0", True),
    ("2x+k", r"2x+k\text{ for some integer }k", True),
]
NAMES: list[Row] = [
    ("6", "n(n-1)=6", False),
    ("12", "a(b-c)=12", False),
    ("6", r"\alpha(\beta-1)=6", False),
    ("3", r"\pi=3", False),
    ("6", "f(n-1)=6", True),
    ("6", "P(A)=6", True),
    ("6", "f(2)=6", True),
    ("6", "P(x+1)=6", True),
]
BASES: list[Row] = [
    ("42", "2a_{16}", False),
    ("93", "5d_{16}", False),
    ("42", "2A_{16}", True),
    ("2A_{16}", "2a_{16}", True),
    ("2A_{16}", "2b_{16}", False),
    ("42", r"2\text{A}_{16}", True),
    ("2x_1+x_2", "x_2+2x_1", True),
    ("2a_{16}", "a_{16}+a_{16}", True),
]
TEXTS: list[Row] = [
    ("x", r"\text{x^2}", False),
    ("2x", r"\text{2x^2}", False),
    ("3+5", r"3+\mathrm{.5}", False),
    ("3", r"3\text{ cm^2}", True),
    ("3", r"3\text{ cm.}", True),
    ("3", r"3\text{ m}^2", True),
    ("3000000", r"1+2\text{ million}", False),
    ("3000000", r"3\text{ million}", True),
    ("2000001", r"1+2\text{ million}", True),
    ("12", r"1\,2", False),
    (r"\text{Area}=4", r"\text{Perimeter}=4", False),
    (r"\text{Area}=4", "4", True),
    (r"\text{Area}=4", "A=4", True),
    ("-3000000", r"-3\text{ million}", True),
]
REFUSED: list[Row] = [
    (r"\frac{10}3", r"\frac{10}3\approx3.33", True),
    (r"\frac{10}3", r"\frac{10}3\approx3.43", False),
    (r"\frac{10}3", r"x=\frac{10}3\approx3.33", True),
    ("3.33", r"\frac{10}3\approx3.33", False),
    (r"\sqrt2", r"\sqrt2\approx1.41", True),
    (r"(1,2)", r"\langle1,2\rangle", True),
    (r"\langle 1,2\rangle", r"\langle 2,1\rangle", False),
    (r"\{1+\sqrt5,1-\sqrt5,-2\}", r"\{1\pm\sqrt5,-2\}", True),
    (r"\{1\pm\sqrt5,-2\}", r"\{1+\sqrt5,1-\sqrt5,-2\}", True),
    (r"\frac{1+\sqrt5}2,\frac{1-\sqrt5}2", r"\frac{1\pm\sqrt5}2", True),
    (r"\frac{1+\sqrt5}2", r"\frac{1\pm\sqrt5}2", False),
]
TABLES = {
    "an open equation is its right side": OPEN_EQUATIONS,
    "a root of the first digit only": ROOTS,
    "an argument that begins a mixed number": ARGUMENTS,
    "an exponent of several letters": EXPONENTS,
    "a gold with the letter e in scientific notation": E_NOTATION,
    "a set of images as the set itself": SET_BUILDERS,
    "inequalities joined by a wrong word or of several letters": INEQUALITIES,
    "a word that changes the number as a unit": WORDS_THAT_CHANGE,
    "a second value in a condition": CONDITIONS,
    "a product as the name of a function": NAMES,
    "a letter as a digit": BASES,
    "text that is cut": TEXTS,
    "another spelling that is refused": REFUSED,
}


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [pytest.param(*row, id=f"{name}: {row[0]} | {row[1]}") for name, rows in TABLES.items() for row in rows],
)
def test_fault(gold: str, answer: str, equal: bool) -> None:
    """Catches the mistake that the table is named after, with and without the LaTeX parser."""
    assert is_equal(symbolic_equal(answer, gold)) is equal
