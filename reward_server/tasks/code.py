"""Programming: the last block of Python code in the response must pass the label's tests, in a process of its own."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reward_server.programs.sandbox import Ended, NotIsolated, run_program
from reward_server.result import GradingResult
from reward_server.schema import describe_problems
from reward_server.tasks.task import Example, LabelError
from reward_server.tasks.worker_task import Sample, WorkerTask

_MAX_TESTS = 50
_MAX_EXTRACTED_CHARS = 1000
_MAX_REASON_CHARS = 200
_LANGUAGES = frozenset({"", "py", "python", "python3"})


class Case(BaseModel):
    """A run of the program: what it reads, and what it must print."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    stdin: str = ""
    stdout: str


class Tests(BaseModel):
    """A label, such as `{"cases": [{"stdin": "2 3", "stdout": "5"}]}` or `{"asserts": ["assert add(2, 3) == 5"]}`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    cases: Annotated[list[Case], Field(max_length=_MAX_TESTS)] = []
    asserts: Annotated[list[str], Field(max_length=_MAX_TESTS)] = []
    """Statements that run after the program, in the same process."""

    @model_validator(mode="after")
    def _require_tests(self) -> "Tests":
        if not self.cases and not self.asserts:
            raise ValueError("no cases and no asserts: every program would pass")
        return self


def parse_label(label: str) -> Tests:
    """Parse a label, which is JSON text.

    Raises:
        LabelError: The label is not such an object. The message names the first problems.
    """
    try:
        return Tests.model_validate_json(label)
    except ValidationError as error:
        raise LabelError(f"not a label of code: {describe_problems(error.errors())}") from error


def find_program(text: str) -> str | None:
    """The last fenced block of Python, or without a language, after the thinking; None without one that is closed."""
    answer = text.rpartition("</think>")[2]
    if "<think>" in answer:
        return None
    found, language, lines = None, None, list[str]()
    for line in answer.splitlines(keepends=True):  # takes linear time, unlike a pattern for a whole block
        fence = line.strip()
        if language is None:
            language = fence[3:].strip().lower() if fence.startswith("```") else None
            lines = []
        elif fence == "```":
            found = "".join(lines) if language in _LANGUAGES else found
            language = None
        else:
            lines.append(line)
    return found


def why_wrong(program: str, tests: Tests) -> str | None:
    """Run the tests in turn, up to the first that fails; why it failed, or None if all passed.

    Raises:
        NotIsolated: Programs cannot be isolated on this machine.
    """
    for number, case in enumerate(tests.cases, 1):
        ended = run_program(program, case.stdin)
        if ended.problem is not None:
            return f"case {number}: {ended.problem}"
        if _lines(ended.stdout) != _lines(case.stdout):
            return f"case {number}: another output"
    if not tests.asserts:
        return None
    ended = run_program("\n".join((program, *tests.asserts, "open('done', 'w').close()", "")))
    return ended.problem or _why_not_done(ended)


def _why_not_done(ended: Ended) -> str | None:
    """A program may end itself with exit code 0 before the asserts run."""
    return None if ended.done else "it ended before the asserts"


def _lines(output: str) -> list[str]:
    """Output as it is compared: without white space at the end of a line, and without empty lines at the end."""
    return [line.rstrip() for line in output.rstrip().split("\n")]


def grade(samples: Sequence[Sample]) -> list[GradingResult]:
    """Runs in a worker: grade programs, one after the other."""
    return [_grade(sample) for sample in samples]


def _grade(sample: Sample) -> GradingResult:
    try:
        tests = parse_label(sample.label)
        program = find_program(sample.text)
        if program is None:
            return GradingResult("no_answer", 0.0, 0.0, {"accuracy": 0.0})
        reason = why_wrong(program, tests)
    except LabelError as error:
        return GradingResult(error.verdict, error=f"{error.verdict}: {error}")
    except NotIsolated as error:
        advice = "the machine must allow user namespaces (docs/reward_server.md#code)"
        return GradingResult("error", error=f"not_isolated: programs are not run without isolation: {error}; {advice}")
    except Exception as error:  # noqa: BLE001 (of the launcher: no fault of the program, and so no 0)
        return GradingResult("error", error=f"grader_error: {type(error).__name__}: {error}")
    score, extracted = float(reason is None), program[:_MAX_EXTRACTED_CHARS]
    line = None if reason is None else " ".join(reason.split())[:_MAX_REASON_CHARS]
    return GradingResult("wrong" if reason else "correct", score, score, {"accuracy": score}, extracted, reason=line)


CODE = WorkerTask(
    name="code",
    version="1",
    summary="the last block of Python code passes the tests of the label, without a network",
    grade=grade,
    components=("accuracy",),
    example=Example(
        "```python\na, b = map(int, input().split())\nprint(a + b)\n```", '{"cases": [{"stdin": "2 3", "stdout": "5"}]}'
    ),
)
