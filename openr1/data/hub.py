"""Models by their name on the Hugging Face Hub: found in the cache on this machine, never over the network."""

import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from openr1.errors import MissingError

MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""`OWNER/NAME`. A relative path of two parts looks the same, so folders come first."""

WANTED = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.model"]
"""Files of a repository that are used: configuration, tokenizer and weights; of the weights no pickled ones."""
UNWANTED = ["*/*", "consolidated*"]
"""Of these, not those of other formats, and no second copy of the weights."""


def local_model(path: Path) -> Path:
    """The folder that a model's path means: itself, or the snapshot of the hub's main branch in the cache.

    The snapshot's folder is named by its commit: a run that is resumed after the model has changed on the hub, and was
    downloaded again, has another `model.path` and is refused.

    Raises:
        MissingError: There is no such folder, and no model of that name in the cache.
    """
    if path.exists() or not MODEL_ID.fullmatch(str(path)):
        return path
    try:
        return Path(
            snapshot_download(str(path), local_files_only=True, allow_patterns=WANTED, ignore_patterns=UNWANTED)
        )
    except LocalEntryNotFoundError as error:
        raise MissingError(
            f"model.path {path}: no folder here, and not complete in the hub's cache {constants.HF_HUB_CACHE}; if it "
            f"is a model of the hub, get it with: openr1 model download {path}"
        ) from error
