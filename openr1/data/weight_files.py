"""The files of weights of a model folder: whether they are all there and fit config.json, and their fingerprint.

Only headers and small parts of the files are read, without torch.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from openr1.errors import ConfigError, MissingError
from openr1.runtime.files import as_object, parse_json

NO_CONFIG = "model.path {}: no config.json there; give a folder in Hugging Face format"
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of weights by name."""

BLOCK_BYTES, BLOCKS = 4096, 256
"""What a fingerprint reads of each file: this many blocks, spread evenly."""
INDEX = "model.safetensors.index.json"
LAYER = re.compile(r"model\.layers\.(\d+)\.")


def check_weights(path: Path) -> None:
    """Check that the folder has whole files of weights, every one that their index names, of the size in config.json.

    Raises:
        MissingError: A file is missing or was cut off.
        ConfigError: The index or config.json is none, or config.json is that of another model.
    """
    config = path / "config.json"
    if not config.is_file():
        raise MissingError(NO_CONFIG.format(path))
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(path):
        shapes |= _read_shapes(file)
    if shapes:
        _check_shapes(path, _read_config(config), shapes)


def _weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder; none if its weights are in files that only PyTorch reads."""
    index = path / INDEX
    if not index.is_file():
        found = sorted(path.glob("*.safetensors"))
        if not found and not any(path.glob("*.bin")):
            raise MissingError(f"model.path {path}: no weights there (*.safetensors); finish the download")
        return found
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index}: not an index of weights; get the file again") from error
    missing = sorted(name for name in names if not (path / name).is_file())
    if missing:
        raise MissingError(
            f"model.path {path}: {len(missing)} of {len(names)} files of weights are missing, such as {missing[0]}; "
            "finish the download"
        )
    return sorted(path / name for name in names)


def _read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """From the file's header, which also tells how long the file must be."""
    try:
        with safe_open(file, framework="np") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise MissingError(f"{file}: damaged or cut off ({error}); get the file again") from error


def _read_config(file: Path) -> dict[str, Any]:
    """The file config.json of a model."""
    try:
        return as_object(parse_json(file.read_bytes()), str(file))
    except ValueError as error:
        raise ConfigError(f"{file} cannot be used: not JSON: {error}") from error


def _check_shapes(path: Path, config: Mapping[str, Any], shapes: Shapes) -> None:
    """Compare embedding and number of layers with config.json, where both have them under their usual names."""
    expected = config.get("vocab_size"), config.get("hidden_size")
    for name, shape in shapes.items():
        if name.endswith("embed_tokens.weight") and None not in expected and shape != expected:
            raise ConfigError(
                f"model.path {path}: {name} has the shape {list(shape)}, but config.json says {list(expected)} "
                "(vocab_size, hidden_size); weights and config.json are of different models"
            )
    layers = {int(found[1]) for name in shapes if (found := LAYER.match(name))}
    wanted = config.get("num_hidden_layers")
    # More are no mistake: config.json may leave out the last ones, as those that predict further tokens.
    if layers and isinstance(wanted, int) and len(layers) < wanted:
        raise ConfigError(
            f"model.path {path}: weights of {len(layers)} layers, but config.json says {wanted} (num_hidden_layers); "
            "weights and config.json are of different models, or a file is missing"
        )


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
