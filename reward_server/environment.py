"""What processes that run untrusted input, or code of the user, get of the server's environment."""

import os

HARMLESS = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
"""The only environment variables that they get: there are no keys and tokens among these."""


def harmless_environment() -> dict[str, str]:
    """This process's environment, without everything that may be secret."""
    return {name: os.environ[name] for name in HARMLESS if name in os.environ}
