"""Import paths, and reward tasks that a server's config file takes from outside the package."""

import http.client
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reward_server.config_file import ConfigFileError, read_config
from reward_server.import_path import ImportPathError, import_object
from tests.running import ROOT

BOUND_SECONDS = 60
"""No wait below takes this long unless something is broken."""

TASK_FILE = r"""
from reward_server.tasks.task import Comparison, Example, GradingContext, LabelError, RewardComponent, Task


def parse_label(label: str) -> str:
    if not label:
        raise LabelError("the label is empty")
    return label


def find_last_line(text: str) -> str | None:
    return text.strip().rpartition("\n")[2] or None


def accuracy_reward(context: GradingContext[str]) -> float:
    return float(context.answer is not None and context.compare(Comparison(context.answer, context.gold)))


def brevity_reward(context: GradingContext[str]) -> float:
    return float(len(context.text) < 20)


LAST_LINE = Task(
    name="name_in_the_file",
    version="3",
    summary="the last line equals the gold answer",
    parse_label=parse_label,
    find_answer=find_last_line,
    components={"accuracy": RewardComponent(1.0, accuracy_reward), "brevity": RewardComponent(0.5, brevity_reward)},
    accuracy="accuracy",
    example=Example("So it is\n4", "4"),
)
NUMBER = 4
"""
LONG_RIGHT = {
    "id": "a",
    "response": "By hand, slowly:\n" + r"\begin{vmatrix} 3 & 1 \\ 1 & 2 \end{vmatrix}",
    "label": "5",
}
"""Right, 61 characters; only a parser, and so a worker process, can tell that the two are equal."""
SHORT_WRONG = {"id": "b", "response": "Hm\n5", "label": "4"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file of tasks, and a package of the same content under another name."""
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards/my-tasks.py").write_text(TASK_FILE)
    (tmp_path / "outside_package").mkdir()
    (tmp_path / "outside_package/__init__.py").write_text("")
    (tmp_path / "outside_package/tasks.py").write_text(TASK_FILE)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(("outside_package", "import_path_"))]:
        del sys.modules[name]


def write_config(folder: Path, entry: dict[str, Any], name: str = "last_line") -> Path:
    """A server's config file with one entry under `tasks`. JSON is YAML."""
    path = folder / "server.yaml"
    path.write_text(json.dumps({"tasks": {name: entry}}))
    return path


def ask(port: int, method: str, path: str, body: Any = None) -> Any:
    """The JSON of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_SECONDS)
    connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
    content = json.loads(connection.getresponse().read())
    connection.close()
    return content


@pytest.mark.parametrize("path", ["rewards/my-tasks.py:LAST_LINE", "outside_package.tasks:LAST_LINE"])
def test_a_server_grades_with_a_task_from_outside(
    path: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Catches a task that is loaded but not served, is served under another name, or cannot reach the workers."""
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
    config = write_config(folder, {"path": path, "weights": {"brevity": 0.25}, "failed_reward": -1})
    command = [sys.executable, "-m", "cli", "serve", "--port", "0", "--task", "last_line", "--config", str(config)]
    # In a folder of its own: a relative path starts from the config file, not from where the server was started.
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with subprocess.Popen(command, cwd=elsewhere, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rpartition(":")[2])
            items = [LONG_RIGHT, SHORT_WRONG, {**SHORT_WRONG, "id": "c", "label": ""}]
            answer = ask(port, "POST", "/get_score", {"task": "last_line", "items": items})
            assert answer["grader"] == {"name": "last_line", "version": "3"}
            # 1 * 1 + 0.25 * 0, then 1 * 0 + 0.25 * 1, then a label that the task refuses.
            assert [(result["verdict"], result["reward"]) for result in answer["results"]] == [
                ("correct", 1.0),
                ("wrong", 0.25),
                ("gold_unparseable", None),
            ]
            assert ask(port, "POST", "/score", {"response": "Hm\n5", "label": ""}) == -1.0
            assert ask(port, "GET", "/tasks")["last_line"]["weights"] == {"accuracy": 1.0, "brevity": 0.25}
            assert ask(port, "GET", "/version")["tasks"]["last_line"] == "3"
        finally:
            server.kill()


def test_score_takes_the_same_file(folder: Path) -> None:
    """Catches a command line that knows only the built-in tasks."""
    config = write_config(folder, {"path": "rewards/my-tasks.py:LAST_LINE"})
    words = ["score", "--config", str(config), "--task", "last_line", "--label", "4", "--response", "So:\n4"]
    run = subprocess.run([sys.executable, "-m", "cli", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["reward"] == 1.5


BROKEN_FILES = {
    "raises.py": "import os\n\nVALUE = {}['key']\n",
    "syntax.py": "def\n",
    "needs.py": "import no_such_dependency\n",
    "accuracy.py": TASK_FILE.replace('accuracy="accuracy"', 'accuracy="acuracy"'),
}


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("mine", "no_such_package.tasks:TASK", "no module named 'no_such_package': install its package, add its"),
        ("mine", "outside_package.task:TASK", "no module named 'outside_package.task': "),
        ("mine", "rewards/none.py:TASK", "no file {folder}/rewards/none.py: correct the path; a relative one starts"),
        ("mine", "rewards/my:TASK", "'rewards/my:TASK' is not an import path: write package.module:NAME or path/"),
        ("mine", "outside_package.tasks", "'outside_package.tasks' is not an import path: "),
        ("mine", "rewards/my-tasks.py", "'rewards/my-tasks.py' is not an import path: "),
        ("mine", "outside_package.tasks:", "is not an import path: "),
        ("mine", "", "'' is not an import path: "),
        ("mine", "rewards/my-tasks.py:LASTLINE", "has no attribute 'LASTLINE': did you mean 'LAST_LINE'?"),
        ("mine", "outside_package.tasks:XYZ", "has no attribute 'XYZ': define XYZ there, or correct the name"),
        ("mine", "outside_package.tasks:NUMBER", "outside_package.tasks:NUMBER is of type int, not a reward_server"),
        ("mine", "rewards/my-tasks.py:Task", "is of type type, not a reward_server.tasks.task.Task"),
        ("math", "rewards/my-tasks.py:LAST_LINE", "'math' is a built-in task: choose another name, or remove path"),
        ("mine", "raises.py:TASK", "importing {folder}/raises.py failed: KeyError: 'key' ({folder}/raises.py:3): fix"),
        ("mine", "syntax.py:TASK", "{folder}/syntax.py failed: SyntaxError: invalid syntax (syntax.py, line 1)"),
        ("mine", "needs.py:TASK", "No module named 'no_such_dependency' ({folder}/needs.py:1): fix its code"),
        ("mine", "accuracy.py:LAST_LINE", "accuracy is 'acuracy', but the components are: accuracy, brevity ("),
    ],
)
def test_a_task_that_cannot_be_used(
    name: str, path: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a fault that shows as a traceback, or that shows only when the first response is graded."""
    monkeypatch.syspath_prepend(str(folder))
    for file, text in BROKEN_FILES.items():
        (folder / file).write_text(text)
    config = write_config(folder, {"path": path}, name)
    with pytest.raises(ConfigFileError) as caught:
        read_config(config)
    assert str(caught.value).startswith(f"{config}: tasks.{name}.path: ")
    assert message.replace("{folder}", str(folder)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_commands_refuse_such_a_task_before_they_start(folder: Path) -> None:
    """Catches a server that listens although its task is missing, and another exit code than that of a bad config."""
    config = write_config(folder, {"path": "rewards/my-tasks.py:MISSING"})
    for words in (["serve", "--port", "0"], ["score", "--label", "4", "--response", "4"]):
        command = [sys.executable, "-m", "cli", *words, "--config", str(config)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BOUND_SECONDS, check=False)
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr.startswith(
            f"{words[0]}: {config}: tasks.last_line.path: rewards/my-tasks.py has no attribute"
        )
        assert run.stderr.count("\n") == 1


def test_a_new_name_without_a_path_is_unknown(folder: Path) -> None:
    """Catches a typo in the name of a built-in task that passes for a new task."""
    with pytest.raises(ConfigFileError, match="unknown task 'maht'; known tasks: "):
        read_config(write_config(folder, {"weights": {"accuracy": 2}}, "maht"))


# Import paths


def test_a_file_is_loaded_once(folder: Path) -> None:
    """Catches two classes of one name, of which an `isinstance` check knows only one."""
    (folder / "one.py").write_text("class Thing:\n    class Part:\n        pass\n")
    (folder / "other.py").write_text("class Thing:\n    pass\n")
    thing = import_object("one.py:Thing", folder)
    assert import_object(f"{folder}/rewards/../one.py:Thing", Path("/")) is thing
    assert import_object("one.py:Thing.Part", folder) is vars(thing)["Part"]
    assert import_object("other.py:Thing", folder) is not thing


def test_objects_of_a_file_can_be_pickled(folder: Path) -> None:
    """Catches a module that is not registered, whose classes no pool of processes or cache can take."""
    (folder / "one.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Point:\n    x: int\n\n\nPOINT = Point(3)\n"
    )
    point = import_object("one.py:POINT", folder)
    assert pickle.loads(pickle.dumps(point)) == point


def test_a_file_that_failed_is_loaded_again(folder: Path) -> None:
    """Catches a half-initialized module that stays behind and is taken for the whole one."""
    (folder / "one.py").write_text("FIRST = 1\nraise RuntimeError('two\\nlines')\n")
    with pytest.raises(ImportPathError, match=r"RuntimeError: two lines \(.*one.py:2\): fix its code$"):
        import_object("one.py:FIRST", folder)
    (folder / "one.py").write_text("FIRST = 1 + 1\n")
    assert import_object("one.py:FIRST", folder) == 2
