"""Text of models and files reaches no terminal and no page with control characters in it."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cli.__main__ import main
from eval.page import to_html
from eval.report import to_markdown
from eval.result import summarize
from eval.samples import Sample
from openr1.config.train import ShadowConfig
from openr1.runtime.console import print_table, say
from openr1.runtime.files import read_objects, to_line
from openr1.tracking.shadow import Pair, ShadowReport
from reward_server.printable import printable
from reward_server.scoring import get_score
from reward_server.tasks import find_task
from tests.fakes import make_score
from tests.running import ROOT

COMMANDS = "\x1b\x9b\x07\x08\x7f\r\x00\u202e\u2066"
"""ESC, CSI in one character, bell, backspace, delete, return, and two that turn the order of what follows."""
TEXT = f"a{COMMANDS}[31mb\t题\nc"


def is_harmless(shown: str) -> bool:
    """Whether none of the commands is in a text."""
    return not set(shown) & set(COMMANDS)


def test_control_characters_are_spelled_out() -> None:
    """Catches one that is missing, one too many, and a line of JSON that has another value afterwards."""
    shown = printable(TEXT)
    assert shown == r"a\u001b\u009b\u0007\u0008\u007f\u000d\u0000\u202e\u2066[31mb" + "\t题\nc"
    every = "".join(map(chr, range(0x20)))
    assert set(printable(every)) & set(every) == {"\t", "\n"}
    line = json.dumps({"response": TEXT}, ensure_ascii=False)
    assert json.loads(printable(line)) == json.loads(line)
    ordinary = "Zoë, 题目, שלום, 👩‍🔬, x² ≤ \\frac{1}{2}"
    assert printable(ordinary) == ordinary


def test_lines_and_tables_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a message that quotes a response, or a table with names from files, that moves the cursor."""
    say(TEXT)
    print_table(TEXT, [TEXT, "b"], [[TEXT, "c"]])
    shown = capsys.readouterr().out
    assert is_harmless(shown)
    assert r"a\u001b" in shown


def test_errors_in_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an error that quotes a file, or the name of one, as it is."""
    assert main(["score", "--file", str(tmp_path / "\x1b[2J.jsonl")]) == 3
    shown = capsys.readouterr().err
    assert is_harmless(shown)
    assert r"\u001b[2J.jsonl" in shown


@pytest.mark.parametrize("command", ["score", "grade-audit"])
def test_what_commands_quote_of_a_file(command: str, tmp_path: Path) -> None:
    """Catches a response or label that commands the terminal of whoever grades a file; JSON must keep its value."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": TEXT, "response": rf"\boxed{{{TEXT}}}", "label": TEXT}) + "\n")
    words = [sys.executable, "-m", "cli", command, *(["--file"] if command == "score" else []), str(path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert is_harmless(done.stdout + done.stderr)
    if command == "score":
        assert json.loads(done.stdout)["id"] == TEXT


def test_pages_of_an_evaluation() -> None:
    """Catches a response that commands the terminal of whoever prints the report, or turns the order of the page."""
    group = [Sample(TEXT, 0, TEXT, TEXT, TEXT, 3, False, TEXT, TEXT, 0.0, TEXT)]
    results = {TEXT: summarize([group])}
    page = to_html(TEXT, {TEXT: TEXT}, results, {TEXT: [group]})
    assert is_harmless(page)
    assert page.count(r"a\u001b") >= 10
    assert is_harmless(to_markdown("Evaluation", {TEXT: TEXT}, results))


def test_records_of_a_run(tmp_path: Path) -> None:
    """Catches responses in rollouts/ and shadow/ that command the terminal of whoever prints the file."""
    assert is_harmless(to_line({"response": TEXT, TEXT: 1}))
    first, shadow = make_score(1.0), replace(make_score(0.0), verdict=TEXT)
    ShadowReport(tmp_path, ShadowConfig(task="shadow")).add(1, [Pair("p/0", TEXT, TEXT, TEXT, 0.5, first, shadow)])
    path = tmp_path / "shadow/step_000001.jsonl"
    assert is_harmless(path.read_bytes().decode())
    [(_, row)] = read_objects(path)
    assert (row["prompt"], row["label"], row["response"], row["shadow_verdict"]) == (TEXT, TEXT, TEXT, TEXT)


def test_log_of_the_reward_server(caplog: pytest.LogCaptureFixture) -> None:
    """Catches a traceback that quotes a response as it is."""

    def parse_label(label: str) -> str:
        raise RuntimeError(label)

    task = replace(find_task("math"), parse_label=parse_label)
    with caplog.at_level(logging.ERROR):
        result = get_score(task, "text", TEXT, compare=lambda comparison: True)
    assert result.verdict == "error"
    assert r"RuntimeError: a\u001b" in caplog.text
    assert is_harmless(caplog.text)
