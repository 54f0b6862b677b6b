"""The files of weights of a model folder: whether they are all there, and a fingerprint of what is in them."""

import hashlib
import json
from pathlib import Path

from openr1.errors import ConfigError, MissingError

BLOCK_BYTES, BLOCKS = 4096, 256
"""What a fingerprint reads of each file: this many blocks, spread evenly."""
INDEX = "model.safetensors.index.json"


def check_weights(path: Path) -> None:
    """Check that the folder has weights, and every file that their index names.

    Raises:
        MissingError: It has not.
    """
    index = path / INDEX
    if index.is_file():
        try:
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"{index}: not an index of weights; get the file again") from error
        missing = sorted(file for file in files if not (path / file).is_file())
        if missing:
            raise MissingError(
                f"model.path {path}: {len(missing)} of {len(files)} files of weights are missing, such as "
                f"{missing[0]}; finish the download"
            )
    elif not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        raise MissingError(f"model.path {path}: no weights there (*.safetensors); finish the download")


def fingerprint_weights(path: Path) -> str:
    """A short hash of config.json and of parts of every file of weights, spread over all of it.

    Training changes nearly all weights, so that parts will do; reading files of many GB would take minutes. It depends
    neither on the folder nor on when its files were written.
    """
    digest = hashlib.sha256((path / "config.json").read_bytes())
    for file in sorted([*path.glob("*.safetensors"), *path.glob("*.bin")]):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            for block in range(BLOCKS):
                opened.seek(block * max(size - BLOCK_BYTES, 0) // (BLOCKS - 1))
                digest.update(opened.read(BLOCK_BYTES))
    return digest.hexdigest()[:16]
