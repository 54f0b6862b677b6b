"""Fetch a public dataset from the Hugging Face hub, check it, and write it in our schema with a note of its origin."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data.prepare.formats import Reading, read_records
from data.prepare.hub_datasets import Source, Split
from data.prepare.readers import BadRows
from openr1.console import say
from openr1.errors import ConfigError, MissingError
from openr1.files import to_line, write_whole

T = TypeVar("T")

SECONDS = 15.0
"""For one answer of the hub about a repository or a file; reading a file has the hub client's own limit."""


@dataclass(frozen=True)
class HubFile:
    """What the hub says of a file: bytes, and its digest of a kind that `digest` takes."""

    size: int
    kind: str
    digest: str


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    commit: str
    files: dict[str, HubFile]


def download(name: str, source: Source, output: Path, revision: str | None, wording: str, skip_bad: bool) -> None:
    """Write one file for each split of a dataset, and source.json, or nothing at all.

    Args:
        name: Goes into the ids of rows, `<name>-<split>-<number>`, numbered from 1 over the split's files.
        source: Where it is.
        output: Folder; files of an earlier download are replaced.
        revision: Branch, tag or commit; None is the main branch.
        wording: Of Countdown prompts.
        skip_bad: Leave out rows that cannot be used, instead of stopping at the first.

    Raises:
        MissingError: The hub cannot be reached, or has no such repository, revision or file.
        ConfigError: A file is not what the hub says it is, the number of rows is not the known one, or a row is bad.
    """
    advice = f"set HF_ENDPOINT to a mirror, or get the files of {source.repository} otherwise and use `data prepare`"
    listing = _ask(source.repository, advice, lambda: describe(source.repository, revision))
    bad = BadRows(skip_bad)
    lines: dict[str, list[str]] = {}
    notes: list[dict[str, Any]] = []
    for split, known in source.splits.items():
        paths = []
        for file in known.files:
            paths.append(_fetch_checked(source, listing, file, advice))
            notes.append({"path": file, "sha256": digest(paths[-1], "sha256"), "bytes": paths[-1].stat().st_size})
        lines[split] = _convert(f"{name}-{split}", paths, known, Reading(source.format, source.task, wording), bad)
    note = {
        "repository": source.repository,
        "revision": listing.commit,
        "files": notes,
        "rows": {split: len(rows) for split, rows in lines.items()},
        "left_out": dict(sorted(bad.counts.items())),
    }
    for split, rows in lines.items():
        path = output / f"{split}.jsonl"
        write_whole(path, "".join(rows))
        say(f"{path}: {len(rows)} rows")
    write_whole(output / "source.json", json.dumps(note, indent=2) + "\n")
    say(f"{output / 'source.json'}: {source.repository} at {listing.commit}; {_left_out(bad.counts)}")


def _left_out(counts: Counter[str]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return f"left out: {kinds}" if kinds else "no row left out"


def _convert(prefix: str, paths: list[Path], known: Split, reading: Reading, bad: BadRows) -> list[str]:
    """The rows of a split as lines of JSON.

    Raises:
        ConfigError: The number of rows is not the known one, or a row is bad.
    """
    before = bad.counts.total()
    records = (record for path in paths for record in read_records(path, reading, bad))
    lines = [to_line({**record.row, "id": f"{prefix}-{number}"}) for number, record in enumerate(records, 1)]
    found = len(lines) + bad.counts.total() - before
    if known.rows is not None and found != known.rows:
        raise ConfigError(
            f"{paths[0]}: {found} rows in {len(paths)} files, where {known.rows} are known; "
            "choose the dataset's earlier state with --revision"
        )
    return lines


def _fetch_checked(source: Source, listing: Listing, file: str, advice: str) -> Path:
    """The file on this machine, with the size and digest that the hub states."""
    if file not in listing.files:
        raise MissingError(f"{source.repository} has no {file} at {listing.commit}; choose another --revision")
    path = _ask(source.repository, advice, lambda: fetch(source.repository, file, listing.commit))
    # In the hub's cache the path is a link: what must be deleted is what it leads to.
    stated, kept = listing.files[file], path.resolve()
    size = kept.stat().st_size
    if size != stated.size:
        raise ConfigError(f"{file}: {size} bytes, where the hub states {stated.size}; delete {kept} and try again")
    found = digest(kept, stated.kind)
    if found != stated.digest:
        raise ConfigError(
            f"{file}: {stated.kind} {found}, where the hub states {stated.digest}; delete {kept} and try again"
        )
    return path


def digest(path: Path, kind: str) -> str:
    """Hexadecimal digest of a file: `sha256`, or `git`, the SHA-1 that git names a file's content by."""
    content = path.read_bytes()
    if kind == "git":
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return hashlib.sha256(content).hexdigest()


def describe(repository: str, revision: str | None) -> Listing:
    """Ask the hub for a repository's commit and files. Blocks for at most `SECONDS` without an answer."""
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(repository, revision=revision or "main", files_metadata=True, timeout=SECONDS)
    files = {}
    for entry in info.siblings or []:
        if entry.lfs:
            files[entry.rfilename] = HubFile(entry.lfs.size, "sha256", entry.lfs.sha256)
        elif entry.size is not None and entry.blob_id:
            files[entry.rfilename] = HubFile(entry.size, "git", entry.blob_id)
    if info.sha is None:
        raise ValueError("the answer names no commit")
    return Listing(info.sha, files)


def fetch(repository: str, file: str, commit: str) -> Path:
    """Path of the file in the hub's cache on this machine; it is downloaded where it is not there yet."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, file, repo_type="dataset", revision=commit, etag_timeout=SECONDS))


def _ask(repository: str, advice: str, question: Callable[[], T]) -> T:
    """Put a question to the hub.

    Raises:
        MissingError: It cannot be reached, answers otherwise than a hub, or has not what is asked for.
    """
    import httpx2
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, XetDownloadError

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        return question()
    except RevisionNotFoundError as error:
        raise MissingError(f"{repository} has no such --revision at {endpoint}") from error
    except GatedRepoError as error:
        raise MissingError(f"{repository} at {endpoint} asks for consent: give it there, then set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise MissingError(f"{repository} is not at {endpoint}, or not open to you; {advice}") from error
    except (httpx2.HTTPError, OSError, ValueError, KeyError, XetDownloadError) as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise MissingError(f"{repository} cannot be read at {endpoint} ({reason}); {advice}") from error
