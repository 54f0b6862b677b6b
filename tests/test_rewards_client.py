"""The client of the reward server against a scripted server: what is retried, what is refused, what is a failure."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from openr1 import rewards
from openr1.errors import ConfigError, OpenR1Error, RewardProtocolError, RewardServerUnavailable
from openr1.records import Group, Prompt, Response, Score
from openr1.rewards import RewardClient

BOUND_SECONDS = 60
"""No wait below takes this long unless something is broken."""


@dataclass(frozen=True)
class Reply:
    """One scripted answer. A body that is not bytes is sent as JSON."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


Answerer = Callable[[Any], Reply]


class ScriptedServer(ThreadingHTTPServer):
    """Answers request after request by its script, whose last entry holds for all further ones."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.script: list[Reply | Answerer] = []
        self.requests: list[tuple[str, Any]] = []
        self.lock = threading.Lock()
        self.release = threading.Event()

    def answer(self, path: str, content: Any) -> Reply:
        """The next answer, after noting the request."""
        with self.lock:
            entry = self.script[min(len(self.requests), len(self.script) - 1)]
            self.requests.append((path, content))
        return entry if isinstance(entry, Reply) else entry(content)


class Handler(BaseHTTPRequestHandler):
    """Carries requests to the script."""

    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def do_POST(self) -> None:
        """Answer a request with a body."""
        self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_GET(self) -> None:
        """Answer a request without one."""
        self._reply(None)

    def _reply(self, content: Any) -> None:
        reply = self.server.answer(self.path, content)
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server without a script yet."""
    with ScriptedServer() as scripted:
        thread = threading.Thread(target=scripted.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield scripted
        scripted.release.set()
        scripted.shutdown()
        thread.join()


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[RewardClient]:
    """A client of that server with a deadline that no passing test reaches."""
    with RewardClient(server.url, deadline_seconds=BOUND_SECONDS, ready_timeout_seconds=BOUND_SECONDS) as opened:
        yield opened


def make_group(size: int = 2, prompt_id: str = "p") -> Group:
    """A group whose responses are r0, r1, ..."""
    prompt = Prompt(prompt_id, "What?", (1, 2), "gold", "countdown", "<think>", {"level": 3})
    return Group(prompt, tuple(Response(f"r{index}", (7,), (-0.5,), "stop", 4) for index in range(size)))


def make_result(item_id: str, **changes: Any) -> dict[str, Any]:
    """A right answer's result, changed as told."""
    right = {"reward": 1.1, "score": 1.0, "components": {"equation": 1.0}, "extracted": "22", "verdict": "correct"}
    return {"id": item_id, **right, "error": None, "ms": 0.1, **changes}


def make_reply(*results: dict[str, Any]) -> Reply:
    """A complete answer with these results."""
    grader = {"name": "countdown", "version": "1"}
    return Reply(200, {"results": list(results), "grader": grader, "request_id": "r"})


def reply_in_order(content: Any) -> Reply:
    """A right answer for whatever is asked."""
    return make_reply(*(make_result(item["id"]) for item in content["items"]))


RIGHT = Score(1.1, 1.0, {"equation": 1.0}, "correct")
FAILURE: dict[str, Any] = {"reward": None, "score": None, "components": {}, "extracted": None}


def test_one_request_carries_the_whole_group(server: ScriptedServer, client: RewardClient) -> None:
    """Catches one request a response, and a field of the prompt or the response that gets lost."""
    server.script = [reply_in_order]
    assert client.submit(make_group()).result(BOUND_SECONDS) == [RIGHT, RIGHT]
    shared = {"label": "gold", "prompt": "What?", "prefix": "<think>", "meta": {"level": 3}, "finish_reason": "stop"}
    items = [{"id": "p/0", "response": "r0", **shared}, {"id": "p/1", "response": "r1", **shared}]
    assert server.requests == [("/get_score", {"task": "countdown", "items": items, "deadline_ms": None})]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_trouble_is_retried(server: ScriptedServer, client: RewardClient, status: int) -> None:
    """Catches a run that ends because the server was busy or restarted for a moment."""
    server.script = [Reply(status, {"detail": "busy"}, {"Retry-After": "0"}), Reply(status, b""), reply_in_order]
    assert client.submit(make_group()).result(BOUND_SECONDS) == [RIGHT, RIGHT]
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[2]


def test_a_connection_that_breaks_is_retried(server: ScriptedServer, client: RewardClient) -> None:
    """Catches a transport error in the middle of an answer that ends the run: here the body is cut short."""
    server.script = [Reply(200, b"{", {"Content-Length": "100", "Connection": "close"}), reply_in_order]
    assert client.submit(make_group()).result(BOUND_SECONDS) == [RIGHT, RIGHT]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 302, 204])
def test_a_refusal_is_final(server: ScriptedServer, client: RewardClient, status: int) -> None:
    """Catches retries of what can never succeed, a redirect that is followed, and an error without its reason."""
    body = b"" if status == 204 else {"detail": "items.0: no"}
    server.script = [Reply(status, body, {"Location": "/elsewhere"}), reply_in_order]
    with pytest.raises(RewardProtocolError, match=f"{server.url}/get_score answered {status}: .*") as raised:
        client.submit(make_group()).result(BOUND_SECONDS)
    assert status == 204 or "items.0: no" in str(raised.value)
    assert len(server.requests) == 1


def test_retry_after_is_honoured(server: ScriptedServer) -> None:
    """Catches a client that hurries a busy server: its own pause of 0.1 s would find the right answer here."""
    server.script = [Reply(429, {"detail": "later"}, {"Retry-After": "3600"}), reply_in_order]
    with RewardClient(server.url, deadline_seconds=1.0) as client:
        future = client.submit(make_group())
        with pytest.raises(RewardServerUnavailable, match=r"within 1 s \(attempts: 1, last failure: .* 429"):
            future.result(BOUND_SECONDS)
    assert len(server.requests) == 1


def change_first(**changes: Any) -> Answerer:
    """A script entry that spoils the first of otherwise right results."""

    def answer(content: Any) -> Reply:
        first, *others = content["items"]
        return make_reply(make_result(first["id"], **changes), *(make_result(item["id"]) for item in others))

    return answer


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (make_reply(make_result("p/1"), make_result("p/0")), "result 0 has the id 'p/1' instead of 'p/0'"),
        (make_reply(make_result("p/0"), make_result("p/0")), "result 1 has the id 'p/0' instead of 'p/1'"),
        (make_reply(make_result("p/0"), make_result("q/1")), "result 1 has the id 'q/1' instead of 'p/1'"),
        (make_reply(make_result("p/0")), "1 results for 2 items"),
        (make_reply(*(make_result(f"p/{index}") for index in range(3))), "3 results for 2 items"),
        (make_reply(), "0 results for 2 items"),
        (change_first(reward=float("nan")), "results.0.reward: Input should be a finite number"),
        (change_first(reward=float("inf")), "results.0.reward: Input should be a finite number"),
        (
            change_first(components={"equation": float("nan")}),
            "results.0.components.equation: Input should be a finite",
        ),
        (change_first(reward="1.0"), "results.0.reward: Input should be a valid number"),
        (change_first(reward=True), "results.0.reward: Input should be a valid number"),
        (change_first(score=1.5), "results.0.score: Input should be less than or equal to 1"),
        (change_first(score=None), "results.0: verdict 'correct' needs a reward, a score and no error"),
        (change_first(reward=None, score=None), "results.0: verdict 'correct' needs a reward, a score and no error"),
        (change_first(verdict="timeout", reward=0.0), "results.0: verdict 'timeout' needs null reward, null score"),
        (change_first(verdict="fine"), "results.0.verdict: Input should be 'correct'"),
        (Reply(200, {"rewards": [1.0, 1.0]}), "results: Field required"),
        (Reply(200, b"<html>hello</html>"), "Invalid JSON: expected value at line 1 column 1; it begins '<html>hello"),
        (Reply(200, b'{"results": ['), "Invalid JSON: EOF"),
        (Reply(200, b""), "Invalid JSON: EOF"),
        (Reply(200, gzip.compress(b" " * 10_000_000), {"Content-Encoding": "gzip"}), "Invalid JSON"),
        (Reply(200, b" " * 70_000), "more than 65536 bytes"),
    ],
)
def test_an_unusable_answer_is_refused(
    server: ScriptedServer,
    client: RewardClient,
    monkeypatch: pytest.MonkeyPatch,
    answer: Reply | Answerer,
    problem: str,
) -> None:
    """Catches answers that would give a response the reward of another, a NaN, or one reward for all."""
    monkeypatch.setattr(rewards, "_MAX_ANSWER_BYTES", 65536)
    server.script = [answer]
    with pytest.raises(RewardProtocolError) as raised:
        client.submit(make_group()).result(BOUND_SECONDS)
    message = str(raised.value)
    assert message.startswith(f"reward server {server.url} ")
    assert problem in message
    assert "\n" not in message
    assert len(server.requests) == 1


@pytest.mark.parametrize("verdict", ["gold_unparseable", "timeout", "error"])
def test_a_failed_item_is_invalid_and_not_zero(server: ScriptedServer, client: RewardClient, verdict: str) -> None:
    """Catches a failure of the grader that trains the policy like a wrong answer, or takes the others with it."""
    server.script = [change_first(**FAILURE, verdict=verdict, error="code: why")]
    failed, graded = client.submit(make_group()).result(BOUND_SECONDS)
    assert failed == Score(None, None, {}, verdict, "code: why")
    assert not failed.valid
    assert graded == RIGHT


def test_keys_of_a_later_version_are_ignored(server: ScriptedServer, client: RewardClient) -> None:
    """Catches a client that breaks when the server learns to say more."""
    server.script = [make_reply(make_result("p/0", cached=True))]
    assert client.submit(make_group(1)).result(BOUND_SECONDS) == [RIGHT]


def test_a_silent_server_meets_the_deadline(server: ScriptedServer) -> None:
    """Catches a wait without end; the message names who is waited for, how long, and what to do."""

    def keep_silent(content: Any) -> Reply:
        server.release.wait(BOUND_SECONDS)
        return reply_in_order(content)

    server.script = [keep_silent]
    with RewardClient(server.url, deadline_seconds=0.2) as client:
        future = client.submit(make_group())
        with pytest.raises(RewardServerUnavailable) as raised:
            future.result(BOUND_SECONDS)
    assert str(raised.value) == (
        f"reward server {server.url} did not answer within 0.2 s "
        "(attempts: 1, last failure: none, it just keeps silent); "
        f"start it with `python -m cli serve --port {server.server_port}`"
    )


def test_an_absent_server_meets_the_deadline() -> None:
    """Catches a refused connection that is taken for final at once, or retried for ever."""
    with socket.socket() as reserved:  # bound but not listening, so nobody can answer there
        reserved.bind(("127.0.0.1", 0))
        client = RewardClient(f"http://127.0.0.1:{reserved.getsockname()[1]}", deadline_seconds=1.0)
        future = client.submit(make_group())
        with client, pytest.raises(RewardServerUnavailable, match="ClientConnectorError") as raised:
            future.result(BOUND_SECONDS)
    assert "attempts: 1," not in str(raised.value)


def test_groups_are_answered_at_the_same_time(server: ScriptedServer, client: RewardClient) -> None:
    """Catches requests one after another: the answer to each of the two waits for both requests."""
    both_arrived = threading.Barrier(2, timeout=BOUND_SECONDS)

    def meet(content: Any) -> Reply:
        both_arrived.wait()
        return reply_in_order(content)

    server.script = [meet]
    futures = [client.submit(make_group(prompt_id=prompt_id)) for prompt_id in ("p", "q")]
    assert [future.result(BOUND_SECONDS) for future in futures] == [[RIGHT, RIGHT]] * 2


def test_concurrency_is_bounded(server: ScriptedServer) -> None:
    """Catches a storm of requests: of ten groups at most two may be in flight, and all get their answer."""
    in_flight: list[int] = []
    peaks: list[int] = []

    def count(content: Any) -> Reply:
        with server.lock:
            in_flight.append(1)
            peaks.append(len(in_flight))
        time.sleep(0.01)
        with server.lock:
            in_flight.pop()
        return reply_in_order(content)

    server.script = [count]
    with RewardClient(server.url, max_concurrency=2) as client:
        futures = [client.submit(make_group(prompt_id=str(index))) for index in range(10)]
        assert all(future.result(BOUND_SECONDS) == [RIGHT, RIGHT] for future in futures)
    assert max(peaks) <= 2


def test_ready_is_polled(server: ScriptedServer, client: RewardClient) -> None:
    """Catches a trainer that gives up on a server which is still starting."""
    server.script = [Reply(503, {"ready": False}), Reply(404, b""), Reply(200, {"ready": True})]
    client.wait_until_ready()
    assert [path for path, _ in server.requests] == ["/ready"] * 3


def test_ready_that_never_comes_says_why(server: ScriptedServer) -> None:
    """Catches a start that hangs, or that says nothing but "timeout"."""
    server.script = [Reply(503, {"ready": False, "reason": "self-test"})]
    with (
        RewardClient(server.url + "/", ready_timeout_seconds=0.5) as client,
        pytest.raises(RewardServerUnavailable) as raised,
    ):
        client.wait_until_ready()
    message = str(raised.value)
    assert message.startswith(f"reward server {server.url} was not ready within 0.5 s")
    assert "503" in message
    assert "self-test" in message
    assert message.endswith(f"`python -m cli serve --port {server.server_port}`")
    assert raised.value.exit_code == 3


def test_close_cancels_what_is_pending(server: ScriptedServer) -> None:
    """Catches a future that nobody will ever resolve, a thread that stays, and a second close that fails."""
    threads = threading.active_count()
    arrived = threading.Event()

    def keep_silent(content: Any) -> Reply:
        arrived.set()
        server.release.wait(BOUND_SECONDS)
        return reply_in_order(content)

    server.script = [keep_silent]
    client = RewardClient(server.url)
    pending = client.submit(make_group())
    assert arrived.wait(BOUND_SECONDS)
    client.close()
    client.close()
    with pytest.raises(CancelledError):
        pending.result(BOUND_SECONDS)
    assert not [thread for thread in threading.enumerate() if thread.name == "reward-client"]
    assert threading.active_count() <= threads + 1  # the server's thread that is still silent


@pytest.mark.parametrize("url", ["", "127.0.0.1:5000", "ftp://127.0.0.1", "http://", "http://h:99999", "http://h:x"])
def test_a_bad_url_is_a_config_error(url: str) -> None:
    """Catches a typo in the URL that shows itself only after a minute of retries."""
    with pytest.raises(ConfigError, match="reward server URL") as raised:
        RewardClient(url)
    assert isinstance(raised.value, OpenR1Error)


def test_a_row_that_json_cannot_carry_is_a_config_error(client: RewardClient) -> None:
    """Catches an error deep in a serializer that does not say which row of the dataset is at fault."""
    prompt = Prompt("row 7", "What?", (1,), "gold", "countdown", meta={"picture": object()})
    group = Group(prompt, make_group(1).responses)
    with pytest.raises(ConfigError, match=r"prompt 'row 7' cannot be sent to the reward server: meta\.picture: "):
        client.submit(group)
