r"""Ways of writing that both sides of a comparison may use: one table a rule of docs/grading.md, verdicts by hand."""

import pytest

from reward_server.grading.decision import decide
from reward_server.grading.limits import is_expensive, why_too_large
from reward_server.grading.notation import unify
from tests.unit.reward_server.comparisons import is_equal

Row = tuple[str, str, bool]
"""Gold, answer, and whether they are equal."""

DENOMINATORS: list[Row] = [
    (r"\frac{x}{2}+\frac{y}{3}=1", "3x+2y=6", True),
    ("3x+2y=6", r"\frac{x}{2}+\frac{y}{3}=2", False),
    (r"\frac{x^2}{9}+\frac{y^2}{4}=1", "4x^2+9y^2=36", True),
    (r"y=\frac{1}{x}", "xy=1", True),
    ("xy=1", r"y=\frac1x", True),
    (r"y=\frac{2}{x^2}", "x^2y=2", True),
    (r"y=\frac{2}{x^2}", "xy=2", False),
    (r"y=\frac{2}{x}+3", "xy-3x=2", True),
    (r"xy=\pi", r"y=\frac{\pi}{x}", True),
    (r"\frac{y}{\pi}=x", r"y=\pi x", True),
    ("y=x", r"\frac{y}{x}=1", False),  # the second has no solution with x = 0
    (r"\frac{1}{x}+\frac{1}{y}=1", "x+y=xy", False),  # the second is true for x = y = 0
    (r"xy \ne 1", r"y \ne \frac1x", False),  # the second has no meaning for x = 0
]
PARAMETERS: list[Row] = [
    (r"x=\frac{\pi}{4}+k\pi, k\in\mathbb{Z}", r"x=\frac{\pi}{4}+n\pi, n\in\mathbb{Z}", True),
    (r"x=\frac{\pi}{4}+k\pi, k\in\mathbb{Z}", r"\frac{\pi}{4}+n\pi\;(n\in\mathbb Z)", True),
    (r"x=\frac{\pi}{4}+k\pi, k\in\mathbb{Z}", r"x=\frac{\pi}{4}+k\pi", True),
    (r"x=\frac{\pi}{4}+k\pi, k\in\mathbb{Z}", r"x=\frac{\pi}{4}+n\pi", False),
    (r"x=\frac{\pi}{4}+k\pi, k\in\mathbb{Z}", r"x=\frac{\pi}{4}+2n\pi, n\in\mathbb{Z}", False),
    (r"x=\frac{\pi}{4}+k\pi, k \in Z", r"x=n\pi+\frac{\pi}{4}\text{ for any integer }n", True),
    (r"k\pi\text{ where }k\text{ is an integer}", r"n\pi, n\in\mathbb{Z}", True),
    (r"k\pi\text{ where }k\text{ is an integer}", r"n\pi\text{ where }n\text{ is a positive integer}", False),
    (r"2k, k\in\mathbb{Z}", r"2n, n\in\mathbb{N}", False),
    (r"2k, k\in\mathbb{Z}", r"2k, k\in\mathbb{N}", False),
    (r"ak, k\in\mathbb{Z}", r"an, n\in\mathbb{Z}", True),
    (r"ak, k\in\mathbb{Z}", r"ak, a\in\mathbb{Z}", False),
    (r"an, n\in\mathbb{Z}", r"ka, a\in\mathbb{Z}", False),
    (r"kn, k\in\mathbb{Z}", r"nn, n\in\mathbb{Z}", False),
    (r"\lambda v, \lambda\in\mathbb{R}", r"tv, t\in\mathbb{R}", True),
    (r"(k, k+1), k\in\mathbb{Z}", r"(n, n+1), n\in\mathbb{Z}", True),
    (r"(k, k+1), k\in\mathbb{Z}", r"(n, n-1), n\in\mathbb{Z}", False),
    (r"\pi+k, 2\pi+k, k\in\mathbb{Z}", r"2\pi+n, \pi+n, n\in\mathbb{Z}", True),
    (r"45^\circ+180k^\circ, k\in\mathbb{Z}", r"45^\circ+180n^\circ, n\in\mathbb{Z}", True),
    (r"f(x)=2x, x\in\mathbb{R}", r"f(t)=2t, t\in\mathbb{R}", True),
]  # fmt: skip
NAMES: list[Row] = [
    (r"P(X>2)=\frac13", r"\frac13", True),
    (r"\frac13", r"P(X>2)=\frac13", True),
    (r"\frac13", r"P(X>2)=\frac23", False),
    (r"\frac13", r"P(X=2)=\frac13", True),
    (r"\frac13", r"\Pr[X\ge 2]=\frac13", True),
    (r"\frac13", r"P(A\mid B)=P(A)=\frac13", True),
    (r"3", r"\mathbb{E}[X^2]=3", True),
    (r"P(X>2)=\frac13", r"P(X > 2)=\frac{2}{6}", True),
    (r"P(X>2)=\frac13", r"P(X>3)=\frac13", False),
    (r"\frac14", r"4P(X>1)=\frac14", False),
    ("(1,2)", "(a,b)=(1,2)", True),
    ("(a,b)=(1,2)", "(1,2)", True),
    ("(a,b)=(1,2)", "(2,1)", False),
    ("(a,b)=(1,2)", "(b,a)=(2,1)", True),
    ("(a,b)=(1,2)", "(b,a)=(1,2)", False),
    ("(x,y)=(1,2)", "y=2, x=1", True),
    ("(x,y)=(1,2)", r"x=1\text{ and }y=2", True),
    ("(x,y)=(1,2)", "x=2, y=1", False),
    ("x=1, y=2", "(x,y)=(2,1)", False),
    ("x=(1,2)", "(a,b)=(1,2)", False),
    ("(x,y)=(1,2),(3,4)", "(x,y)=(3,4),(1,2)", True),
    ("(x,y)=(1,2)", "(x,y)=(1,2),(3,4)", False),
]
LOGARITHMS: list[Row] = [
    (r"\log 2", r"\ln 2", True),
    (r"\log 2", r"\log_{10} 2", True),
    (r"\log 2", r"\lg 2", True),
    (r"\lg 2", r"\ln 2", False),
    (r"\lg 100", "2", True),
    ("2", r"\log 100", True),
    ("2", r"\log 10", False),
    (r"\log 10", r"\log e", False),  # 1 to base 10, and 1 as a natural logarithm
    (r"1+\log 10+\ln 10", r"2+\ln 10", True),
    (r"\frac{\log 3}{\log 2}", r"\log_2 3", True),
    (r"\frac{\log 100}{\log e}", "2", False),
    (r"(\log 2, \log 3)", r"(\lg 2, \lg 3)", True),
    (r"(\log 2, \log 3)", r"(\lg 2, \ln 3)", False),
    (r"\log 2, \log 3", r"\log_{10} 2, \ln 3", False),
    ("1/\\log 2", r"\frac{1}{\log 2}", True),
    ("2/\\ln 2", r"\ln 2", False),
    (r"1/\log_2 3", r"\log_3 2", True),
    ("1/\\sqrt2", r"\frac{\sqrt2}{2}", True),
    ("1/\\sqrt{2}", r"\sqrt2", False),
]
BETWEEN: list[Row] = [
    (r"{x+1 \over 2}", r"\frac{x+1}{2}", True),
    (r"{x+1 \over 2}", r"x+\frac{1}{2}", False),
    (r"x=1 \over 2", r"x=\frac12", True),
    (r"{a \over b}+{c \over d}", r"\frac{ad+bc}{bd}", True),
    (r"x={-b \pm \sqrt{b^2-4ac} \over 2a}", r"x=\frac{-b\pm\sqrt{b^2-4ac}}{2a}", True),
    (r"2^{1 \over 2}", r"\sqrt2", True),
    (r"{1 \over {1 \over 3}}", "3", True),
    (r"{5 \choose 2}", "10", True),
    (r"{5 \choose 2}", "20", False),
    (r"({n \choose 2}, 3)", r"\left(\frac{n(n-1)}{2}, 3\right)", True),
    (r"{5 \choose 2}{4 \choose 1}", "40", True),
    (r"0.\overline{3}", r"{1 \over 3}", True),
]
SIGNS: list[Row] = [
    ("2**3", "8", True),
    ("2**3", "6", False),
    ("2 ** 3", "8", True),
    ("3x**2+1", "3x^2+1", True),
    ("x**10", "x^{10}", True),
    ("2**-1", r"\frac12", True),
    ("(x+1)**2", "x^2+2x+1", True),
    (r"2\cdot\cdot3", "8", False),
    ("8", "**8**", True),
    ("1⁄2", "0.5", True),
    ("1⁄2", "12", False),
    ("x⁄2", r"\frac{x}{2}", True),
    ("1 1⁄2", r"\frac32", True),
    ("2¹⁄₂", r"\frac52", True),
    ("¹⁄₂", "12", False),
]
TABLES = {
    "denominators": DENOMINATORS, "parameters": PARAMETERS, "names": NAMES, "logarithms": LOGARITHMS,
    "commands between arguments": BETWEEN, "signs": SIGNS,
}  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [pytest.param(*row, id=f"{name}: {row[0]} | {row[1]}") for name, rows in TABLES.items() for row in rows],
)
def test_rule(gold: str, answer: str, equal: bool) -> None:
    """Catches a spelling that is not read, or that is read as more than it says: a solution or a number too many, a
    letter that means two things, two meanings of a logarithm at once, or a part outside of a fraction."""
    assert bool(is_equal(decide(answer, gold))) is equal


@pytest.mark.parametrize("text", ["2**3**4", "x ** 2 ** 3 ** 4 ** 5", "3**1234567"])
def test_powers_are_limited_in_both_spellings(text: str) -> None:
    """Catches a tower or a large exponent that passes the limits because it is written with asterisks."""
    assert why_too_large(text) is not None
    assert is_expensive(text) is is_expensive(text.replace("**", "^"))


@pytest.mark.parametrize("text", ["**12** apples", "12** and **13", "**12**"])
def test_asterisks_of_bold_text_are_no_power(text: str) -> None:
    """Catches markup that is read as arithmetic."""
    assert "^" not in unify(text)
    assert why_too_large(text) is None
