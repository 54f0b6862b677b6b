"""Download a public dataset from the Hugging Face Hub, verify it, and convert it to the openr1 format."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.prepare.formats import ReadOptions, read_source_rows
from data.prepare.hub_datasets import HubDataset, Split
from data.prepare.readers import BadRowHandler
from openr1.data.hub_queries import HUB_TIMEOUT_SECONDS, query_hub
from openr1.errors import ConfigError, MissingError
from openr1.runtime.console import say
from openr1.runtime.files import to_line, write_whole

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo, ModelInfo


@dataclass(frozen=True)
class HubFile:
    """What the hub states about a file: its size in bytes, and a digest of a kind accepted by `file_digest`."""

    size: int
    digest_kind: str
    digest: str


@dataclass(frozen=True)
class RepositoryListing:
    """The files of a repository at one commit, by path."""

    commit: str
    files: dict[str, HubFile]


def download(name: str, dataset: HubDataset, output: Path, revision: str | None, wording: str, skip_bad: bool) -> None:
    """Write one .jsonl file per split and source.json, or nothing if anything fails.

    Args:
        name: Prefix of the row ids, `<name>-<split>-<number>`, numbered from 1 within a split.
        dataset: What to download.
        output: Output folder; files of an earlier download are overwritten.
        revision: Branch, tag or commit; None means the main branch.
        wording: Prompt wording of Countdown problems.
        skip_bad: Skip rows that cannot be used instead of stopping at the first.

    Raises:
        MissingError: The hub cannot be reached, or the repository, revision or file does not exist.
        ConfigError: A file does not match its size or digest on the hub, the number of rows is unexpected, or a row is
            bad.
    """
    advice = f"set HF_ENDPOINT to a mirror, or obtain the files of {dataset.repository} and use `data prepare`"
    listing = query_hub(dataset.repository, advice, lambda: fetch_listing(dataset.repository, revision))
    bad_rows = BadRowHandler(skip_bad)
    lines: dict[str, list[str]] = {}
    sources: list[dict[str, Any]] = []
    for split_name, split in dataset.splits.items():
        paths = []
        for file in split.files:
            path = _fetch_verified(dataset, listing, file, advice)
            paths.append(path)
            sources.append({"path": file, "sha256": file_digest(path, "sha256"), "bytes": path.stat().st_size})
        options = ReadOptions(dataset.format, dataset.task, wording)
        lines[split_name] = _convert(f"{name}-{split_name}", paths, split, options, bad_rows)
    provenance = {
        "repository": dataset.repository,
        "revision": listing.commit,
        "files": sources,
        "rows": {split_name: len(rows) for split_name, rows in lines.items()},
        "left_out": dict(sorted(bad_rows.counts.items())),
    }
    for split_name, rows in lines.items():
        path = output / f"{split_name}.jsonl"
        write_whole(path, "".join(rows))
        say(f"{path}: {len(rows)} rows")
    write_whole(output / "source.json", json.dumps(provenance, indent=2) + "\n")
    say(f"{output / 'source.json'}: {dataset.repository} at {listing.commit}; {_describe_skipped(bad_rows.counts)}")


def _describe_skipped(counts: Counter[str]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return f"skipped rows: {kinds}" if kinds else "no rows skipped"


def _convert(
    id_prefix: str, paths: list[Path], split: Split, options: ReadOptions, bad_rows: BadRowHandler
) -> list[str]:
    """Return the rows of a split as JSON lines.

    Raises:
        ConfigError: The number of rows, skipped ones included, is not the expected one, or a row is bad.
    """
    skipped_before = bad_rows.counts.total()
    rows = (row for path in paths for row in read_source_rows(path, options, bad_rows))
    lines = [to_line({**row.columns, "id": f"{id_prefix}-{number}"}) for number, row in enumerate(rows, 1)]
    num_rows = len(lines) + bad_rows.counts.total() - skipped_before
    if split.rows is not None and num_rows != split.rows:
        raise ConfigError(
            f"{paths[0]}: {num_rows} rows in {len(paths)} files, expected {split.rows}; "
            "select an earlier version of the dataset with --revision"
        )
    return lines


def _fetch_verified(dataset: HubDataset, listing: RepositoryListing, file: str, advice: str) -> Path:
    """Return the local path of a file after checking its size and digest against the hub's."""
    if file not in listing.files:
        raise MissingError(f"{dataset.repository} has no {file} at {listing.commit}; choose another --revision")
    path = query_hub(dataset.repository, advice, lambda: fetch_file(dataset.repository, file, listing.commit))
    check_file(file, path, listing.files[file])
    return path


def check_file(file: str, path: Path, expected: HubFile) -> None:
    """Compare a downloaded file with what the hub states.

    Raises:
        ConfigError: It has another size or digest.
    """
    # Paths in the hub's cache are symbolic links; the user must delete the target, so messages name that.
    target = path.resolve()
    size = target.stat().st_size
    if size != expected.size:
        raise ConfigError(f"{file}: {size} bytes, but the hub states {expected.size}; delete {target} and try again")
    digest = file_digest(target, expected.digest_kind)
    if digest != expected.digest:
        raise ConfigError(
            f"{file}: {expected.digest_kind} {digest}, but the hub states {expected.digest}; "
            f"delete {target} and try again"
        )


def file_digest(path: Path, kind: str) -> str:
    """Return the hexadecimal digest of a file.

    Args:
        path: The file.
        kind: `sha256`, or `git` for the SHA-1 hash of the file as a git blob.
    """
    if kind == "git":
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_listing(repository: str, revision: str | None) -> RepositoryListing:
    """Ask the hub for a repository's commit and files, with a timeout of `HUB_TIMEOUT_SECONDS`."""
    from huggingface_hub import HfApi

    return to_listing(
        HfApi().dataset_info(repository, revision=revision or "main", files_metadata=True, timeout=HUB_TIMEOUT_SECONDS)
    )


def to_listing(info: "DatasetInfo | ModelInfo") -> RepositoryListing:
    """The commit and the files that the hub states, of which size and digest are known."""
    files = {}
    for entry in info.siblings or []:
        if entry.lfs:
            files[entry.rfilename] = HubFile(entry.lfs.size, "sha256", entry.lfs.sha256)
        elif entry.size is not None and entry.blob_id:
            files[entry.rfilename] = HubFile(entry.size, "git", entry.blob_id)
    if info.sha is None:
        raise ValueError("the response contains no commit")
    return RepositoryListing(info.sha, files)


def fetch_file(repository: str, file: str, commit: str) -> Path:
    """Return the path of a file in the local hub cache, downloading it if needed."""
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(repository, file, repo_type="dataset", revision=commit, etag_timeout=HUB_TIMEOUT_SECONDS)
    )
