"""Reward functions on the command line: `reward new`, `score`, `serve` and `train --dry-run`, as a user runs them."""

import http.client
import json
import subprocess
import sys
from pathlib import Path

from tests.running import ROOT

SECONDS = 120


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "openr1", *words]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_the_starter_file_works_at_once(tmp_path: Path) -> None:
    """Catches a starter that does not run as its own text says, and one that overwrites a file of the user."""
    assert run(tmp_path, "reward", "new", "my_rewards.py").returncode == 0
    scored = run(tmp_path, "score", "--module", "my_rewards.py", "--label", "4", "--response", "2 + 2 is 4")
    result = json.loads(scored.stdout)
    # the label is the last word, and 10 characters are short: 1 + 0.1
    assert (result["reward"], result["score"], result["verdict"]) == (1.1, 1.0, "correct")
    again = run(tmp_path, "reward", "new", "my_rewards.py")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "exists already" in again.stderr
    assert run(tmp_path, "reward", "new", "nowhere/my_rewards.py").returncode == 3
    assert run(tmp_path, "reward", "new", "my_rewards.txt").returncode == 2


def test_a_file_is_scored_by_the_functions_of_its_rows(tmp_path: Path) -> None:
    """Catches rows graded by another function than they name, groups that are mixed up, and output that is no JSON."""
    (tmp_path / "mine.py").write_text(
        "def one(response, label):\n    print('hm')\n    return 1.0\n"
        "def many(responses):\n    return [float(len(responses))] * len(responses)\n"
    )
    rows = [
        {"task": "one", "response": "a", "label": ""},
        {"task": "many", "response": "a", "label": "", "prompt": "p"},
        {"task": "many", "response": "b", "label": "", "prompt": "q"},
        {"task": "many", "response": "c", "label": "", "prompt": "p"},
        {"task": "math", "response": r"\boxed{2}", "label": "2"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(tmp_path, "score", "--module", "mine.py", "--file", "rows.jsonl")
    assert [json.loads(line)["reward"] for line in done.stdout.splitlines()] == [1.0, 2.0, 1.0, 2.0, 1.0]


def test_a_mistake_stops_every_command(tmp_path: Path) -> None:
    """Catches a command that starts something before it has looked at the module."""
    (tmp_path / "bad.py").write_text("\ndef reward(response, lable):\n    return 1.0\n")
    expected = f"{tmp_path}/bad.py:2: reward has a parameter 'lable' that nothing is passed for: did you mean 'label'?"
    for words in (
        ["serve", "--port", "0", "--module", "bad.py"],
        ["score", "--module", "bad.py", "--label", "", "--response", ""],
        ["train", "--config", "grpo_countdown_tiny", "--reward.module", "bad.py", "--dry-run"],
    ):
        done = run(tmp_path, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.strip().removeprefix(f"{words[0]}: ").removeprefix("reward.module: ") == expected


def test_a_server_serves_the_functions(tmp_path: Path) -> None:
    """Catches functions that the server does not list, and what one prints taken for the server's address."""
    (tmp_path / "mine.py").write_text(
        "def short(response):\n    'Short responses.'\n    print('hm')\n    return {'brevity': 1.0 / len(response)}\n"
    )
    command = [sys.executable, "-m", "cli", "serve", "--port", "0", "--module", str(tmp_path / "mine.py")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rpartition(":")[2])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
            connection.request("GET", "/tasks")
            tasks = json.loads(connection.getresponse().read())
            assert tasks["short"]["summary"] == "Short responses."
            items = [{"id": "a", "response": "xx", "label": ""}, {"id": "b", "response": "", "label": ""}]
            body = json.dumps({"task": "short", "items": items})
            connection.request("POST", "/get_score", body, {"content-type": "application/json"})
            results = json.loads(connection.getresponse().read())["results"]
        finally:
            server.terminate()
        assert server.stdout.read() == ""
    assert (results[0]["reward"], results[0]["components"]) == (0.5, {"brevity": 0.5})
    assert (results[1]["reward"], results[1]["verdict"]) == (None, "error")
    assert f"ZeroDivisionError: float division by zero ({tmp_path}/mine.py:4)" in results[1]["error"]
