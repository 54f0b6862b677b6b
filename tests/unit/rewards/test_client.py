"""The client of reward servers: what is retried, what is refused, what is a failure, and who covers for whom.

Most servers here are scripted; the last section kills real ones.
"""

import gzip
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError, OpenR1Error, RewardProtocolError, RewardServerUnavailable
from openr1.rewards import client as reward_client
from openr1.rewards import http
from openr1.rewards.client import RewardClient
from openr1.rewards.http import TOKEN_VARIABLE
from openr1.types import Grade, Group, Prompt, Response
from tests.running import ROOT

BOUND_SECONDS = 60
"""No wait below takes this long unless something is broken."""
TOKEN = "s3cret-t0ken"


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
        self.authorizations: list[str | None] = []
        self.lock = threading.Lock()
        self.release = threading.Event()

    def answer(self, path: str, content: Any, authorization: str | None) -> Reply:
        """The next answer, after noting the request."""
        with self.lock:
            entry = self.script[min(len(self.requests), len(self.script) - 1)]
            self.requests.append((path, content))
            self.authorizations.append(authorization)
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
        reply = self.server.answer(self.path, content, self.headers["Authorization"])
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token of whoever runs the tests is none of their business."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@contextmanager
def running_server() -> Iterator[ScriptedServer]:
    """A server for the block, without a script yet."""
    with ScriptedServer() as scripted:
        thread = threading.Thread(target=scripted.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield scripted
        finally:
            scripted.release.set()
            scripted.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server without a script yet."""
    with running_server() as scripted:
        yield scripted


@pytest.fixture
def other_server() -> Iterator[ScriptedServer]:
    """A second one."""
    with running_server() as scripted:
        yield scripted


@pytest.fixture
def absent_url() -> Iterator[str]:
    """An address that is bound but not listened on, so that nobody can answer there."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[RewardClient]:
    """A client of that server with a deadline that no passing test reaches."""
    with RewardClient(server.url, deadline_seconds=BOUND_SECONDS, ready_timeout_seconds=BOUND_SECONDS) as opened:
        yield opened


def make_group(size: int = 2, prompt_id: str = "p") -> Group:
    """A group whose responses are r0, r1, ..."""
    prompt = Prompt(prompt_id, "What?", (1, 2), "gold", "countdown", "<think>", {"level": 3})
    return Group(prompt, tuple(Response(f"r{index}", (7,), (-0.5,), (True,), "stop", 4, 4) for index in range(size)))


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


RIGHT = Grade(1.1, 1.0, {"equation": 1.0}, "correct")
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


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422, 302, 204])
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
    monkeypatch.setattr(http, "_MAX_ANSWER_BYTES", 65536)
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
    assert failed == Grade(None, None, {}, verdict, "code: why")
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
        "(attempts: 1, last failure: no response); "
        f"start it with `python -m cli serve --port {server.server_port}`"
    )


def test_an_absent_server_meets_the_deadline(absent_url: str) -> None:
    """Catches a refused connection that is taken for final at once, or retried for ever."""
    with RewardClient(absent_url, deadline_seconds=1.0) as client:
        future = client.submit(make_group())
        with pytest.raises(RewardServerUnavailable, match="ClientConnectorError") as raised:
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
    for urls in (url, ["http://127.0.0.1:5000", url]):
        with pytest.raises(ConfigError, match="reward server URL") as raised:
            RewardClient(urls)
        assert isinstance(raised.value, OpenR1Error)


def test_a_list_without_addresses_is_a_config_error() -> None:
    """Catches a division by zero at the first group."""
    with pytest.raises(ConfigError, match="the list is empty"):
        RewardClient([])


@pytest.mark.parametrize("url", [f"http://me:{TOKEN}@127.0.0.1:5000", f"ftp://{TOKEN}@h", f"http://me:{TOKEN}@h:x"])
def test_a_password_in_the_url_is_refused(url: str) -> None:
    """Catches a secret that gets from the address into messages and into the run folder's config."""
    with pytest.raises(ConfigError, match="no user or password") as raised:
        RewardClient(url)
    assert TOKEN not in str(raised.value)


def test_a_row_that_json_cannot_carry_is_a_config_error(client: RewardClient) -> None:
    """Catches an error deep in a serializer that does not say which row of the dataset is at fault."""
    prompt = Prompt("row 7", "What?", (1,), "gold", "countdown", meta={"picture": object()})
    group = Group(prompt, make_group(1).responses)
    with pytest.raises(ConfigError, match=r"prompt 'row 7' cannot be sent to the reward server: meta\.picture: "):
        client.submit(group)


# Several servers


@pytest.mark.parametrize(
    ("value", "urls"),
    [
        ("http://a:1", ["http://a:1"]),
        ("[http://a:1,http://b:2]", ["http://a:1", "http://b:2"]),
        ("[http://a:1]", ["http://a:1"]),
        ("null", None),
    ],
)
def test_the_config_takes_one_address_or_a_list(tmp_path: Path, value: str, urls: list[str] | None) -> None:
    """Catches a list that cannot be written, in the file or on the command line, or one address that no longer can."""
    path = tmp_path / "config.yaml"
    text = "run: {name: a}\nmodel: {path: m}\ndata: {train: t.jsonl}\nnum_steps: 5\n"
    path.write_text(text)
    for overrides in (["--reward.url", value], [f"--reward.url={value}"]):
        assert load_config(TrainConfig, path, overrides).reward.url == urls
    path.write_text(f"{text}reward: {{url: {value}}}\n")
    assert load_config(TrainConfig, path, []).reward.url == urls


def test_servers_share_the_groups(server: ScriptedServer, other_server: ScriptedServer) -> None:
    """Catches a second server that is there for emergencies only, and an address listed twice that counts twice."""
    server.script = other_server.script = [reply_in_order]
    with RewardClient([server.url, other_server.url, server.url + "/"]) as client:
        futures = [client.submit(make_group(prompt_id=str(index))) for index in range(10)]
        assert all(future.result(BOUND_SECONDS) == [RIGHT, RIGHT] for future in futures)
    assert (len(server.requests), len(other_server.requests)) == (5, 5)


@pytest.fixture
def endless_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two rounds the client waits beyond any deadline."""
    monkeypatch.setattr(reward_client, "_FIRST_PAUSE_SECONDS", 1e6)
    monkeypatch.setattr(reward_client, "_LONGEST_PAUSE_SECONDS", 1e6)


@pytest.mark.usefixtures("endless_pauses")
def test_an_absent_server_is_covered_for(
    server: ScriptedServer, absent_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches a group that waits, be it for a pause, while another server is free; and a loss that nobody hears of."""
    server.script = [reply_in_order]
    started = time.monotonic()
    with RewardClient([absent_url, server.url], deadline_seconds=10 * BOUND_SECONDS) as client:
        for _ in range(4):
            assert client.submit(make_group()).result(BOUND_SECONDS) == [RIGHT, RIGHT]
    assert time.monotonic() - started < BOUND_SECONDS
    assert len(server.requests) == 4
    assert [record.getMessage().startswith(f"reward server {absent_url} failed") for record in caplog.records] == [True]


@pytest.mark.usefixtures("endless_pauses")
@pytest.mark.parametrize(
    "failure",
    [
        *(Reply(status, b"", {"Retry-After": "1000"}) for status in (408, 429, 500, 503)),
        Reply(200, b"{", {"Content-Length": "100", "Connection": "close"}),
    ],
    ids=["408", "429", "500", "503", "cut"],
)
def test_a_failing_server_is_covered_for(
    server: ScriptedServer, other_server: ScriptedServer, failure: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches a server in trouble, or its Retry-After, that holds up groups which another could grade."""
    server.script, other_server.script = [failure], [reply_in_order]
    with RewardClient([server.url, other_server.url], deadline_seconds=10 * BOUND_SECONDS) as client:
        assert client.submit(make_group()).result(BOUND_SECONDS) == [RIGHT, RIGHT]
    assert server.requests == other_server.requests
    assert server.url in caplog.text


@pytest.mark.usefixtures("endless_pauses")
def test_a_silent_server_is_covered_for(
    server: ScriptedServer, other_server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches a server that hangs and takes the whole deadline of a group, so that no time is left for the other."""

    def keep_silent(content: Any) -> Reply:
        server.release.wait(BOUND_SECONDS)
        return reply_in_order(content)

    server.script, other_server.script = [keep_silent], [reply_in_order]
    with RewardClient([server.url, other_server.url], deadline_seconds=6.0) as client:
        assert client.submit(make_group()).result(BOUND_SECONDS) == [RIGHT, RIGHT]
    assert f"reward server {server.url} failed" in caplog.text
    assert "no answer within 3 s" in caplog.text


def test_servers_that_are_all_down_meet_the_deadline(server: ScriptedServer, absent_url: str) -> None:
    """Catches a deadline for each server instead of one for the group, and a message that hides one of the two."""
    server.script = [Reply(503, {"detail": "drained"})]
    with RewardClient([server.url, absent_url], deadline_seconds=1.0) as client:
        future = client.submit(make_group())
        with pytest.raises(RewardServerUnavailable) as raised:
            future.result(BOUND_SECONDS)
    first, second = str(raised.value).split("; reward server ")
    assert first.startswith(f"reward server {server.url} did not answer within 1 s (attempts: ")
    assert "drained" in first
    assert first.endswith(f"start it with `python -m cli serve --port {server.server_port}`")
    assert second.startswith(f"{absent_url} did not answer within 1 s (attempts: ")
    assert "ClientConnectorError" in second
    assert second.endswith(f"start it with `python -m cli serve --port {absent_url.rpartition(':')[2]}`")
    assert len(server.requests) > 1


def test_all_servers_must_be_ready(server: ScriptedServer, other_server: ScriptedServer, absent_url: str) -> None:
    """Catches a mistyped address that stays hidden behind a server that works."""
    server.script, other_server.script = [Reply(200, {"ready": True})], [Reply(503, b""), Reply(200, {"ready": True})]
    urls = [server.url, other_server.url]
    with RewardClient(urls, ready_timeout_seconds=BOUND_SECONDS) as client:
        client.wait_until_ready()
    assert (len(server.requests), len(other_server.requests)) == (1, 2)
    with (
        RewardClient([*urls, absent_url], ready_timeout_seconds=1.0) as client,
        pytest.raises(RewardServerUnavailable) as raised,
    ):
        client.wait_until_ready()
    message = str(raised.value)
    assert message.startswith(f"reward server {absent_url} was not ready within 1 s")
    assert server.url not in message
    assert other_server.url not in message


# The bearer token


@pytest.mark.parametrize(("token", "sent"), [(TOKEN, f"Bearer {TOKEN}"), ("", None), (None, None)])
def test_the_token_is_sent(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, token: str | None, sent: str | None
) -> None:
    """Catches a route that is asked without the token, and an empty variable that is taken for a token."""
    if token is not None:
        monkeypatch.setenv(TOKEN_VARIABLE, token)
    server.script = [Reply(200, {"ready": True}), reply_in_order]
    with RewardClient(server.url) as client:
        client.wait_until_ready()
        client.submit(make_group()).result(BOUND_SECONDS)
    assert [path for path, _ in server.requests] == ["/ready", "/get_score"]
    assert server.authorizations == [sent, sent]


@pytest.mark.parametrize("token", [TOKEN, None])
def test_a_refused_token_is_final_and_explained(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    """Catches a minute of retries with a wrong token, and a message that does not say where the token belongs."""
    if token is not None:
        monkeypatch.setenv(TOKEN_VARIABLE, token)
    server.script = [Reply(401, {"detail": f"Bearer {TOKEN} is wrong"})]
    with RewardClient(server.url, deadline_seconds=BOUND_SECONDS, ready_timeout_seconds=BOUND_SECONDS) as client:
        future = client.submit(make_group())
        for path, call in (("/get_score", lambda: future.result(BOUND_SECONDS)), ("/ready", client.wait_until_ready)):
            with pytest.raises(ConfigError, match=f"^reward server {server.url}{path} answered 401: ") as raised:
                call()
            message = str(raised.value)
            assert ("rejected the token" if token else "requires a token") in message
            assert TOKEN_VARIABLE in message
            assert TOKEN not in message
            assert "\n" not in message
    assert [path for path, _ in server.requests] == ["/get_score", "/ready"]


@pytest.mark.parametrize(
    ("status", "error"), [(500, RewardServerUnavailable), (422, RewardProtocolError), (200, RewardProtocolError)]
)
def test_the_token_stays_out_of_messages(
    server: ScriptedServer,
    absent_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
    error: type[OpenR1Error],
) -> None:
    """Catches a token in the log or in a traceback: here the server repeats what it was sent, as debug pages do."""
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    caplog.set_level(logging.DEBUG)
    server.script = [Reply(status, f"authorization: Bearer {TOKEN}".encode())]
    with RewardClient([absent_url, server.url], deadline_seconds=0.5) as client:
        future = client.submit(make_group())
        with pytest.raises(error, match=r"authorization: Bearer \*\*\*") as raised:
            future.result(BOUND_SECONDS)
    assert server.authorizations[0] == f"Bearer {TOKEN}"
    assert TOKEN not in "".join(traceback.format_exception(raised.value))
    assert TOKEN not in caplog.text
    assert absent_url in caplog.text


@pytest.mark.parametrize("token", [TOKEN + "\n", f"{TOKEN}\r\nX: y", TOKEN + "é"])
def test_a_token_that_no_header_carries_is_a_config_error(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """Catches the line break at the end of a secret's file that shows itself as an odd error in the first request."""
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(ConfigError, match=TOKEN_VARIABLE) as raised:
        RewardClient("http://127.0.0.1:5000")
    assert TOKEN not in str(raised.value)


# The grader's version


def reply_as(version: str, name: str = "countdown") -> Answerer:
    """A script entry that answers right, as this version of this grader."""

    def answer(content: Any) -> Reply:
        reply = reply_in_order(content)
        reply.body["grader"] = {"name": name, "version": version}
        return reply

    return answer


def test_a_change_of_the_grader_is_noticed(
    server: ScriptedServer, other_server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches a server that is restarted with another grader, or that differs from its neighbour, without a word.

    Another task has a version of its own, and many answers of a version get one warning.
    """
    server.script = [reply_as("1"), reply_as("7", "math"), reply_as("2"), reply_as("1"), reply_as("2")]
    other_server.script = [reply_as("1"), reply_as("7", "math"), reply_as("1")]
    with RewardClient([server.url, other_server.url]) as client:
        for _ in range(10):
            assert client.submit(make_group()).result(BOUND_SECONDS) == [RIGHT, RIGHT]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        f"reward server {server.url} grades 'countdown' with version '2', earlier answers came from version '1'; "
        "rewards may not be comparable"
    )
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# Real processes that are killed


@contextmanager
def real_server(port: int = 0) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A real reward server and its address; it ends with the block, if it still lives."""
    command = [sys.executable, "-m", "cli", "serve", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            announcement = process.stdout.readline()
            assert announcement.startswith("reward server: http://127.0.0.1:"), announcement
            yield process, announcement.removeprefix("reward server: ").strip()
            process.terminate()
            process.wait(BOUND_SECONDS)
        finally:
            process.kill()


def gradable_group(number: int, size: int = 3) -> Group:
    """A group whose responses earn different rewards: Countdown for even numbers, mathematics for odd ones."""
    if number % 2:
        prompt = Prompt(f"math-{number}", "What?", (1,), rf"\frac{{{number}}}{{2}}", "math")
        texts = [rf"\boxed{{{number}/2}}", rf"\boxed{{{number}}}", "no idea"]
    else:
        label = json.dumps({"numbers": [number + 1, 3, 2], "target": 2 * number + 5})
        prompt = Prompt(f"countdown-{number}", "What?", (1,), label, "countdown")
        tagged = "<think>so</think>\n<answer>{}</answer>"
        texts = [tagged.format(f"2*{number + 1}+3"), tagged.format("3+2"), "no idea"]
    return Group(
        prompt, tuple(Response(texts[index % 3], (7,), (-0.5,), (True,), "stop", 4, 4) for index in range(size))
    )


def results_of(futures: list[Future[list[Grade]]]) -> list[list[Grade]]:
    """What became of all, in their order."""
    return [future.result(BOUND_SECONDS) for future in futures]


def wait_for(happened: Callable[[], bool], what: str) -> None:
    """Poll for something that must come."""
    end = time.monotonic() + BOUND_SECONDS
    while not happened():
        assert time.monotonic() < end, f"waited {BOUND_SECONDS} s for {what}"
        time.sleep(0.01)


def test_a_killed_server_that_comes_back_changes_no_score(caplog: pytest.LogCaptureFixture) -> None:
    """Catches groups that are lost, graded as failures or given to others when the server dies under them (row 12)."""
    groups = [gradable_group(number) for number in range(60)]
    with real_server() as (process, url), RewardClient(url, BOUND_SECONDS, BOUND_SECONDS, max_concurrency=4) as client:
        client.wait_until_ready()
        expected = results_of([client.submit(group) for group in groups])
        assert caplog.records == []
        before = [client.submit(group) for group in groups]
        before[0].result(BOUND_SECONDS)
        process.kill()
        after = [client.submit(group) for group in groups]
        process.wait(BOUND_SECONDS)
        wait_for(lambda: url in caplog.text, "the client to meet the dead server")
        with real_server(int(url.rpartition(":")[2])) as (_, same_url):
            assert same_url == url
            assert results_of(before) == expected
            assert results_of(after) == expected
    rewards_of = [[score.reward for score in scores] for scores in expected]
    assert rewards_of == [[1.0, 0.0, 0.0] if number % 2 else [1.1, 0.1, 0.0] for number in range(60)]


def keep_asking(url: str) -> None:
    """What the process runs that is killed below: thousands of responses in flight, and a line once the first are."""
    with RewardClient(url) as client:
        client.wait_until_ready()
        futures = [client.submit(gradable_group(number, size=300)) for number in range(1000)]
        futures[0].result(BOUND_SECONDS)
        print("busy", flush=True)
        results_of(futures)
        print("done", flush=True)


def test_a_killed_client_leaves_the_server_to_others() -> None:
    """Catches a server that dies with, waits for, or stays full of requests whose sender is gone."""
    with real_server() as (process, url):
        command = [
            sys.executable,
            "-c",
            f"from tests.unit.rewards.test_client import keep_asking; keep_asking({url!r})",
        ]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ) as sender:
            try:
                assert sender.stdout is not None
                assert sender.stdout.readline() == "busy\n"
                sender.kill()
                assert sender.wait(BOUND_SECONDS) == -signal.SIGKILL
                assert sender.stdout.read() == "", "the client was done before it was killed"
            finally:
                sender.kill()
        with RewardClient(url, BOUND_SECONDS, BOUND_SECONDS) as client:
            client.wait_until_ready()
            (scores,) = results_of([client.submit(gradable_group(2))])
        assert process.poll() is None
    assert [score.reward for score in scores] == [1.1, 0.1, 0.0]
