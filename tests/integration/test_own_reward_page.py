"""docs/own_reward.md as a new user follows it: every code block of it is written to a file, and works."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from openr1.rewards.client import RewardClient
from openr1.types import Group
from tests.fakes import make_prompt, make_response
from tests.running import ROOT

PAGE = (ROOT / "docs/own_reward.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECONDS = 120


def blocks() -> list[str]:
    """The Python code of the page."""
    return BLOCK.findall(PAGE)


def score(folder: Path, *words: str) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "cli", "score", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_ten_lines_are_a_reward(tmp_path: Path) -> None:
    """Catches a first example that does not run as it stands, or is longer than its title says."""
    text = blocks()[0]
    assert text.startswith("# my_rewards.py\n")
    assert len(text.splitlines()) <= 10
    file = tmp_path / "my_rewards.py"
    file.write_text(text)
    (result,) = score(tmp_path, "--module", str(file), "--label", "4", "--response", "2 + 2 is 4")
    assert (result["reward"], result["components"]) == (1.1, {"accuracy": 1.0, "brevity": 0.1})


def test_functions_are_combined_as_shown(tmp_path: Path) -> None:
    """Catches an example of a sum that loses a part, or the order of the responses."""
    file = tmp_path / "combined.py"
    file.write_text(
        "def accuracy_reward(completions, solution, **kwargs):\n"
        "    return [float(a == b) for a, b in zip(completions, solution)]\n"
        "def format_reward(completions, **kwargs):\n"
        "    return [float(one.isdigit()) for one in completions]\n" + blocks()[1]
    )
    rows = [{"response": "4", "label": "4", "prompt": "p"}, {"response": "5", "label": "4", "prompt": "p"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = score(tmp_path, "--module", str(file), "--task", "total", "--file", str(tmp_path / "rows.jsonl"))
    assert [result["reward"] for result in results] == [1.2, 0.2]


def test_the_server_of_the_page_grades_a_group(tmp_path: Path) -> None:
    """Catches an example server that lacks a key or a route that the client of a run needs."""
    text = blocks()[2]
    assert text.startswith("# my_server.py\n")
    (tmp_path / "my_server.py").write_text(text)
    command = [sys.executable, "-m", "uvicorn", "my_server:app", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
            url = next(found[1] for line in server.stderr if (found := address.search(line)))
            with RewardClient(url, SECONDS, SECONDS) as client:
                client.wait_until_ready()
                assert client.tasks() is None
                right, wrong = (replace(make_response(7), text=text) for text in ("it is 4", "it is 5"))
                group = Group(make_prompt(1, label="4", task="anything"), (right, wrong))
                grades = client.submit(group).result(SECONDS)
        finally:
            server.terminate()
    assert [(grade.reward, grade.score) for grade in grades] == [(1.0, 1.0), (0.0, 0.0)]
    assert [grade.verdict for grade in grades] == ["correct", "wrong"]


def test_the_commands_have_the_flags_of_the_page() -> None:
    """Catches a page whose commands name flags that the command line does not have."""
    for words in re.findall(r"^\$ openr1 (.*)$", PAGE, re.MULTILINE):
        command = [sys.executable, "-m", "cli", words.split()[0], "--help"]
        help_text = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=True
        ).stdout
        for flag in re.findall(r"--[a-z._]+", words):
            assert flag in help_text, words
