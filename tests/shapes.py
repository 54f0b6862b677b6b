"""Checks of tensor shapes and dtypes at run time, for the modules of `openr1.algorithms` that declare them.

`tests/conftest.py` calls `check_shapes` before anything imports these modules. Processes that tests start do not check.
"""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

SHAPED = ("advantages", "aggregation", "gae", "kl", "losses", "off_policy", "shaping", "token_ops")
"""Modules of `openr1.algorithms` with shapes in their signatures."""

# As for mypy, an int is a float.
checker = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check_shapes() -> None:
    """Check every call of the modules' functions from now on; they must not have been imported."""
    install_import_hook([f"openr1.algorithms.{name}" for name in SHAPED], "tests.shapes.checker")
