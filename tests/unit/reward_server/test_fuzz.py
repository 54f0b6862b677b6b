"""The server under requests that nobody would send: those that the OpenAPI document allows, and those it does not."""

import json
import random
from collections.abc import Iterator

import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error

from reward_server.app import create_app
from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.schema import FAILED_VERDICTS, ScoreItem
from reward_server.service import Service
from reward_server.tasks import TASKS, find_task

CONFIG = ServerConfig(workers=1, worker_seconds=2.0)
_grader = Grader(CONFIG)
schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(Service(grader=_grader, config=CONFIG)))

PIECES = [
    r"\boxed{", r"\frac{", r"\sqrt{", "}", "{", "$", r"\(", r"\)", "^", "_", "!", ",", ":", "=", "%", r"\%", r"\text{",
    r"\sum_{k=1}^{", r"\infty", r"\cup", r"\begin{pmatrix}", r"\end{pmatrix}", "&", r"\\", "and", "or", "<think>",
    "</think>", "<answer>", "</answer>", "\n", " ", "1", "7", "99", "1000000", "x", "y", "e", "i", "π", "７", "\u200b",
    "(", ")", "[", "]", "+", "-", "*", "/", "3 * 5 = 15", "####",
]  # fmt: skip

FORMS = [
    r"\frac{A}{B}", r"\sum_{k=A}^{B} k", r"\begin{pmatrix}A \\ B\end{pmatrix}", "A+B", "A-B", "A*B", "A/B", "A^B",
    "A^{B}", "A_B", "A,B", "A:B", "A=B", "A<B", "A!", r"\sqrt{A}", "(A, B)", "[A, B)", r"\{A, B\}", r"\text{A}", "|A|",
    r"\sin A", r"\log_A B", r"A \cup B",
]  # fmt: skip
LATEX = st.recursive(
    st.sampled_from(["1", "7", "0", "-2.5", "99", "x", "y", "e", r"\pi", r"\infty", "i", "n", "1,000", r"10\%", "∞"]),
    lambda inner: st.builds(
        lambda form, a, b: form.replace("B", "\0").replace("A", a).replace("\0", b),
        st.sampled_from(FORMS), inner, inner,
    ),
    max_leaves=12,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def close_grader() -> Iterator[None]:
    """End the workers with the module."""
    yield
    _grader.close()


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_no_request_breaks_the_server(case: schemathesis.Case) -> None:
    """Catches a request that the server answers with 5xx; what it cannot use, it must refuse."""
    response = case.call()
    case.validate_response(response, checks=[not_a_server_error])


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.sampled_from(sorted(TASKS)))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_no_response_breaks_a_task(text: str, name: str) -> None:
    """Catches a response that crashes a component, or that gets a number together with an error, or neither."""
    task = find_task(name)
    for response in (text, rf"<think>{text}</think><answer>\boxed{{{text}}}</answer>"):
        item = ScoreItem(id="0", response=response, label=task.example.label)
        ((score, _),) = _grader.grade(task, [item], seconds=30)
        assert score.verdict != "error", score.error
        assert (score.verdict in FAILED_VERDICTS) == (score.reward is None) == (score.error is not None)


@given(LATEX, LATEX)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_no_expression_breaks_a_worker(answer: str, gold: str) -> None:
    """Catches a well-formed expression, as answer or as gold, that ends a worker or raises out of the parser."""
    ((score, _),) = _grader.grade(find_task("math"), [ScoreItem(id="0", response=rf"\boxed{{{answer}}}", label=gold)])
    assert score.verdict != "error", score.error


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    """Catches what a week of grading would leave behind: 20,000 items, a third of them hostile."""
    rng = random.Random(0)
    task = find_task("math")

    def batch(start: int) -> list[ScoreItem]:
        items = []
        for number in range(start, start + 500):
            kind = number % 3
            plain = rf"\frac{{{number}\sqrt{{{rng.randint(2, 99)}}}}}{{{rng.randint(2, 99)}}}"
            hostile = "".join(rng.choices(PIECES, k=30))
            answer = (str(number), plain, hostile)[kind]
            items.append(ScoreItem(id=str(number), response=rf"\boxed{{{answer}}}", label=rf"\sqrt{{{number}}}"))
        return items

    def resident() -> float:
        """MB of this process and all below it."""
        me = psutil.Process()
        return sum(one.memory_info().rss for one in (me, *me.children(recursive=True))) / 1e6

    with Grader(ServerConfig(workers=1, worker_seconds=2.0)) as grader:
        after: list[float] = []
        for start in range(0, 20_000, 500):
            graded = grader.grade(task, batch(start))
            assert len(graded) == 500
            after.append(resident())
        assert grader.self_test() is None
    # The first quarter fills the memory of answers; workers are replaced every 2,000 questions.
    print(json.dumps([round(megabytes) for megabytes in after]))
    assert max(after[30:]) - max(after[10:20]) < 100
