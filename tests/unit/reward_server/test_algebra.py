r"""Equality of values: what has none, how much work a comparison takes, points, tolerances, and powers of powers."""

import time

import pytest

from reward_server.algebra import budget
from reward_server.algebra.budget import OverBudget, limited, spend
from reward_server.grading.decision import decide
from tests.unit.reward_server.comparisons import is_equal

Row = tuple[str, str, bool]
"""Gold, answer, and whether they are equal."""

WITHOUT_VALUE = [
    r"\ln 0", r"\log 0", r"|\ln 0|", r"\ln 0+1", r"\arctan i", r"\ln(x-x)", r"\lfloor\ln 0\rfloor", r"\binom{-3}{1/2}",
    r"\frac{1}{0}", r"\frac{0}{0}", r"\tan\frac{\pi}{2}",
]  # fmt: skip
UNDEFINED: list[Row] = [
    ("(1,2)", r"(\ln 0,\ln 0)", False),
    ("0", r"\frac{1}{\ln 0}", False),
    ("1", r"\frac{\log 0}{\log 0}", False),
    ("0", r"0\cdot\frac{1}{\sin 0}", False),
    ("0", r"0\cdot\frac{1}{\sin\pi}", False),
    ("0", r"0\cdot\ln(x-x)", False),
    (r"\ln 0", r"\ln 0", True),
    (r"\ln 0", r"\log 0", False),
    ("0", r"\infty-\infty", False),
    ("1", r"\frac{\infty}{\infty}", False),
    ("0", r"0\cdot\infty", False),
    ("1", r"\infty^0", False),
    ("0", r"\frac{1}{\infty}", False),
    (r"\infty", r"+\infty", True),
    (r"\infty", r"-\infty", False),
    (r"-\infty", r"-\infty", True),
    (r"\infty", "7", False),
    (r"(0,\infty)", r"(0,+\infty)", True),
    (r"y=2x", r"y=2x\cdot\frac{\ln 0}{\ln 0}", False),
    (r"2y=4x", r"y\cdot\frac{\ln 0}{\ln 0}=2x", False),
    (r"y=2x", r"2y=4x\cdot\frac{\ln 3}{\ln 3}", True),
]
POINTS: list[Row] = [
    ("|x-5|", "5-x", False),
    ("|x^2-100|", "100-x^2", False),
    ("|x-20000|", "20000-x", False),
    (r"\max(x,10)", "10", False),
    (r"\min(x,10)", "x", False),
    (r"\arctan(\tan\frac{x}{4})", r"\frac{x}{4}", False),
    (r"\max(a,b,0)", r"\max(a,b)", False),
    (r"\max(a,b)", r"\max(b,a)", True),
    (r"\lfloor x\rfloor", "x", False),
    (r"\lfloor 2x\rfloor", r"2\lfloor x\rfloor", False),
    (r"\lfloor x+1\rfloor", r"\lfloor x\rfloor+1", True),
    (r"\lfloor x\rfloor", r"\lceil x\rceil-1", False),
    (r"\lfloor x\rfloor", r"\lfloor x+\frac{1}{100}\rfloor", False),
    (r"\lfloor 3x\rfloor", r"\lfloor 3x+\frac{1}{1000}\rfloor", False),
    (r"\lceil x\rceil", r"\lceil x-\frac1{1000}\rceil", False),
    (r"\lceil x\rceil", r"-\lfloor -x\rfloor", True),
    ("x", r"\max(x,-20000)", False),
    ("x", r"\max(x,-1000000)", False),
    ("x", r"\min(x,200000)", False),
    ("n", r"\min(n,10^6)", False),
    ("x", "|x+1000000|-1000000", False),
    ("|x-a|", "a-x", False),
    ("|x-a|", "|a-x|", True),
    (r"\max(a,b)", r"\frac{a+b+|a-b|}{2}", True),
    (r"x^x+\ln 2", r"x^x+\ln(-2)", False),
    (r"x^x+\ln 2", r"\ln 2+x^x", True),
    (r"\ln(x^2-8x+15)", r"\ln(x-5)+\ln(x-3)", True),
    (r"\gcd(n,13)", "1", False),
    (r"\gcd(m,n)\operatorname{lcm}(m,n)", "mn", True),
    (r"\cosh^2 x-\sinh^2 x", "1", True),
    (r"\ln(1+e^x)-x", r"\ln(1+e^{-x})", True),
    (r"\frac{n!}{k!(n-k)!}", r"\binom{n}{k}", True),
    (r"\sin 2x", r"2\sin x\cos x", True),
]
TOLERANCES: list[Row] = [
    (r"\frac{\ln 2}{2^{150}}", r"\frac{\ln 3}{2^{150}}", False),
    (r"\frac{\ln 4}{2^{150}}", r"\frac{\ln 2}{2^{149}}", True),
    ("10", r"10\tanh 100", False),
    ("0", r"\sin\pi", True),
    ("0", r"\arccos(\sin^2 1+\cos^2 1)", True),
    ("1", r"\sin^2 1+\cos^2 1", True),
    ("0", r"\frac{\ln 2}{2^{150}}", False),
]
POWERS: list[Row] = [
    ("e^{xy}", "(e^x)^y", True),
    ("e^{xy}", "(e^x)^{2y}", False),
    ("2^{n^2}", "(2^n)^n", True),
    ("2", r"(\sqrt{2}^{\sqrt{2}})^{\sqrt{2}}", True),
    ("3", r"(\sqrt{2}^{\sqrt{2}})^{\sqrt{2}}", False),
    (r"\sqrt{-i}", r"i\sqrt{i}", False),
    (r"\sqrt{4i}", r"2\sqrt{i}", True),
    (r"\sqrt{-4}", "2i", True),
]


@pytest.mark.parametrize("answer", WITHOUT_VALUE)
@pytest.mark.parametrize("gold", ["7", "0", "x+1", r"36^\circ", r"\sqrt{2}"])
def test_without_a_value(gold: str, answer: str) -> None:
    """Catches an answer that is infinite or undefined, and so is accepted for every gold."""
    assert decide(answer, gold) is False


@pytest.mark.parametrize(("gold", "answer", "equal"), UNDEFINED)
def test_undefined_parts(gold: str, answer: str, equal: bool) -> None:
    """Catches an undefined or infinite part that cancels, or gives a zero, instead of leaving the whole undefined."""
    assert is_equal(decide(answer, gold)) is equal


@pytest.mark.parametrize(("gold", "answer", "equal"), POINTS)
def test_points(gold: str, answer: str, equal: bool) -> None:
    """Catches expressions that differ only at sizes or signs that no point has, and points outside their domain."""
    assert is_equal(decide(answer, gold)) is equal


@pytest.mark.parametrize(("gold", "answer", "equal"), TOLERANCES)
def test_tolerances(gold: str, answer: str, equal: bool) -> None:
    """Catches an absolute tolerance, which makes small numbers equal, and rounding that makes equal ones differ."""
    assert is_equal(decide(answer, gold)) is equal


@pytest.mark.parametrize(("gold", "answer", "equal"), POWERS)
def test_powers_of_powers(gold: str, answer: str, equal: bool) -> None:
    """Catches a power of a power or a root of a product that is rewritten where that rule does not hold."""
    assert is_equal(decide(answer, gold)) is equal


def test_work_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a comparison that computes on after its budget is spent: the serving process cannot stop it."""
    assert decide("(a+b)^9", "(b+a)^9+0c") is True
    monkeypatch.setattr(budget, "UNITS", 200)
    assert decide("(a+b)^9", "(b+a)^9+0c") is None


def test_limits_end_with_their_comparison() -> None:
    """Catches work of one comparison that counts for the next one, or for code outside of any comparison."""
    with pytest.raises(OverBudget), limited(10):
        spend(11)
    with limited(10):
        spend(10)
    spend(10**9)


def test_forms_are_computed_once() -> None:
    """Catches sets whose elements are expanded again for every pair."""
    powers = ",".join(f"(a+b)^6+{k}" for k in range(12))
    assert decide(rf"\{{{powers}\}}", rf"\{{{powers},a\}}") is False
    start = time.thread_time()
    assert decide(rf"\{{{powers}\}}", r"\{1,2\}") is False
    assert time.thread_time() - start < 0.5


def test_repeats_in_sets() -> None:
    """Catches a check of lengths that takes a repeated element for another one."""
    assert decide(r"\{1,2,2,1\}", r"\{1,2\}") is True
    assert decide(r"\{1,2\}", r"\{1,2,3\}") is False
    assert decide(r"\{50\%\}", r"\{0.5,50\}") is False
