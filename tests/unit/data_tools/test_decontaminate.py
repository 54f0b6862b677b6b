"""What counts as the same question as one of a benchmark."""

import pytest

from data.prepare.decontaminate import BenchmarkIndex, split_words


def test_words() -> None:
    """Catches case or punctuation that hides a copied question, and Chinese read as one long word."""
    assert split_words("Find $x_{1}+\\frac{1}{2}$, PLEASE!") == ["find", "x", "1", "frac", "1", "2", "please"]
    assert split_words("三加4 等于") == ["三", "加", "4", "等", "于"]


@pytest.mark.parametrize(
    ("benchmark", "text", "same"),
    [
        ("one two three four", "zero, TWO three: four five", True),
        ("one two three four", "two three four", True),
        ("one two three four", "two three five two four", False),
        ("one two three four", "three four", False),
        ("one two three", "one two three", True),
        ("one two", "One, two?", True),
        ("one two", "one two three", False),
        ("one two", "two one", False),
    ],
)
def test_three_words_in_common(benchmark: str, text: str, same: bool) -> None:
    """Catches a run that is one word too short or too long, and short questions found within others."""
    benchmarks = BenchmarkIndex(3)
    benchmarks.add({"task": "math", "prompt": benchmark}, "B")
    assert benchmarks.find({"task": "math", "prompt": text}, text) == ("B" if same else None)


def test_the_words_of_a_puzzle_are_nobodys() -> None:
    """Catches other questions dropped for the words that all puzzles of numbers share."""
    benchmarks = BenchmarkIndex(3)
    prompt = "Combine the numbers 3, 5, 7 into 22."
    benchmarks.add({"task": "countdown", "prompt": prompt, "label": '{"numbers": [3, 5, 7], "target": 22}'}, "B")
    assert benchmarks.find({"task": "math", "prompt": "Combine the numbers!"}, "Combine the numbers!") is None
