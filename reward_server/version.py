"""Versions of the packages that grading depends on."""

from importlib.metadata import PackageNotFoundError, version


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


VERSION = _version_of("openr1")


def parser_version() -> str:
    """Names and versions of the libraries that compare expressions."""
    return f"math-verify {_version_of('math-verify')}, sympy {_version_of('sympy')}"
