"""Reward functions for TRL, verl and OpenRLHF: what each calls them with, and what each needs back."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reward_server.compat import adapters
from reward_server.compat.adapters import compute_score, reward_func, trl_reward
from reward_server.config import ServerConfig
from reward_server.tasks import UnknownTask

ROOT = Path(__file__).resolve().parents[3]
BOUND_SECONDS = 120
"""No wait below takes this long unless something is broken."""

PUZZLE = {"numbers": [3, 5, 7], "target": 22}
SOLVED = "<think>so</think>\n<answer>3*5+7</answer>"
HALF = r"\boxed{\begin{vmatrix} x & 1 \\ -1 & 1 \end{vmatrix}/2}"
"""Only a parser, and so a worker, can tell that this is (1 + x)/2."""
SLOW = r"\boxed{\sum_{k=1}^{1500} \frac{1}{k^2+1}}"
"""Takes a worker about one second."""


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A grader of its own, whose workers give up after 0.3 seconds, and which ends with the test."""
    monkeypatch.setattr(adapters, "_grader", None)
    monkeypatch.setattr(adapters, "ServerConfig", lambda: ServerConfig(workers=1, worker_seconds=0.3))
    yield
    adapters._get_grader().close()


def chat(*messages: tuple[str, Any]) -> list[dict[str, Any]]:
    """Chat messages of these roles and contents."""
    return [{"role": role, "content": content} for role, content in messages]


# TRL


def test_trl_gets_a_reward_for_each_completion_in_order() -> None:
    """Catches another order, a label that is not the sample's own, and columns of TRL's own that are not expected."""
    reward = trl_reward("math")
    answers = ["4", "5", r"\frac{x + 1}{2}"]
    rewards = reward(
        prompts=["a", "b", "c"],
        completions=[rf"\boxed{{{answer}}}" for answer in answers],
        completion_ids=[[1], [2], [3]],
        label=["4", "4", "(1 + x)/2"],
        trainer_state=None,
    )
    assert rewards == [1.0, 0.0, 1.0]
    assert all(type(value) is float for value in rewards)


def test_trl_logs_a_reward_by_its_name() -> None:
    """Catches two reward functions with one name, which TRL logs over each other."""
    assert [trl_reward(task).__name__ for task in ("math", "countdown")] == ["math_reward", "countdown_reward"]


@pytest.mark.parametrize("column", ["label", "answer", "solution"])
def test_trl_columns_that_hold_the_label(column: str) -> None:
    """Catches a dataset whose label has another usual name."""
    assert trl_reward("math")(["q"], [r"\boxed{4}"], **{column: ["4"]}) == [1.0]


def test_trl_without_labels_is_told_so() -> None:
    """Catches a forgotten column that makes every answer wrong, and columns that do not fit the samples."""
    reward = trl_reward("math")
    with pytest.raises(ValueError, match="math_reward needs the label in one of the columns label, answer, solution"):
        reward(["q"], [r"\boxed{4}"], level=[1])
    with pytest.raises(ValueError, match="zip"):
        reward(["q", "q"], [r"\boxed{4}"] * 2, label=["4"])


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (chat(("assistant", r"\boxed{4}")), 1.0),
        (chat(("assistant", [{"type": "text", "text": r"\boxed"}, {"type": "text", "text": "{4}"}])), 1.0),
        (chat(("assistant", r"\boxed{4}"), ("tool", "4"), ("assistant", r"No: \boxed{5}")), 0.0),
        (chat(("assistant", "?"), ("user", r"\boxed{4}")), 0.0),
        (chat(("assistant", None)), 0.0),
        ([], 0.0),
    ],
)
def test_trl_chat_completions(completion: list[dict[str, Any]], expected: float) -> None:
    """Catches a chat as Python text, an answer that a tool or a user gave, and one that was taken back."""
    assert trl_reward("math")(chat(("user", "2 + 2?")), [completion], label=["4"]) == [expected]


@pytest.mark.usefixtures("hurried")
def test_trl_gets_none_for_what_cannot_be_graded() -> None:
    """Catches a 0, from which training would learn, for a missing label or a comparison that took too long."""
    rewards = trl_reward("math")(["q"] * 3, [r"\boxed{4}", SLOW, r"\boxed{4}"], label=[None, "4", 4])
    assert rewards == [None, None, 1.0]


@pytest.mark.parametrize(
    "prompt",
    ["q <think>", "q\n<think>\n", chat(("user", "q"), ("assistant", "<think>"))],
)
def test_trl_grades_a_thought_that_the_prompt_opens(prompt: Any) -> None:
    """Catches a format reward of 0 for everything where the prompt ends with the tag."""
    completion = SOLVED.removeprefix("<think>")
    assert trl_reward("countdown")([prompt], [completion], answer=[PUZZLE]) == [1.1]
    assert trl_reward("countdown")(["q"], [completion], answer=[PUZZLE]) == [1.0]


@pytest.mark.parametrize("wrap", ["plain", "numpy"])
def test_labels_may_be_objects(wrap: str) -> None:
    """Catches a label object as Python text, which no task reads, and arrays, which columns turn lists into."""
    import numpy

    numbers = numpy.array(PUZZLE["numbers"]) if wrap == "numpy" else PUZZLE["numbers"]
    target = numpy.int64(22) if wrap == "numpy" else 22
    assert trl_reward("countdown")(["q"], [SOLVED], answer=[{"numbers": numbers, "target": target}]) == [1.1]


def test_an_unknown_task_is_refused_at_once() -> None:
    """Catches a typo that shows in the first step of training, or never."""
    with pytest.raises(UnknownTask, match="unknown task 'maths'"):
        trl_reward("maths")
    with pytest.raises(UnknownTask, match="unknown task 'maths'"):
        compute_score("maths", r"\boxed{4}", "4")


# verl


def test_verl_gets_the_score_and_its_parts() -> None:
    """Catches a score without the weights, and arguments of verl's own that are not expected."""
    assert compute_score("countdown", SOLVED, PUZZLE, {"index": 1}, reward_router_address=None) == {
        "score": 1.1,
        "format": 1.0,
        "equation": 1.0,
        "thought": 0.0,
        "failed": 0.0,
    }
    assert compute_score(data_source="math", solution_str=HALF, ground_truth="(1 + x)/2")["score"] == 1.0


@pytest.mark.usefixtures("hurried")
def test_verl_is_told_of_failures_in_the_same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a null, which verl does not take, and keys that only some samples of a batch have."""
    task = adapters.find_task("math").with_overrides({}, failed_reward=-0.5)
    monkeypatch.setattr(adapters, "find_task", lambda name, known: {"math": task}[name])
    failed = {"score": -0.5, "accuracy": 0.0, "truncated": 0.0, "failed": 1.0}
    assert compute_score("math", SLOW, "4") == failed
    assert compute_score("math", r"\boxed{4}", None) == failed
    assert compute_score("math", r"\boxed{4}", "4").keys() == failed.keys()


# OpenRLHF


class Tokenizer:
    """A token is a byte; what the client asks of a tokenizer."""

    def __call__(self, text: str, add_special_tokens: bool, return_tensors: str) -> Any:
        """Tokens as a tensor of one row."""
        import torch

        return {"input_ids": torch.tensor([list(text.encode())])}

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        """The text again."""
        return bytes(tokens).decode()


class Engine:
    """Stands in for vLLM: answers every prompt with the same text."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any, multi_modal_data: Any = None) -> Any:
        """What the client reads of vLLM's output."""
        token_ids = list(self._text.encode())
        output = SimpleNamespace(token_ids=token_ids, text=self._text, finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[output])


def run_client(file: Path, prompt: str, label: Any, responses: list[str]) -> list[dict[str, Any]]:
    """Have OpenRLHF's client load the file, and grade all responses with its reward_func at once."""
    if sys.version_info >= (3, 13):
        pytest.skip("OpenRLHF has no wheel for Python 3.13")
    try:
        from openrlhf.utils.agent import SingleTurnAgentExecutor
    except ImportError as error:
        pytest.fail(f"OpenRLHF's client is missing ({error}); `make setup` installs it")
    client = SingleTurnAgentExecutor(str(file))
    params = SimpleNamespace(max_tokens=1024, logprobs=None)

    async def run_all() -> list[dict[str, Any]]:
        return await asyncio.gather(
            *(client.execute(prompt, label, params, 4096, Tokenizer(), Engine(response)) for response in responses)
        )

    return asyncio.run(run_all())


@pytest.mark.usefixtures("hurried")
def test_openrlhf_loads_a_file_that_imports_the_function(tmp_path: Path) -> None:
    """Catches answers that no tensor can be made of, a forged turn that is graded, and failures without a mark."""
    import torch

    file = tmp_path / "rewards.py"
    file.write_text("from reward_server.compat.adapters import reward_func\n")
    prompt = "user: What is (x + 1)/2?\nassistant:"
    responses = [HALF, r"\boxed{2}", "user: What is 1 + 1?\nassistant: \\boxed{2}"]
    results = run_client(file, prompt, r"\frac{1 + x}{2}", [*responses * 5, SLOW])
    assert [result["reward"] for result in results] == [[1.0], [0.0], [0.0]] * 5 + [[0.0]]
    assert [result["scores"] for result in results] == [[1.0], [0.0], [0.0]] * 5 + [[0.0]]
    assert [result["extra_logs"]["failed"] for result in results] == [[0.0]] * 15 + [[1.0]]
    for result in results:
        # As its trainer does for every sample.
        assert torch.tensor([result["reward"]]).shape == (1, 1)
        assert all(torch.tensor([value]).isfinite().all() for value in result["extra_logs"].values())


def test_openrlhf_loads_the_adapter_file_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a module that works only when imported by its name, a task that is not asked for, a label not as text."""
    monkeypatch.setenv("OPENR1_REWARD_TASK", "countdown")
    assert adapters.__file__ is not None
    (result,) = run_client(Path(adapters.__file__), "Make 22 from 3, 5, 7.", PUZZLE, [SOLVED])
    assert result["reward"] == [1.1]
    assert result["extra_logs"] == {"format": [1.0], "equation": [1.0], "thought": [0.0], "failed": [0.0]}


def test_openrlhf_is_told_of_a_wrong_task_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a typo that raises while grading, which the client catches and logs: all rewards would be None."""
    monkeypatch.setenv("OPENR1_REWARD_TASK", "maths")
    with pytest.raises(UnknownTask, match="unknown task 'maths'"):
        run_client(Path(str(adapters.__file__)), "q", "4", [])


def test_openrlhf_batches_keep_their_order() -> None:
    """Catches rewards in another order where one text cannot be attributed to its prompt."""
    reply = reward_func(["Q 4", r"Q \boxed{4}", r"Q \boxed{5}"], ["other", "Q", "Q"], ["4", "4", "4"])
    assert reply["rewards"] == reply["scores"] == [0.0, 1.0, 0.0]
    assert reply["extra_logs"]["failed"] == [1.0, 0.0, 0.0]


# The grader that they share


def test_threads_share_one_grader(hurried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a pool of processes for every thread that comes first, of which all but one are never ended."""
    started: list[Any] = []
    real = adapters.Grader
    at_once = threading.Barrier(8)

    def start(config: ServerConfig) -> Any:
        # Long enough for the other threads to come while this one has none yet.
        time.sleep(0.2)
        started.append(real(config))
        return started[-1]

    def grade() -> None:
        at_once.wait(BOUND_SECONDS)
        scores.append(compute_score("math", r"\boxed{4}", "4")["score"])

    monkeypatch.setattr(adapters, "Grader", start)
    scores: list[float] = []
    threads = [threading.Thread(target=grade) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND_SECONDS)
    assert scores == [1.0] * 8
    assert len(started) == 1


def run_script(tmp_path: Path, text: str) -> "subprocess.CompletedProcess[str]":
    """Run a script of a user's, from another folder than the package's."""
    script = tmp_path / "train.py"
    script.write_text(text)
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
    )


def test_a_script_starts_processes_only_when_it_grades_and_leaves_none(tmp_path: Path) -> None:
    """Catches workers at import, a script that hangs or fails at its end, and torch in a process without use for it."""
    run = run_script(
        tmp_path,
        f"""
import multiprocessing.forkserver, sys
from reward_server.compat.adapters import trl_reward
if __name__ == "__main__":
    reward = trl_reward("math")
    print(multiprocessing.forkserver._forkserver._forkserver_pid, "torch" in sys.modules)
    print(reward(["q"], [{HALF!r}], label=["(1 + x)/2"]))
""",
    )
    assert (run.returncode, run.stdout.splitlines()) == (0, ["None False", "[1.0]"]), run.stderr
    # A thread that is started while the interpreter exits: a traceback with Python 3.12, and workers that stay.
    assert run.stderr == ""


def test_a_large_script_leaves_workers_their_memory(tmp_path: Path) -> None:
    """Catches workers that run the main script: 4 GiB of its libraries' addresses would be all that they may have."""
    run = run_script(
        tmp_path,
        f"""
import mmap
LIBRARIES = mmap.mmap(-1, 4 * 2**30)
from reward_server.compat.adapters import compute_score
if __name__ == "__main__":
    print(compute_score("math", {HALF!r}, "(1 + x)/2"))
""",
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["{'score': 1.0, 'accuracy': 1.0, 'truncated': 0.0, 'failed': 0.0}"], run.stderr


def grade_in_child(connection: Any) -> None:
    """Send what grading gives, or the class of what it raises."""
    try:
        connection.send(compute_score("math", HALF, "(1 + x)/2")["score"])
    except Exception as error:  # noqa: BLE001 (its class is the result)
        connection.send(type(error).__name__)


@pytest.mark.parametrize(("daemon", "outcome"), [(False, 1.0), (True, "AssertionError")])
def test_child_processes_grade_or_say_that_they_cannot(daemon: bool, outcome: Any) -> None:
    """Catches rewards of 0 from a process that may not start others, and one that never ends once it has graded."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=grade_in_child, args=[sender], daemon=daemon)
    child.start()
    try:
        assert receiver.poll(BOUND_SECONDS)
        assert receiver.recv() == outcome
        child.join(BOUND_SECONDS)
        assert child.exitcode == 0
    finally:
        child.kill()
