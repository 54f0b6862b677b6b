"""Questions to the Hugging Face Hub, and what to say when it does not answer."""

import os
from collections.abc import Callable
from typing import TypeVar

from openr1.errors import MissingError

T = TypeVar("T")

HUB_TIMEOUT_SECONDS = 15.0
"""Timeout of metadata requests to the hub; file downloads use the hub client's own timeout."""


def query_hub(repository: str, advice: str, query: Callable[[], T]) -> T:
    """Run a hub query and turn its errors into one-line messages.

    Raises:
        MissingError: The hub cannot be reached, sends an invalid response, or does not have what was requested.
    """
    import httpx2
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, XetDownloadError

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        return query()
    except RevisionNotFoundError as error:
        raise MissingError(f"{repository} has no such revision at {endpoint}; {advice}") from error
    except GatedRepoError as error:
        raise MissingError(
            f"{repository} is a gated repository at {endpoint}: accept its terms there and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise MissingError(f"{repository} does not exist at {endpoint} or is private; {advice}") from error
    except (httpx2.HTTPError, OSError, ValueError, KeyError, XetDownloadError) as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise MissingError(f"{repository} cannot be read at {endpoint} ({reason}); {advice}") from error
