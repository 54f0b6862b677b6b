"""The reward server over HTTP: the real process on a free port, and the application alone where limits are small."""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi import FastAPI

from openr1.rewards.client import RewardClient
from openr1.types import Grade, Group, Prompt, Response
from reward_server.app import create_app
from reward_server.auth_and_concurrency import AuthAndConcurrencyMiddleware
from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.metrics import Metrics
from reward_server.service import Service
from reward_server.tasks import BUILT_IN
from reward_server.tasks.task import Comparison, Example, GradingContext, RewardComponent, Task
from reward_server.workers import WorkerPool

ROOT = Path(__file__).resolve().parents[3]
SERVE = [sys.executable, "-c", "import sys; from cli.serve import run; sys.exit(run(sys.argv[1:]))"]
BOUND_SECONDS = 60
"""No wait below takes this long unless something is broken."""

LABEL = '{"numbers": [3, 5, 7], "target": 22}'
RIGHT = {"id": "a", "response": "<think>so</think>\n<answer>3*5+7</answer>", "label": LABEL}
WRONG = {"id": "b", "response": "<think>so</think>\n<answer>3+5+7</answer>", "label": LABEL}
ABORT_FACTOR = {"id": "c", "response": "<think>so</think>\n<answer>3*5+7</answer>", "label": "22"}


@dataclass(frozen=True)
class Answer:
    """Status and JSON of one answer."""

    status: int
    content: Any


# The real process


@contextmanager
def serving() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server process on a port that the system chose, which ends with the block."""
    with subprocess.Popen([*SERVE, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            announcement = process.stdout.readline()
            assert announcement.startswith("reward server: http://127.0.0.1:"), announcement
            yield process, int(announcement.rpartition(":")[2])
        finally:
            process.kill()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of one server for all tests of this file that leave it alive."""
    with serving() as (_, port):
        yield port


def ask(port: int, method: str, path: str, body: Any = None) -> Answer:
    """Send a request with this body as JSON, or as it is where it is bytes or an iterator of chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_SECONDS)
    payload = json.dumps(body) if isinstance(body, dict) else body
    connection.request(method, path, payload, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = Answer(response.status, json.loads(response.read()))
    connection.close()
    return answer


def wait_until_refused(port: int) -> None:
    """Return once the server takes no new connections."""
    deadline = time.monotonic() + BOUND_SECONDS
    while time.monotonic() < deadline:
        try:
            ask(port, "GET", "/health")
        except ConnectionError:
            return
    pytest.fail(f"port {port} still answers")


def test_a_batch_keeps_order_and_tells_failure_from_wrong(port: int) -> None:
    """Catches results in another order, a missing key, and an unreadable label that scores 0."""
    answer = ask(port, "POST", "/get_score", {"task": "countdown", "items": [ABORT_FACTOR, WRONG, RIGHT]})
    assert answer.status == 200
    assert answer.content.keys() == {"results", "grader", "request_id"}
    assert answer.content["grader"] == {"name": "countdown", "version": "2"}
    broken, wrong, right = answer.content["results"]
    assert all(result.pop("ms") >= 0 for result in (broken, wrong, right))
    assert broken.pop("error").startswith("gold_unparseable: ")
    assert broken == {
        "id": "c",
        "reward": None,
        "score": None,
        "components": {},
        "extracted": None,
        "verdict": "gold_unparseable",
        "reason": None,
    }
    assert wrong == {
        "id": "b",
        "reward": 0.1,
        "score": 0.0,
        "components": {"format": 1.0, "equation": 0.0, "thought": 0.0},
        "extracted": "3+5+7",
        "verdict": "wrong",
        "error": None,
        "reason": None,
    }
    assert (right["id"], right["reward"], right["score"], right["verdict"]) == ("a", 1.1, 1.0, "correct")


def test_optional_keys_reach_the_grader(port: int) -> None:
    """Catches a route that drops prefix or finish_reason on the way to get_score."""
    full = {
        "id": "a",
        "prompt": "Use 3, 5 and 7.",
        "prefix": "<think>",
        "response": "so</think>\n<answer>3*5+7</answer>",
        "label": LABEL,
        "meta": {"level": 2, "tags": ["easy"]},
        "finish_reason": "stop",
    }
    cut = {"id": "b", "prefix": "<think>", "response": "so", "label": LABEL, "finish_reason": "length"}
    answer = ask(port, "POST", "/get_score", {"task": "countdown", "items": [full, cut], "deadline_ms": 60_000})
    assert [(result["reward"], result["verdict"]) for result in answer.content["results"]] == [
        (1.1, "correct"),
        (0.0, "truncated"),
    ]


def test_an_empty_batch_is_allowed(port: int) -> None:
    """Catches a server that refuses, or fails on, a batch without items."""
    answer = ask(port, "POST", "/get_score", {"task": "countdown", "items": []})
    assert (answer.status, answer.content["results"]) == (200, [])


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"task": "countdown", "items": [RIGHT, {"id": "x", "response": "y"}]}, "items.1.label: Field required"),
        ({"task": "countdown", "items": [{**RIGHT, "label": 22}]}, "items.0.label: Input should be a valid string"),
        ({"task": "countdown", "items": [{**RIGHT, "lable": ""}]}, "items.0.lable: Extra inputs are not permitted"),
        ({"task": "countdown", "items": [{**RIGHT, "finish_reason": "eos"}]}, "items.0.finish_reason: Input should be"),
        ({"task": "countdown", "items": [RIGHT, RIGHT]}, "items: item 1 repeats the id 'a'"),
        ({"task": "countdown", "items": [{**RIGHT, "response": "\ud800"}]}, "items.0.response: character 0"),
        ({"task": "countdown", "items": [RIGHT], "deadline_ms": 0}, "deadline_ms: Input should be greater than 0"),
        ({"task": "countdown"}, "items: Field required"),
        (
            {"task": "countdwn", "items": []},
            "task: unknown task 'countdwn'; known tasks: code, countdown, game24,",
        ),
        (b'{"task": ', "the body is not JSON: Expecting value at character 9"),
        (b"", "body: Field required"),
    ],
)
def test_malformed_requests_are_refused_with_the_path(port: int, body: Any, detail: str) -> None:
    """Catches a typo that is ignored, a number taken for a label, and errors that do not say where."""
    answer = ask(port, "POST", "/get_score", body)
    assert answer.status == 422
    assert answer.content["detail"].startswith(detail)
    assert "\n" not in answer.content["detail"]


def test_health_and_ready(port: int) -> None:
    """Catches a server that says it is ready without having graded anything right."""
    assert ask(port, "GET", "/health") == Answer(200, {"status": "ok"})
    assert ask(port, "GET", "/ready") == Answer(200, {"ready": True, "reason": None})


def test_a_chunked_body_is_counted(port: int) -> None:
    """Catches a limit on the announced length alone: this body is over it and announces none. The server lives on."""
    limit = ServerConfig().max_body_bytes
    chunks = (b" " * size for size in [limit // 4] * 4 + [1])
    answer = ask(port, "POST", "/get_score", chunks)
    assert answer == Answer(413, {"detail": f"the body is larger than {limit} bytes"})
    assert ask(port, "GET", "/ready").status == 200


def test_the_client_reads_what_the_server_writes(port: int) -> None:
    """Catches client and server that understand the contract differently; the label belongs to the group."""
    text = "so</think>\n<answer>{}</answer>"
    answers = [(text.format("3*5+7"), "stop"), (text.format("22"), "stop"), ("so", "length")]
    responses = tuple(Response(answer, (1,), (0.0,), (True,), reason, 0, 0) for answer, reason in answers)  # type: ignore[arg-type]
    with RewardClient(f"http://127.0.0.1:{port}") as client:
        client.wait_until_ready()
        graded = client.submit(Group(Prompt("p", "Use 3, 5, 7.", (1,), LABEL, "countdown", "<think>"), responses))
        failed = client.submit(Group(Prompt("q", "Use 3, 5, 7.", (1,), "22", "countdown"), responses[:1]))
        assert graded.result(BOUND_SECONDS) == [
            Grade(1.1, 1.0, {"format": 1.0, "equation": 1.0, "thought": 0.0}, "correct"),
            Grade(0.1, 0.0, {"format": 1.0, "equation": 0.0, "thought": 0.0}, "wrong"),
            Grade(0.0, 0.0, {"format": 0.0, "equation": 0.0, "thought": 0.0}, "truncated"),
        ]
        (score,) = failed.result(BOUND_SECONDS)
    assert (score.valid, score.reward, score.score, score.verdict) == (False, None, None, "gold_unparseable")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_normally(stop: signal.Signals) -> None:
    """Catches an exit in the middle of a request, and an exit code that looks like a crash."""
    body = json.dumps({"task": "countdown", "items": [RIGHT]}).encode()
    with serving() as (process, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_SECONDS)
        connection.putrequest("POST", "/get_score")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:10])
        # The answer to a second request shows that the server has read the first part of the first one.
        assert ask(port, "GET", "/health").status == 200
        process.send_signal(stop)
        wait_until_refused(port)
        connection.send(body[10:])
        assert connection.getresponse().status == 200
        connection.close()
        assert process.wait(BOUND_SECONDS) == 0


def test_a_taken_port_is_one_clear_line(port: int) -> None:
    """Catches a second server that shares the port or ends in a traceback; the exit code says "service missing"."""
    second = subprocess.run(
        [*SERVE, "--port", str(port)], cwd=ROOT, capture_output=True, text=True, timeout=BOUND_SECONDS, check=False
    )
    assert (second.returncode, second.stdout) == (3, "")
    assert second.stderr.startswith(f"serve: port {port} of 127.0.0.1 is in use")
    assert "--port 0" in second.stderr
    assert second.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "serve: host '0.0.0.0' is reachable from other machines; set OPENR1_REWARD_TOKEN"),
        (["--host", "example.com"], "serve: host 'example.com' is not an IP address"),
        (["--task", "maths"], "serve: unknown task 'maths'; known tasks: code, countdown"),
        (["--data", "/nowhere.jsonl"], "serve: [Errno 2] No such file or directory: '/nowhere.jsonl'"),
        (["--config", "/nowhere.yaml"], "serve: /nowhere.yaml: No such file or directory"),
        (["--port", "65536"], "'65536' is not a port from 0 to 65535"),
        (["--port", "http"], "'http' is not a port from 0 to 65535"),
    ],
)
def test_bad_flags_are_refused(flags: list[str], message: str) -> None:
    """Catches a grader that anybody in the network may ask, and a traceback for a typo."""
    run = subprocess.run([*SERVE, *flags], cwd=ROOT, capture_output=True, text=True, timeout=BOUND_SECONDS, check=False)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_help_loads_no_web_framework() -> None:
    """Catches an import at the top of the command that makes --help slow."""
    code = (
        "import sys; from cli.serve import run\n"
        "try: run(['--help'])\n"
        "except SystemExit: print(sorted({'fastapi', 'uvicorn', 'torch', 'pydantic'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


# The application alone


_graders: list[Grader] = []


@pytest.fixture(autouse=True)
def close_graders() -> Iterator[None]:
    """End the workers that a test started."""
    yield
    while _graders:
        _graders.pop().close()


def make_app(config: ServerConfig, **parts: Any) -> FastAPI:
    """The application of a service with these settings; workers start when a test needs them, and end with it."""
    _graders.append(Grader(config))
    return create_app(Service(grader=_graders[-1], config=config, **parts))


async def call(
    app: FastAPI, method: str, path: str, chunks: list[bytes], token: str = "", pause: float = 0.0
) -> Answer:
    """Send one request to the application without a server, with `pause` seconds before each chunk of its body.

    Chunks that it reads leave the list.
    """
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": chunks.pop(0) if chunks else b"", "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"authorization", token.encode("latin-1"))],
    }
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return Answer(sent[0]["status"], json.loads(body))


def score(app: FastAPI, request: dict[str, Any]) -> Answer:
    """POST /get_score in one piece."""
    return asyncio.run(call(app, "POST", "/get_score", [json.dumps(request).encode()]))


def test_the_body_limit_is_exact() -> None:
    """Catches a limit that is off by one, and one that counts single chunks instead of their sum."""
    body = json.dumps({"task": "countdown", "items": [RIGHT]}).encode()
    for limit, status in ((len(body), 200), (len(body) - 1, 413)):
        app = make_app(ServerConfig(max_body_bytes=limit))
        assert asyncio.run(call(app, "POST", "/get_score", [body[:50], body[50:]])).status == status


def test_an_endless_body_is_not_read_to_its_end() -> None:
    """Catches a server that reads on for ever: of these 1000 bytes it takes twice the limit and the one beyond."""
    chunks = [b"x"] * 1000
    app = make_app(ServerConfig(max_body_bytes=100))
    assert asyncio.run(call(app, "POST", "/get_score", chunks)).status == 413
    assert len(chunks) == 1000 - 201


def test_a_body_that_trickles_is_refused() -> None:
    """Catches senders that keep a connection and its memory for as long as they like."""
    answer = asyncio.run(
        call(make_app(ServerConfig(body_seconds=0.2)), "POST", "/get_score", [b"x"] * 10**4, pause=0.01)
    )
    assert answer == Answer(408, {"detail": "the body took more than 0.2 s to arrive"})


def test_bodies_in_flight_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches many requests, each within its limit, that fill the memory; and a count that never goes down again."""
    started, release = threading.Event(), threading.Event()

    def block(context: GradingContext[str]) -> float:
        started.set()
        return float(release.wait(BOUND_SECONDS))

    install(monkeypatch, "blocking", block)
    body = json.dumps({"task": "blocking", "items": [RIGHT]}).encode()
    app = make_app(ServerConfig(max_total_body_bytes=2 * len(body) - 1))

    async def scenario() -> list[int]:
        grading = asyncio.create_task(call(app, "POST", "/get_score", [body]))
        assert await asyncio.to_thread(started.wait, BOUND_SECONDS)
        refused = await call(app, "POST", "/get_score", [body])
        release.set()
        first = await grading
        again = await call(app, "POST", "/get_score", [body])
        return [refused.status, first.status, again.status]

    assert asyncio.run(scenario()) == [429, 200, 200]


def test_who_still_waits_at_the_end_is_told_so() -> None:
    """Catches a 500, which blames the request, for those that the end of the server cuts off."""

    async def scenario() -> Answer:
        entered = asyncio.Event()

        async def endless(scope: Any, receive: Any, send: Any) -> None:
            entered.set()
            await asyncio.Event().wait()

        gate = AuthAndConcurrencyMiddleware(endless, None, 1, Metrics())
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        request = asyncio.create_task(gate({"type": "http", "method": "POST", "path": "/"}, send, send))
        await entered.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        return Answer(sent[0]["status"], json.loads(sent[1]["body"]))

    assert asyncio.run(scenario()) == Answer(503, {"detail": "the server is shutting down"})


def test_a_fault_deep_inside_is_told_in_one_short_line() -> None:
    """Catches an answer that repeats how deeply somebody nested a value."""
    meta: Any = 0
    for _ in range(400):
        meta = {"a": meta}
    answer = score(make_app(ServerConfig()), {"task": "countdown", "items": [{**RIGHT, "meta": meta}]})
    assert answer.status == 422
    assert len(answer.content["detail"]) < 500, answer.content["detail"]


def test_too_many_items_are_refused() -> None:
    """Catches a batch that holds a thread for as long as its sender likes."""
    app = make_app(ServerConfig(max_items=1))
    assert score(app, {"task": "countdown", "items": [RIGHT]}).status == 200
    answer = score(app, {"task": "countdown", "items": [RIGHT, WRONG]})
    assert answer == Answer(413, {"detail": "items: 2 items, the limit is 1"})


def test_a_too_long_response_fails_alone() -> None:
    """Catches a policy that can end the whole batch by writing much; the limit counts the prefix too."""
    length = len(RIGHT["response"])
    longer = {**RIGHT, "id": "longer", "prefix": "x"}
    answer = score(make_app(ServerConfig(max_response_chars=length)), {"task": "countdown", "items": [longer, RIGHT]})
    first, second = answer.content["results"]
    assert (first["verdict"], first["reward"], first["error"]) == (
        "error",
        None,
        f"too_long: {length + 1} characters, the limit is {length}",
    )
    assert second["verdict"] == "correct"


def install(monkeypatch: pytest.MonkeyPatch, name: str, measure: Callable[[GradingContext[str]], float]) -> None:
    """Add a task of one component to the table, or replace one."""
    example = Example("", "")
    task = Task(name, "1", "a test", str, lambda text: text, {"only": RewardComponent(1.0, measure)}, "only", example)
    monkeypatch.setitem(BUILT_IN, name, task)


def test_items_after_the_deadline_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a deadline that is ignored or that turns into rewards of 0. The first item outlasts it on purpose."""

    def outlast_the_deadline(context: GradingContext[str]) -> float:
        time.sleep(0.4)
        return 1.0

    install(monkeypatch, "slow", outlast_the_deadline)
    answer = score(make_app(ServerConfig()), {"task": "slow", "items": [RIGHT, WRONG], "deadline_ms": 300})
    first, second = answer.content["results"]
    assert (first["verdict"], first["reward"]) == ("correct", 1.0)
    assert (second["verdict"], second["reward"], second["score"]) == ("timeout", None, None)
    assert second["error"].startswith("timeout: the deadline of the request passed")


def test_health_answers_while_a_batch_is_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches grading on the event loop: /health would wait for a grading that waits for /health."""
    started, release = threading.Event(), threading.Event()

    def block(context: GradingContext[str]) -> float:
        started.set()
        return float(release.wait(BOUND_SECONDS))

    install(monkeypatch, "blocking", block)
    app = make_app(ServerConfig())
    body = json.dumps({"task": "blocking", "items": [RIGHT]}).encode()

    async def scenario() -> tuple[Answer, Answer]:
        grading = asyncio.create_task(call(app, "POST", "/get_score", [body]))
        assert await asyncio.to_thread(started.wait, BOUND_SECONDS)
        health = await call(app, "GET", "/health", [])
        assert not grading.done()
        release.set()
        return health, await grading

    health, graded = asyncio.run(scenario())
    assert health == Answer(200, {"status": "ok"})
    assert graded.content["results"][0]["reward"] == 1.0


@pytest.mark.parametrize(("value", "fault"), [(False, "False instead of True"), (True, "True instead of False")])
def test_ready_refuses_broken_workers(monkeypatch: pytest.MonkeyPatch, value: bool, fault: str) -> None:
    """Catches a self-test that is satisfied by workers that always say the same."""

    def answer_the_same(workers: WorkerPool, comparison: Comparison) -> "Future[bool]":
        future: Future[bool] = Future()
        future.set_result(value)
        return future

    monkeypatch.setattr(WorkerPool, "submit", answer_the_same)
    answer = asyncio.run(call(make_app(ServerConfig()), "GET", "/ready", []))
    assert answer.status == 503
    assert answer.content["reason"] == f"self-test: a comparison gave {fault}"


def test_ready_refuses_while_draining() -> None:
    """Catches a server that invites new work while it is about to exit."""
    draining = threading.Event()
    app = make_app(ServerConfig(), draining=draining)
    assert asyncio.run(call(app, "GET", "/ready", [])).status == 200
    draining.set()
    answer = asyncio.run(call(app, "GET", "/ready", []))
    assert answer == Answer(503, {"ready": False, "reason": "the server is shutting down"})


@pytest.mark.parametrize(
    ("sent", "status"),
    [("", 401), ("Bearer ", 401), ("Bearer hunter", 401), ("Bearer hunter22", 401), ("bearer hunter2", 401),
     ("Basic hunter2", 401), ("Bearer h\xfcnter2", 401), ("Bearer hunter2", 200)],
)  # fmt: skip
def test_a_token_is_asked_for(sent: str, status: int) -> None:
    """Catches a route that answers without the token, a prefix that is enough, and a load balancer locked out."""
    app = make_app(ServerConfig(), token="hunter2")
    for method, path in (("GET", "/tasks"), ("GET", "/version"), ("GET", "/openapi.json")):
        assert asyncio.run(call(app, method, path, [], sent)).status == status
    body = json.dumps({"task": "countdown", "items": [RIGHT]}).encode()
    assert asyncio.run(call(app, "POST", "/get_score", [body], sent)).status == status
    assert asyncio.run(call(app, "GET", "/health", [], "")).status == 200


def test_too_many_requests_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a server that queues without end, and one that stays full after a burst."""
    started, release = threading.Event(), threading.Event()

    def block(context: GradingContext[str]) -> float:
        started.set()
        return float(release.wait(BOUND_SECONDS))

    install(monkeypatch, "blocking", block)
    app = make_app(ServerConfig(max_requests=1))
    slow = json.dumps({"task": "blocking", "items": [RIGHT]}).encode()
    quick = json.dumps({"task": "countdown", "items": [RIGHT]}).encode()

    async def scenario() -> list[int]:
        grading = asyncio.create_task(call(app, "POST", "/get_score", [slow]))
        assert await asyncio.to_thread(started.wait, BOUND_SECONDS)
        refused = await call(app, "POST", "/get_score", [quick])
        health = await call(app, "GET", "/health", [])
        release.set()
        first = await grading
        again = await call(app, "POST", "/get_score", [quick])
        return [refused.status, health.status, first.status, again.status]

    assert asyncio.run(scenario()) == [429, 200, 200, 200]


def test_metrics_count_what_happened(port: int) -> None:
    """Catches verdicts and statuses that are not counted, and paths that callers could use to invent metrics."""
    before = metric_values(port)
    ask(port, "POST", "/get_score", {"task": "countdown", "items": [RIGHT, WRONG, ABORT_FACTOR]})
    ask(port, "POST", "/get_score", {"task": "nonsense", "items": []})
    ask(port, "GET", "/invented/path")
    after = metric_values(port)

    def added(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    for verdict in ("correct", "wrong", "gold_unparseable"):
        assert added(f'openr1_reward_items_total{{task="countdown",verdict="{verdict}"}}') == 1
    assert added('openr1_reward_items_failed_total{task="countdown"}') == 1
    assert added('openr1_reward_requests_total{route="/get_score",status="200"}') == 1
    assert added('openr1_reward_requests_total{route="/get_score",status="422"}') == 1
    assert added('openr1_reward_requests_total{route="other",status="404"}') == 1
    assert not any("invented" in name for name in after)


def metric_values(port: int) -> dict[str, float]:
    """All samples of `/metrics`, by name and labels."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_SECONDS)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_tasks_and_versions_are_told(port: int) -> None:
    """Catches a task that users cannot find, and an example that the server itself does not grade as correct."""
    tasks = ask(port, "GET", "/tasks").content
    assert tasks.keys() == BUILT_IN.keys()
    for name, task in tasks.items():
        item = {"id": "0", "response": task["example"]["response"], "label": task["example"]["label"]}
        result = ask(port, "POST", "/get_score", {"task": name, "items": [item]}).content["results"][0]
        assert (name, result["verdict"]) == (name, "correct")
        assert task["weights"].keys() == result["components"].keys()
    version = ask(port, "GET", "/version").content
    assert version["tasks"] == {name: task["version"] for name, task in tasks.items()}
    assert "math-verify" in version["parser"]


def test_slime_gets_a_bare_number(port: int) -> None:
    """Catches an answer that slime's client would take for a reward although it is an object or null."""
    sample = {"prompt": "2+2?", "response": r"\boxed{4}", "label": "4"}
    assert ask(port, "POST", "/score", sample).content == 1.0
    assert ask(port, "POST", "/score", {**sample, "label": "5"}).content == 0.0
    assert ask(port, "POST", "/score", {**sample, "label": 4, "metadata": {}}).content == 1.0
    assert ask(port, "POST", "/score", {**sample, "label": ""}).content == 0.0
    assert ask(port, "POST", "/score", {**sample, "task": "none"}).status == 422


def test_a_killed_server_leaves_no_workers() -> None:
    """Catches workers that go on computing, and holding the port, after the server was killed."""
    with serving() as (process, port):
        assert ask(port, "GET", "/ready").status == 200
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) > 1
        os.kill(process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=BOUND_SECONDS)
        assert alive == []


def test_the_server_keeps_no_token_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a token that every process started by the server inherits."""
    monkeypatch.setenv("OPENR1_REWARD_TOKEN", "hunter2-in-the-open")
    with serving() as (process, port):
        assert ask(port, "GET", "/tasks").status == 401
        headers = {"Authorization": "Bearer hunter2-in-the-open"}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_SECONDS)
        connection.request("GET", "/ready", headers=headers)
        assert connection.getresponse().status == 200
        connection.close()
        for child in psutil.Process(process.pid).children(recursive=True):
            assert "hunter2" not in Path(f"/proc/{child.pid}/environ").read_text()


def test_the_reply_says_why_an_answer_was_not_read(port: int) -> None:
    """Catches a reason that the grader knows and the reply leaves out."""
    item = {"id": "a", "response": r"\boxed{3\text{ or more}}", "label": "3"}
    (result,) = ask(port, "POST", "/get_score", {"task": "math", "items": [item]}).content["results"]
    assert (result["verdict"], result["reward"], result["error"]) == ("wrong", 0.0, None)
    assert result["reason"] == "the answer cannot be read: 'or more' behind an expression"
