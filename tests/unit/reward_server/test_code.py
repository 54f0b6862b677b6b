"""The task `code`: programs run apart from everything else, and their faults are wrong answers, not the server's."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.programs import sandbox
from reward_server.programs.sandbox import NotIsolated, run_program
from reward_server.result import GradingResult
from reward_server.schema import ScoreItem
from reward_server.tasks.code import CODE, find_program

Grade = Callable[..., GradingResult]
ADD = {"cases": [{"stdin": "2 3\n", "stdout": "5"}, {"stdin": "-1 1\n", "stdout": "0\n"}]}
ASSERTS = {"asserts": ["assert add(2, 3) == 5", "assert add(-1, 1) == 0"]}
RIGHT = "a, b = map(int, input().split())\nprint(a + b)"


def block(program: str) -> str:
    return f"So:\n```python\n{program}\n```\n"


@pytest.fixture(scope="module", autouse=True)
def isolated() -> None:
    """Skips where the machine does not allow programs to be isolated; the task refuses to run them there."""
    try:
        run_program("pass")
    except NotIsolated as error:
        pytest.skip(f"no isolation here: {error}")


@pytest.fixture(scope="module")
def grade() -> Iterator[Grade]:
    """Grade one response, in a real worker."""
    with Grader(ServerConfig(workers=1)) as grader:

        def one(response: str, label: object) -> GradingResult:
            text = label if isinstance(label, str) else json.dumps(label)
            ((result, _),) = grader.grade(CODE, [ScoreItem(id="a", response=response, label=text)])
            return result

        yield one


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\nx\n```", "x\n"),
        ("```\nx\n```\nor\n```py\ny\n```", "y\n"),
        ("```python\nx\n```\n```text\ny\n```", "x\n"),
        ("<think>```\nx\n```</think>\nno", None),
        ("<think>```\nx\n```", None),
        ("<think>a</think>```python\nx\n```", "x\n"),
        ("```python\nx", None),
        ("  ```python\n  x\n  ```", "  x\n"),
        ("no", None),
    ],
)
def test_the_last_closed_block_counts(text: str, program: str | None) -> None:
    """Catches a draft that is graded in place of the answer, and half a program of a truncated response."""
    assert find_program(text) == program


def test_a_text_of_fences_takes_linear_time() -> None:
    """Catches a search that a policy can make last for hours."""
    start = time.monotonic()
    assert find_program("```x\n" * 400_000) is None
    assert time.monotonic() - start < 20


def test_cases_compare_the_output(grade: Grade) -> None:
    """Catches a right program that fails by white space, one that is right in the first case only, and its reason."""
    right = grade(block(RIGHT), ADD)
    assert (right.verdict, right.reward, right.score, dict(right.components)) == (
        "correct",
        1.0,
        1.0,
        {"accuracy": 1.0},
    )
    assert grade(block("a, b = map(int, input().split())\nprint(a + b, '\\n\\n')"), ADD).reward == 1.0
    wrong = grade(block("print(5)"), ADD)
    assert (wrong.verdict, wrong.reward, wrong.reason) == ("wrong", 0.0, "case 2: another output")
    raising = grade(block("raise ValueError('no')"), ADD)
    assert (raising.verdict, raising.reason) == ("wrong", "case 1: exit code 1: ValueError: no")
    assert grade("5", ADD).verdict == "no_answer"


def test_asserts_run_after_the_program(grade: Grade) -> None:
    """Catches asserts that are skipped, also by a program that ends itself before them."""
    assert grade(block("def add(a, b):\n    return a + b"), ASSERTS).reward == 1.0
    wrong = grade(block("def add(a, b):\n    return 5"), ASSERTS)
    assert (wrong.reward, wrong.reason) == (0.0, "exit code 1: AssertionError")
    for end in ("import os\nos._exit(0)", "import sys\nsys.exit(0)", "raise SystemExit"):
        left = grade(block(f"def add(a, b):\n    return 5\n{end}"), ASSERTS)
        assert (left.reward, left.reason) == (0.0, "it ended before the asserts")


@pytest.mark.parametrize("label", ["5", "{}", '{"cases": []}', '{"cases": [{"stdin": "1"}]}', '{"asserts": [1]}'])
def test_a_label_without_tests_is_a_failure(grade: Grade, label: str) -> None:
    """Catches a label that every program passes, or none, because of a slip in the dataset."""
    result = grade(block(RIGHT), label)
    assert (result.verdict, result.reward) == ("gold_unparseable", None)


def test_a_machine_without_isolation_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a program that runs unprotected because the machine does not allow better, and a 0 for it."""
    from reward_server.tasks import code

    def refuse(program: str, given: str = "") -> sandbox.Ended:
        raise NotIsolated("unshare: Operation not permitted")

    monkeypatch.setattr(code, "run_program", refuse)
    (result,) = code.grade([code.Sample("", block(RIGHT), json.dumps(ADD), {})])
    assert (result.verdict, result.reward) == ("error", None)
    assert "not_isolated: programs are not run without isolation: unshare: Operation not permitted" in (
        result.error or ""
    )


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import socket\nsocket.create_connection(('127.0.0.1', 22), 2)", "Network is unreachable"),
        ("import socket\nsocket.create_connection(('192.0.2.1', 80), 2)", "Network is unreachable"),
        ("open('/tmp/openr1_escaped', 'w')", "Read-only file system"),
        ("open('/dev/shm/openr1_escaped', 'w')", "Read-only file system"),
        ("import os\nos.unlink(__import__('sys').executable)", "Read-only file system"),
        ("open('/proc/self/environ')", "No such file or directory"),
        ("print(bytearray(2 * 2**30)[0])", "MemoryError"),
        ("open('big', 'wb').write(bytes(20 * 2**20))", "exit code"),
        ("import os\nos.setuid(0)", "Invalid argument"),
    ],
)
def test_what_a_program_cannot_do(program: str, problem: str) -> None:
    """Catches a program that reaches the network, writes anywhere but in its folder, reads secrets, or fills memory."""
    assert problem in (run_program(program).problem or "")


def test_a_new_namespace_does_not_help() -> None:
    """Catches mounts that a program can make writable again, with the capabilities of a namespace of its own."""
    ended = run_program(
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "print(libc.unshare(0x10020000), libc.mount(None, b'/', None, 0x1020, None))\n"
        "libc.syscall(442, -100, b'/', 0x8000, (ctypes.c_uint64 * 4)(0, 1, 0, 0), 32)\n"
        "open('/tmp/openr1_escaped', 'w')\n"
    )
    assert "Read-only file system" in (ended.problem or "")
    assert not Path("/tmp/openr1_escaped").exists()


def test_a_program_without_end_is_stopped_with_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches processes that outlive their program, in a session of their own, and a wait without end."""
    monkeypatch.setattr(sandbox, "WALL_SECONDS", 1.0)
    mark = f"openr1_test_{os.getpid()}"
    ended = run_program(
        f"import os, subprocess, sys, time\nword = '{mark}'\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', word], start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    assert ended.problem == "it was stopped after 1 s"
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in _read(path)]
    assert left == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_output_is_limited() -> None:
    """Catches a program that fills the memory of the server with what it prints."""
    ended = run_program("import sys\nwhile True: sys.stdout.write('x' * 2**20)")
    assert len(ended.stdout) == sandbox.OUTPUT_BYTES
    assert ended.problem is not None


def test_programs_get_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a token or key of the server in the environment of a program."""
    monkeypatch.setenv("MY_API_KEY", "secret")
    ended = run_program("import os\nprint(sorted(os.environ))")
    assert "MY_API_KEY" not in ended.stdout
    assert "HOME" in ended.stdout
