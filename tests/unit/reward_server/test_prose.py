r"""Answers in sentences without a box, as `math_any` grades them. All verdicts are by hand."""

from collections.abc import Iterator

import pytest

from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.grading.prose import answer_in
from reward_server.schema import ScoreItem
from reward_server.tasks import find_task

Row = tuple[str, str, bool]
"""Response, gold, and whether the response answers it."""

NUMBERS: list[Row] = [
    ("So the answer is three.", r"\text{three}", True),
    ("So the answer is 12 apples.", "12", True),
    ("So the answer is 12 apples.", "13", False),
    ("= \\frac{3}{4}$.", r"\frac{3}{4}", True),
    ("The answer is $\\frac{3}{4}$, which is less than 1.", "0.75", True),
    ("We get $\\frac{10}{2}$, which is 5.", "5", True),
    ("The answer is **42**.", "42", True),
    ("Answer: $12,345$", "12345", True),
    ("#### 72", "72", True),
    ("She has $18 left.", "18", True),
    ("He pays $20 and gets back $2.", "2", True),
    ("So he made a profit of $70,000.", "70000", True),
    ("The area is 12 square meters.", "12", True),
    ("There are 20% of them.", r"20\%", True),
    ("It is -5.", "5", False),
    ("The sum is 10. I checked it twice.", "10", True),
    ("The final answer is 7. I hope it is correct. <|im_end|>", "7", True),
    ("The answer is 2^10.", "1024", True),
    ("The price is 1000,99", "1000.99", True),
    ("答案是 12。", "12", True),
    ("因此，一共有**858颗**糖果。", "858", True),
    ("इसलिए, अब 67 कमीजें हैं। ", "67", True),
    ("The answer is (35 + 70 = 105).", "105", True),
]
LIMITS: list[Row] = [
    ("The answer is not 5.", "5", False),
    ("5 is not the answer.", "5", False),
    ("The answer is 5 or more.", "5", False),
    ("The answer is 5 or 6.", "6", False),
    ("The answer is the square root of 5.", "5", False),
    ("The range is 3 to 5.", "5", False),
    ("It takes 3 hours and 20 minutes.", "20", False),
    ("The answer is 2 million.", "2", False),
    ("The answer is 2 million.", "2000000", True),
    ("So the total is 5 dozen eggs.", "5", False),
    ("So the total is 5 dozen eggs.", "60", True),
    ("He needs 12 more apples.", "12", True),
    ("There are 12 sequences that meet the three conditions.", "12", True),
]
EXPRESSIONS: list[Row] = [
    ("The answer is 2\\sqrt{3}.", r"2\sqrt3", True),
    ("The answer is $2\\sqrt{3}$ cm.", r"2\sqrt3", True),
    ("The answer is 1/sqrt(2).", r"\frac{\sqrt2}{2}", True),
    ("The answer is 3+4i.", "3+4i", True),
    ("The answer is 3+4i.", "4", False),
    ("The answer is 6m.", "6m", True),
    ("The answer is $6m$.", "6", False),
    ("The answer is R - r.", "0", False),
    ("Hence f(x) = 2x + 1.", "2x+1", True),
    ("Hence $f(x) = 2x + 1$ for all $x$.", "2x+1", True),
    ("We get 3x = 12, so x = 4", "4", True),
    ("... so 4 + 5 = 9 in total.", "9", True),
    ("Thus\n\\[ 1+2 = 3. \\]", "3", True),
    (
        r"It is $ \left[\begin{array}{cc}1 & 2 \\ 3 & 4\end{array}\right] $",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        True,
    ),
]
PARTS: list[Row] = [
    ("The answer is (2, 3).", "(2,3)", True),
    ("The answer is (2, 3).", "3", False),
    ("The solutions are x = 2 and x = 3.", "2,3", True),
    ("The solutions are $2$ and $3$.", "2,3", True),
    ("The solutions are $2$ and $3$.", "3", False),
    ("The roots are -1, 2 and 3.", "3,2,-1", True),
    ("The interval is $[1, 2)$.", "[1,2)", True),
    ("The interval is $(1, 2)$.", "[1,2)", False),
    ("The ratio is 2:3.", "2:3", True),
    ("The ratio is 2:3.", "3", False),
]
WORDS: list[Row] = [
    ("The answer is yes.", r"\text{yes}", True),
    ("The answer is no.", r"\text{yes}", False),
    ("So the answer is (B).", r"\text{(B)}", True),
    ("So the answer is B.", "B", True),
    ("So the answer is C.", "B", False),
    ("The day is Monday. I am sure.", r"\text{Monday}", True),
    ("I am not sure!", "4", False),
]
TABLES = {"numbers": NUMBERS, "limits": LIMITS, "expressions": EXPRESSIONS, "parts": PARTS, "words": WORDS}


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(ServerConfig(workers=1)) as one:
        yield one


@pytest.mark.parametrize("name", TABLES)
def test_sentences(name: str, grader: Grader) -> None:
    """Catches a sentence of which a part is taken for the answer, or whose answer is not found: a unit or a remark as
    part of it, a limit or a negation that is dropped, the last number of a pair or a list, a word that is no letter."""
    items = [ScoreItem(id=str(n), response=row[0], label=row[1]) for n, row in enumerate(TABLES[name])]
    graded = grader.grade(find_task("math_any"), items)
    verdicts = [(*row[:2], score.verdict) for row, (score, _) in zip(TABLES[name], graded, strict=True)]
    assert verdicts == [(*row[:2], "correct" if row[2] else "wrong") for row in TABLES[name]]


def test_the_answer_is_shown_as_it_is_read() -> None:
    """Catches words that are lost, though they change the number before them."""
    assert answer_in("So there are 5 dozen eggs.", is_text=False) == r"5\text{ dozen eggs }"
    assert answer_in("So there are 5 big eggs.", is_text=False) == "5"
    assert answer_in("Who knows?", is_text=False) == ""
