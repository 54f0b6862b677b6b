"""Reward functions of the user, in real workers: what they get, what they may return, and what they cannot break."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reward_server.config import ServerConfig
from reward_server.config_file import ConfigFileError
from reward_server.functions.module import ModuleError, inspect_module
from reward_server.functions.tasks import settings_and_tasks
from reward_server.grader import Grader
from reward_server.result import GradingResult
from reward_server.schema import ScoreItem

Write = Callable[[str], str]
Grade = Callable[..., list[GradingResult]]

FUNCTIONS = '''
import math, os, sys, time
import neighbour

def equal(response, label):
    return response == label

def parts(prompt, response, label, meta):
    return {"accuracy": float(response == label), "weight": meta["weight"] * 0.5, "prompt": len(prompt)}

def different(responses, label):
    return [float(len(set(responses))) for _ in responses]

def trl(prompts, completions, solution, difficulty, **kwargs):
    """As in TRL."""
    return [len(p) + 10.0 * (c == s) + d for p, c, s, d in zip(prompts, completions, solution, difficulty)]

def aliases(completions, label, answer):
    return [float(a == b == c) for a, b, c in zip(label, answer, completions)]

def neighbours(response):
    return neighbour.VALUE

def strange(response):
    print("printed by a reward function")
    values = {"nan": math.nan, "inf": math.inf, "none": None, "text": "1", "list": [1.0], "huge": 10**400,
              "empty": {}, "keys": {1: 1.0}, "deep": {"a": {"b": 1.0}}, "accuracy": {"accuracy": 2.0}}
    return values.get(response, 0.25)

def fails(response):
    if response == "divide":
        return 1 / 0
    if response == "exit":
        sys.exit(3)
    if response == "die":
        os._exit(3)
    if response == "burn":
        while True:
            pass
    if response == "sleep":
        time.sleep(1000)
    if response == "eat":
        return len(bytearray(8 * 2**30))
    return 1.0

def short_list(responses):
    return [1.0]

def group_fails(responses):
    return [1.0 if one == "a" else math.nan for one in responses]

def helper(x):
    return x
'''


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a module, and return its path."""

    def to_file(text: str) -> str:
        (tmp_path / "neighbour.py").write_text("VALUE = 0.75\n")
        path = tmp_path / "my_rewards.py"
        path.write_text(text)
        return str(path)

    return to_file


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a module with the functions above."""
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "neighbour.py").write_text("VALUE = 0.75\n")
    (folder / "my_rewards.py").write_text(FUNCTIONS)
    return str(folder / "my_rewards.py")


@pytest.fixture(scope="module")
def grade(module: str) -> Iterator[Grade]:
    """Grade responses by a function of the module."""
    _, tasks = settings_and_tasks(None, module)
    with Grader(ServerConfig(workers=2, function_seconds=1.0, batch_seconds=60.0)) as grader:

        def responses(name: str, *texts: str, seconds: float | None = None, **columns: Any) -> list[GradingResult]:
            items = [
                ScoreItem(id=str(number), **({"label": "4", "response": text} | columns))
                for number, text in enumerate(texts)
            ]
            return [result for result, _ in grader.grade(tasks[name], items, seconds)]

        yield responses


def line_of(text: str) -> int:
    """Number of the line of the module that contains the text."""
    return next(number for number, line in enumerate(FUNCTIONS.splitlines(), 1) if text in line)


def test_a_function_takes_what_it_names(grade: Grade) -> None:
    """Catches a function that must take all four parameters, and a bool that is refused or scored otherwise."""
    right, wrong = grade("equal", "4", "5")
    assert (right.reward, right.score, right.verdict, right.components) == (1.0, 1.0, "correct", {"equal": 1.0})
    assert (wrong.reward, wrong.score, wrong.verdict, wrong.error) == (0.0, 0.0, "wrong", None)


def test_components_are_summed_and_accuracy_is_the_score(grade: Grade) -> None:
    """Catches lost components, and a score that follows the reward where the function says how accurate it is."""
    (result,) = grade("parts", "5", prompt="abc", meta={"weight": 3})
    # 0 for the wrong answer, 3 * 0.5, and 3 characters of the prompt
    assert result.components == {"accuracy": 0.0, "weight": 1.5, "prompt": 3.0}
    assert (result.reward, result.score, result.verdict) == (4.5, 0.0, "wrong")


def test_the_prefix_is_part_of_the_response(grade: Grade) -> None:
    """Catches a function that sees half of an answer whose beginning the prompt gives."""
    assert grade("equal", "4", label="<4", prefix="<")[0].reward == 1.0


def test_a_score_stays_in_its_range(grade: Grade) -> None:
    """Catches a reward above 1 that makes a score the schema forbids."""
    (result,) = grade("different", "a", label="x")
    assert result.score == 1.0
    results = grade("different", "a", "b", "a")
    assert [result.reward for result in results] == [2.0, 2.0, 2.0]
    assert [result.score for result in results] == [1.0, 1.0, 1.0]


def test_a_group_is_one_prompt(module: str) -> None:
    """Catches responses to different prompts compared with each other, and results that go to another response."""
    _, tasks = settings_and_tasks(None, module)
    texts = [("p", "a"), ("q", "a"), ("p", "b"), ("p", "c"), ("q", "a")]
    items = [
        ScoreItem(id=str(number), prompt=prompt, response=text, label="4")
        for number, (prompt, text) in enumerate(texts)
    ]
    with Grader(ServerConfig(workers=1)) as grader:
        results = [result.reward for result, _ in grader.grade(tasks["different"], items)]
    assert results == [3.0, 1.0, 3.0, 3.0, 1.0]


def test_trl_signature(grade: Grade) -> None:
    """Catches columns that are missing, no lists, or in another order than the completions."""
    results = grade("trl", "4", "5", prompt="ab", meta={"difficulty": 100})
    assert [result.reward for result in results] == [112.0, 102.0]
    assert [result.reward for result in grade("aliases", "4", "5")] == [1.0, 0.0]
    assert grade("trl", "4", meta={"difficulty": 0, "solution": "other"})[0].reward == 0.0


def test_a_missing_column_is_named(grade: Grade, module: str) -> None:
    """Catches a function that is called without a column that the rows do not have, with no word on which."""
    (result,) = grade("trl", "4")
    assert result.reward is None
    assert "'difficulty'" in (result.error or "")
    assert f"({module}:{line_of('def trl')})" in (result.error or "")


def test_files_beside_the_module_can_be_imported(grade: Grade) -> None:
    """Catches a module that works in its own folder and nowhere else."""
    assert grade("neighbours", "x")[0].reward == 0.75


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ("nan", "returned nan; a reward must be finite"),
        ("inf", "returned inf; a reward must be finite"),
        ("huge", "a reward must be finite"),
        ("none", "returned None of type NoneType"),
        ("text", "returned '1' of type str"),
        ("list", "returned [1.0] of type list"),
        ("empty", "a dict must have names"),
        ("keys", "a dict must have names"),
        ("deep", "of type dict"),
        ("accuracy", "2 for `accuracy`, which must be in [0, 1]"),
    ],
)
def test_what_is_no_reward_is_a_failure(grade: Grade, module: str, response: str, message: str) -> None:
    """Catches a value that becomes 0, NaN or somebody else's reward, and a message without its place."""
    bad, good = grade("strange", response, "fine")
    assert (bad.verdict, bad.reward, bad.score, dict(bad.components)) == ("error", None, None, {})
    assert message in (bad.error or "")
    assert f"({module}:{line_of('def strange')})" in (bad.error or "")
    assert good.reward == 0.25


def test_an_exception_names_its_line(grade: Grade, module: str) -> None:
    """Catches an exception that becomes a reward of 0, or whose message does not lead to the line."""
    results = grade("fails", "divide", "fine", "exit")
    assert [result.reward for result in results] == [None, 1.0, None]
    assert results[0].error == f"grader_error: fails: ZeroDivisionError: division by zero ({module}:{line_of('1 / 0')})"
    assert results[2].error == f"grader_error: fails: SystemExit: 3 ({module}:{line_of('sys.exit(3)')})"


@pytest.mark.parametrize(
    ("response", "verdict", "message"),
    [
        ("burn", "timeout", "takes more than 1 s of CPU time"),
        ("die", "error", "ended its worker process"),
        ("eat", "error", "MemoryError"),
    ],
)
def test_a_worker_that_is_lost_costs_one_response(grade: Grade, response: str, verdict: str, message: str) -> None:
    """Catches a function that takes the server, or other responses, with it."""
    bad, good = grade("fails", response, "fine")
    assert (bad.verdict, bad.reward) == (verdict, None)
    assert message in (bad.error or "")
    assert good.reward == 1.0


def test_the_deadline_holds_for_a_function_that_sleeps(grade: Grade) -> None:
    """Catches a wait without end for a function that uses no CPU time."""
    start = time.monotonic()
    bad, good = grade("fails", "sleep", "fine", seconds=5.0)
    assert time.monotonic() - start < 60
    assert (bad.verdict, good.reward) == ("timeout", 1.0)
    assert grade("fails", "fine")[0].reward == 1.0


def test_a_group_must_have_a_reward_each(grade: Grade, module: str) -> None:
    """Catches one reward that is broadcast to a whole group, and one bad value that takes its neighbours along."""
    results = grade("short_list", "a", "b")
    assert [result.reward for result in results] == [None, None]
    assert "it returned 1 values for 2 responses" in (results[0].error or "")
    assert [result.reward for result in grade("group_fails", "a", "b", "a")] == [1.0, None, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def reward(response:\n", "SyntaxError"),
        ("import nonexistent_package_of_nobody\n", "No module named 'nonexistent_package_of_nobody' ({file}:1)"),
        ("raise SystemExit(0)\n", "ended its process"),
        ("import os\nKEY = os.environ['MY_API_KEY']\n\ndef f(response): return 1\n", "'MY_API_KEY' ({file}:2)"),
        ("def grade(text, gold): return 1\n", "{file}: no reward function: it needs a parameter `response`"),
        ("def _reward(response): return 1\n", "no public function"),
        ("from os.path import join\n", "no public function"),
        ("\ndef reward(prompt, response, lable): return 1\n", "{file}:2: reward has a parameter 'lable' that nothing"),
        ("def reward(response, lable): return 1\n", "did you mean 'label'?"),
        ("async def reward(response): return 1\n", "{file}:1: reward is async"),
        ("def reward(response, /): return 1\n", "remove the `/`"),
        ("def math(response): return 1\n", "math is the name of a built-in task"),
    ],
)
def test_a_mistake_in_the_module_is_one_line(write: Write, text: str, message: str, monkeypatch: Any) -> None:
    """Catches a mistake that is found only by the first response, and a traceback in place of a line."""
    monkeypatch.setenv("MY_API_KEY", "secret")  # workers do not get it, so neither may the check
    file = write(text)
    with pytest.raises(ModuleError) as caught:
        settings_and_tasks(None, file)
    assert message.format(file=file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_module_is_not_imported_here(write: Write) -> None:
    """Catches a check that runs the user's code in the trainer, or takes what it prints for its answer."""
    file = write("import os\nprint('{}')\ndef reward(response, tolerance=1): return os.getpid()\n")
    module = inspect_module(file)
    assert [(one.name, one.kind) for one in module.functions] == [("reward", "response")]
    import sys

    assert not [one for one in sys.modules.values() if getattr(one, "__file__", None) == file]


def test_the_version_follows_the_file(write: Write, tmp_path: Path) -> None:
    """Catches a changed function that grades under the version of the one before."""
    first = inspect_module(write("def reward(response): return 1\n")).version
    again = tmp_path / "copy.py"
    again.write_text("def reward(response): return 1\n")
    other = tmp_path / "other.py"
    other.write_text("def reward(response): return 2\n")
    assert inspect_module(str(again)).version == first
    assert inspect_module(str(other)).version != first


def test_a_config_file_can_change_a_function(write: Write, tmp_path: Path) -> None:
    """Catches a config file that does not know the functions, and weights that it would silently drop."""
    file = write("def reward(response): return 1\n")
    config = tmp_path / "server.yaml"
    config.write_text("tasks: {reward: {failed_reward: -1.0}}\nsettings: {function_seconds: 2.0}\n")
    settings, tasks = settings_and_tasks(config, file)
    assert (settings.function_seconds, tasks["reward"].failed_reward) == (2.0, -1.0)
    config.write_text("tasks: {reward: {weights: {reward: 2.0}}}\n")
    with pytest.raises(ConfigFileError, match="weight its components in its own code"):
        settings_and_tasks(config, file)
    config.write_text("tasks: {reward: {path: a.py:B}}\n")
    with pytest.raises(ConfigFileError, match="'reward' is a function of --module"):
        settings_and_tasks(config, file)
