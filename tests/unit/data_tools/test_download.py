"""`data download` against a small server that answers as the Hugging Face hub does."""

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data.prepare.hub_datasets import HUB_DATASETS

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Repositories in memory; `listed` overrides what the listing says of a file."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.repository = ""
        self.kind = "datasets"
        self.listed: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.held = threading.Event()
        self.silent = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no news."""

    def offer(self, repository: str, **files: bytes) -> None:
        self.repository, self.files = repository, files

    def describe(self, path: str) -> dict[str, Any]:
        """As the hub does: a large file by its SHA-256, a small one by git's name alone."""
        content = self.files[path]
        found: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_name(content)}
        if path.endswith(".parquet"):
            sha256 = hashlib.sha256(content).hexdigest()
            found["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
        return found | self.listed.get(path, {})

    def entry(self, path: str) -> dict[str, Any]:
        """A file in the listing of a folder."""
        content = self.files[path]
        return {"type": "file", "path": path, "size": len(content), "oid": git_name(content)}


class Answers(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        if self.server.silent:
            self.server.held.wait(60)
            return
        api = f"/api/{self.server.kind}/{self.server.repository}/revision/"
        # Only the files of models have no kind in their address.
        kind = "" if self.server.kind == "models" else f"/{self.server.kind}"
        files = f"{kind}/{self.server.repository}/resolve/{COMMIT}/"
        if path in (f"{api}main", f"{api}v1"):
            siblings = [self.server.describe(file) for file in self.server.files]
            self.answer(200, json.dumps({"id": self.server.repository, "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/{self.server.kind}/{self.server.repository}/tree/{COMMIT}":
            entries = [self.server.entry(file) for file in self.server.files]
            self.answer(200, json.dumps(entries).encode())
        elif path.startswith(api):
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(files) and path.removeprefix(files) in self.server.files:
            content = self.server.files[path.removeprefix(files)]
            self.answer(200, content, {"ETag": f'"{git_name(content)}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob " + str(len(content)).encode() + b"\0" + content).hexdigest()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.held.set()
    server.shutdown()
    thread.join()
    server.server_close()


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(hub: FakeHub, tmp_path: Path) -> Run:
    def start(*words: str, program: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        kept |= {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path / "cache"),
            **environment,
        }
        kept |= {"no_proxy": "127.0.0.1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, *(["-c", program] if program else ["-m", "cli"]), "data", "download", *words]
        return subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=120, check=False)

    return start


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    file = io.BytesIO()
    write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def amc(count: int) -> bytes:
    return parquet([{"id": str(n), "question": f"{n}+1?", "answer": str(n + 1), "url": "u"} for n in range(count)])


AMC = "test-00000-of-00001.parquet"


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def fails(done: "subprocess.CompletedProcess[str]", code: int, *texts: str) -> None:
    """One line on stderr, with the texts, and nothing written."""
    assert done.returncode == code, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for text in texts:
        assert text in done.stderr


def test_a_dataset_is_converted_with_a_note_of_its_origin(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    """Catches another branch's files, rows lost or renamed, and a note that says less than what was fetched."""
    content = amc(40)
    hub.offer("math-ai/amc23", **{AMC: content, "README.md": b"x"})
    done = run("amc23", "--output", "out", "--revision", "v1")
    assert done.returncode == 0, done.stderr
    rows = read_lines(tmp_path / "out/test.jsonl")
    assert len(rows) == 40
    assert rows[1] == {"id": "amc23-test-2", "prompt": "1+1?", "label": "2", "meta": {}, "task": "math"}
    assert json.loads((tmp_path / "out/source.json").read_text()) == {
        "repository": "math-ai/amc23",
        "revision": COMMIT,
        "files": [{"path": AMC, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}],
        "rows": {"test": 40},
        "left_out": {},
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["source.json", "test.jsonl"]
    assert "GET /api/datasets/math-ai/amc23/revision/v1" in hub.asked


def test_a_small_file_and_the_usual_folder(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    """Catches a file that is refused because the hub names it by git alone, and a default folder that is another."""
    row = {"problem": "p", "solution": "s", "answer": "4", "subject": "Algebra", "level": 2, "unique_id": "u"}
    lines = "".join(json.dumps({**row, "problem": f"p{n}"}) + "\n" for n in range(500)).encode()
    hub.offer("HuggingFaceH4/MATH-500", **{"test.jsonl": lines})
    done = run("math500")
    assert done.returncode == 0, done.stderr
    rows = read_lines(tmp_path / "data/math500/test.jsonl")
    assert (len(rows), rows[499]["id"], rows[499]["meta"]["level"]) == (500, "math500-test-500", 2)


def test_splits_become_files(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    """Catches rows of one split in the file of another, and files of one split out of order."""
    files = {}
    for split, counts in {"train": [1500, 1000, 1000, 1000, 1000, 1000, 1000], "test": [800] + [700] * 6}.items():
        for file, count in zip(HUB_DATASETS["math"].splits[split].files, counts, strict=True):
            row = {"level": "Level 1", "type": "T", "solution": r"\boxed{1}"}
            files[file] = parquet([{"problem": f"{file} {n}", **row} for n in range(count)])
    hub.offer("EleutherAI/hendrycks_math", **files)
    done = run("math", "--output", "out")
    assert done.returncode == 0, done.stderr
    train = read_lines(tmp_path / "out/train.jsonl")
    assert train[0]["prompt"] == "algebra/train-00000-of-00001.parquet 0"
    assert train[1500]["prompt"] == "counting_and_probability/train-00000-of-00001.parquet 0"
    assert read_lines(tmp_path / "out/test.jsonl")[-1]["prompt"] == "precalculus/test-00000-of-00001.parquet 699"
    assert json.loads((tmp_path / "out/source.json").read_text())["rows"] == {"train": 7500, "test": 5000}


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"lfs": {"sha256": "0" * 64, "size": len(amc(40)), "pointerSize": 1}}, "but the hub states 000000"),
        ({"lfs": {"sha256": "0" * 64, "size": 7, "pointerSize": 1}}, "bytes, but the hub states 7; delete "),
        ({"lfs": None}, "but the hub states 111111"),
    ],
)
def test_other_content_than_stated(
    listed: dict[str, Any], message: str, hub: FakeHub, run: Run, tmp_path: Path
) -> None:
    """Catches a file that was cut or changed on its way and is trained on, and one bad copy that is kept for good."""
    hub.offer("math-ai/amc23", **{AMC: amc(40)})
    hub.listed[AMC] = {"blobId": "1" * 40, **listed}
    done = run("amc23", "--output", "out")
    fails(done, 2, f"data: {AMC}: ", message, "and try again")
    assert not (tmp_path / "out").exists()
    hub.listed.clear()
    Path(done.stderr.split("delete ")[1].split(" and try")[0]).unlink()
    hub.asked.clear()
    assert run("amc23", "--output", "out").returncode == 0
    assert f"GET /datasets/math-ai/amc23/resolve/{COMMIT}/{AMC}" in hub.asked


def test_another_number_of_rows(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    """Catches a dataset that has shrunk, or another one under the same name."""
    hub.offer("math-ai/amc23", **{AMC: amc(39)})
    fails(run("amc23", "--output", "out"), 2, "39 rows in 1 files, expected 40", "--revision")
    assert not (tmp_path / "out").exists()


def test_bad_rows_are_left_out_when_asked(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    """Catches a blank answer that is trained on, and a count of rows that forgets those left out."""
    rows = [{"question": f"{n}?", "answer": "" if n == 2 else "1"} for n in range(40)]
    hub.offer("math-ai/amc23", **{AMC: parquet(rows)})
    fails(run("amc23", "--output", "out"), 2, f"{AMC}:3: `answer` is blank")
    assert not (tmp_path / "out").exists()
    assert run("amc23", "--output", "out", "--skip-bad").returncode == 0
    assert len(read_lines(tmp_path / "out/test.jsonl")) == 39
    assert json.loads((tmp_path / "out/source.json").read_text())["left_out"] == {"blank text": 1}


ADVICE = "set HF_ENDPOINT to a mirror, or obtain the files of math-ai/amc23 and use `data prepare`"


def test_no_hub_is_one_line(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    """Catches a traceback, or the wrong exit code, without a network; and a page that is no hub's answer."""
    with socket.socket() as closed:
        # Bound, so that nobody else listens there, and never listening.
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        fails(run("amc23", HF_ENDPOINT=nowhere), 3, f"math-ai/amc23 cannot be read at {nowhere} (", ADVICE)
    fails(run("amc23", HF_HUB_OFFLINE="1"), 3, "math-ai/amc23 cannot be read at ", ADVICE)
    hub.offer("math-ai/other")
    fails(run("amc23"), 3, "math-ai/amc23 does not exist at http://127.0.0.1:", ADVICE)
    assert not (tmp_path / "data").exists()


def test_what_the_hub_has_not(hub: FakeHub, run: Run) -> None:
    """Catches a look-up that ends in a traceback where the revision or the file is not there."""
    hub.offer("math-ai/amc23", **{"README.md": b"x"})
    fails(run("amc23", "--revision", "v2"), 3, "math-ai/amc23 has no such revision")
    fails(run("amc23"), 3, f"math-ai/amc23 has no {AMC} at {COMMIT}")


def test_a_silent_hub_does_not_hang(hub: FakeHub, run: Run) -> None:
    """Catches a request without a deadline."""
    hub.silent = True
    program = (
        "import sys; from cli.__main__ import main; from data.prepare import download; "
        "download.HUB_TIMEOUT_SECONDS = 0.3; sys.exit(main())"
    )
    fails(run("amc23", program=program), 3, "math-ai/amc23 cannot be read at ", ADVICE)


def test_an_unknown_name_lists_the_known(run: Run) -> None:
    """Catches a request to the hub for a dataset that openr1 cannot convert."""
    done = run("maths")
    assert done.returncode == 2
    assert "'math'" in done.stderr
    assert "'gsm8k-zh'" in done.stderr
