"""Download a model's files from the Hugging Face Hub or from ModelScope."""

import importlib.util
from pathlib import Path

from data.prepare.download import check_file, to_listing
from openr1.data.hub import MODEL_ID, UNWANTED, WANTED
from openr1.data.hub_queries import HUB_TIMEOUT_SECONDS, query_hub
from openr1.data.weight_files import check_weights
from openr1.errors import ConfigError, MissingError
from openr1.runtime.console import say


def download_from_hub(model_id: str, output: Path | None) -> None:
    """Fetch a model of the hub's main branch into the hub's cache, or into a folder, and check sizes and digests.

    Files that are there already are not fetched again.

    Raises:
        MissingError: The hub cannot be reached, or has no such model.
        ConfigError: This is no name of a model, it has no weights in safetensors files, or a file is not as stated.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    _check_id(model_id)
    advice = "set HF_ENDPOINT to a mirror, or copy the model's files here and give their folder as model.path"
    listing = query_hub(
        model_id,
        advice,
        lambda: to_listing(
            HfApi().model_info(model_id, revision="main", files_metadata=True, timeout=HUB_TIMEOUT_SECONDS)
        ),
    )
    files = list(filter_repo_objects(listing.files, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    if not any(file.endswith(".safetensors") for file in files):
        raise ConfigError(f"{model_id}: no weights in safetensors files at {listing.commit}; choose another model")
    total = sum(listing.files[file].size for file in files)
    say(f"{model_id} at {listing.commit}: {len(files)} files, {total / 2**30:.2f} GiB")
    # By the branch, not the commit: the cache then knows which snapshot the bare name means.
    folder = query_hub(
        model_id,
        advice,
        lambda: Path(
            snapshot_download(
                model_id,
                revision="main",
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
                local_dir=output,
                etag_timeout=HUB_TIMEOUT_SECONDS,
            )
        ),
    )
    for file in files:
        check_file(file, folder / file, listing.files[file])
    check_weights(folder)
    say(f"{folder}: complete; use it with --model.path {model_id if output is None else output}")


def download_from_modelscope(model_id: str, output: Path) -> None:
    """Fetch a model from ModelScope into a folder, by its own package, which checks digests.

    Raises:
        MissingError: The package is not installed, or the model cannot be fetched.
        ConfigError: This is no name of a model.
    """
    _check_id(model_id)
    if importlib.util.find_spec("modelscope") is None:
        raise MissingError("--source modelscope needs the package modelscope: pip install modelscope")
    from modelscope import snapshot_download
    from modelscope.hub.errors import HubError

    try:
        snapshot_download(
            model_id,
            local_dir=str(output),
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
        )
    except (HubError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise MissingError(f"{model_id} cannot be fetched from ModelScope ({reason}); try --source hf") from error
    check_weights(output)
    say(f"{output}: complete; use it with --model.path {output}")


def default_output(model_id: str) -> Path:
    """Where a model goes that does not go into the hub's cache."""
    return Path("models", model_id.rpartition("/")[2])


def _check_id(model_id: str) -> None:
    if not MODEL_ID.fullmatch(model_id):
        raise ConfigError(f"{model_id!r} is no name of a model; it has the form OWNER/NAME")
