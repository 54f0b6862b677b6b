"""Datasets of the Hugging Face Hub, read from the Parquet files that the hub makes of them; none of their code runs."""

import re
from dataclasses import dataclass
from pathlib import Path

from openr1.data.hub_queries import HUB_TIMEOUT_SECONDS, query_hub
from openr1.errors import MissingError
from openr1.runtime.console import say

PARQUET_BRANCH = "refs/convert/parquet"
"""Branch that the hub adds to datasets, with the files CONFIG/SPLIT/NNNN.parquet whatever they were made of."""
_REPOSITORY = r"[\w.-]+/[\w-]+[\w.-]*"
_NAME = re.compile(rf"(?P<repository>{_REPOSITORY})(?:@(?P<revision>[^:]+))?(?::(?P<config>[^:/]+))?:(?P<split>[^:/]+)")


@dataclass(frozen=True)
class HubSplit:
    """One split of a dataset: `OWNER/NAME[@REVISION][:CONFIG]:SPLIT`; the config is `default` if none is named."""

    repository: str
    revision: str
    config: str
    split: str

    @property
    def pattern(self) -> str:
        """Of its files."""
        return f"{self.config}/{self.split}/*.parquet"

    @property
    def command(self) -> str:
        """What downloads it on a machine with access to the hub."""
        return (
            f"hf download --repo-type dataset {self.repository} --revision {self.revision} --include '{self.pattern}'"
        )


def parse_hub_name(text: str) -> HubSplit | None:
    """Parse the name of a split; None if it is none, such as a file's path."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    revision, config = match["revision"] or PARQUET_BRANCH, match["config"] or "default"
    return HubSplit(match["repository"], revision, config, match["split"])


def is_repository(text: str) -> bool:
    """Whether a text has the form OWNER/NAME and no file's suffix."""
    return re.fullmatch(_REPOSITORY, text) is not None and not Path(text).suffix


def fetch(split: HubSplit) -> list[Path]:
    """The files of a split, in order: those in the local cache if they are complete, else downloaded.

    A cached copy is used without asking the hub, so that a run starts the same again. HF_HOME, HF_ENDPOINT, HF_TOKEN
    and HF_HUB_OFFLINE work as in other tools.

    Raises:
        MissingError: They are not in the cache and cannot be downloaded; the message has the command that does it.
    """
    # Imported late: it takes half a second, and most runs read local files.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(local_files_only: bool) -> list[Path]:
        folder = snapshot_download(
            split.repository,
            repo_type="dataset",
            revision=split.revision,
            allow_patterns=[split.pattern],
            local_files_only=local_files_only,
        )
        return sorted(Path(folder).glob(split.pattern))

    try:
        files = download(local_files_only=True)
    except LocalEntryNotFoundError:
        files = []
    if files:
        return files
    say(f"downloading {split.pattern} of {split.repository}")
    advice = f"where the hub can be reached: {split.command}, then copy HF_HOME"
    info = query_hub(
        split.repository,
        advice,
        lambda: HfApi().dataset_info(split.repository, revision=split.revision, timeout=HUB_TIMEOUT_SECONDS),
    )
    files = query_hub(split.repository, advice, lambda: download(local_files_only=False))
    if not files:
        folders = {tuple(one.rfilename.split("/")[:-1]) for one in info.siblings or []}
        known = ", ".join(sorted(":".join(folder) for folder in folders if len(folder) == 2)) or "none"
        raise MissingError(
            f"dataset {split.repository} has no {split.config}:{split.split} at {split.revision}; there are {known}"
        )
    return files
