"""Datasets of the hub: a small server answers as the hub does, and a cache that was filled from it needs no hub."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow
import pytest
from pyarrow.parquet import write_table

from openr1.data.hub_datasets import HubSplit, is_repository, parse_hub_name

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "owner/sums"
PROGRAM = """
import sys
from pathlib import Path
from openr1.data.columns import RowSchema
from openr1.data.rows import read_rows
from openr1.errors import OpenR1Error
try:
    for _, row in read_rows(Path(sys.argv[1]), RowSchema((), {"prompt": "question"})):
        print(row["id"], row["prompt"])
except OpenR1Error as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class Hub(ThreadingHTTPServer):
    """One repository, whose Parquet branch has the given files."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files = files
        self.asked: list[str] = []
        self.missing = ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no news."""


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.asked.append(path)
        files, api = self.server.files, f"/api/datasets/{REPOSITORY}"
        name = path.rpartition(f"/datasets/{REPOSITORY}/resolve/{COMMIT}/")[2]
        if path == f"{api}/revision/refs/convert/parquet":
            siblings = [{"rfilename": file} for file in files]
            self.answer(200, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"{api}/tree/{COMMIT}":
            tree = [{"type": "file", "path": file, "size": len(files[file]), "oid": oid(files[file])} for file in files]
            self.answer(200, json.dumps(tree).encode())
        elif name in files and name != self.server.missing:
            self.answer(200, files[name], {"ETag": f'"{oid(files[name])}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound" if name in files else "RepoNotFound"})

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def oid(content: bytes) -> str:
    """The name that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def parquet(*questions: str) -> bytes:
    """A file of questions."""
    file = io.BytesIO()
    write_table(pyarrow.Table.from_pylist([{"question": question} for question in questions]), file)
    return file.getvalue()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A repository with two splits, one of them in two files."""
    files = {"main/train/0000.parquet": parquet("1+1?", "2+2?"), "main/train/0001.parquet": parquet("3+3?")}
    server = Hub({"README.md": b"-", **files, "main/test/0000.parquet": parquet("4+4?")})
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def read(name: str, cache: Path, endpoint: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, rows and message of a process that reads a dataset; the client reads its settings once a process."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    kept |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "no_proxy": "127.0.0.1", "PYTHONPATH": str(ROOT)}
    kept |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    command = [sys.executable, "-c", PROGRAM, name]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


TRAIN = "sums-main-train:1 1+1?\nsums-main-train:2 2+2?\nsums-main-train:3 3+3?\n"


def test_a_split_is_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    """Catches other splits that are downloaded, files out of order, and a start that needs the hub every time."""
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    code, rows, message = read(f"{REPOSITORY}:main:train", tmp_path, endpoint)
    assert (code, rows.replace("downloading main/train/*.parquet of owner/sums\n", "")) == (0, TRAIN), message
    assert not [path for path in hub.asked if path.endswith(("README.md", "test/0000.parquet"))]
    hub.asked.clear()
    # Even with a hub that could be asked: a run that is resumed reads the rows that it began with.
    assert read(f"{REPOSITORY}:main:train", tmp_path, endpoint)[:2] == (0, TRAIN)
    assert read(f"{REPOSITORY}:main:train", tmp_path, endpoint, HF_HUB_OFFLINE="1")[:2] == (0, TRAIN)
    assert hub.asked == []


def test_a_download_that_is_incomplete(hub: Hub, tmp_path: Path) -> None:
    """Catches the files that are there taken for the whole split, and a message of several lines."""
    hub.missing = "main/train/0001.parquet"
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        code, rows, message = read(f"{REPOSITORY}:main:train", tmp_path, endpoint, **environment)
        assert code == 3, message
        assert "sums" not in rows.replace("downloading main/train/*.parquet of owner/sums\n", "")
    hub.missing = ""
    assert read(f"{REPOSITORY}:main:train", tmp_path, endpoint)[1].endswith(TRAIN)


def test_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    """Catches a traceback, and a message that does not say how to get the dataset."""
    code, _, message = read(f"{REPOSITORY}:main:train", tmp_path, "http://127.0.0.1:1")
    assert code == 3
    assert message.count("\n") == 1
    command = (
        "hf download --repo-type dataset owner/sums --revision refs/convert/parquet --include 'main/train/*.parquet'"
    )
    assert command in message
    # A split that the dataset does not have.
    code, _, message = read(f"{REPOSITORY}:trian", tmp_path, f"http://127.0.0.1:{hub.server_port}")
    assert code == 3
    assert "has no default:trian at refs/convert/parquet; there are main:test, main:train" in message


def test_names_of_splits() -> None:
    """Catches files that are taken for datasets of the hub, and the other way round."""
    branch = "refs/convert/parquet"
    assert parse_hub_name("openai/gsm8k:main:train") == HubSplit("openai/gsm8k", branch, "main", "train")
    assert parse_hub_name("a/b.c:test") == HubSplit("a/b.c", branch, "default", "test")
    assert parse_hub_name("a/b@refs/pr/1:x:test") == HubSplit("a/b", "refs/pr/1", "x", "test")
    for name in ("a/b", "a:train", "data/a/b:train", "/a/b:train", "a/b:", "a/b:c:d:e"):
        assert parse_hub_name(name) is None
    assert is_repository("openai/gsm8k")
    assert not any(map(is_repository, ("data/train.jsonl", "train", "a/b/c")))
