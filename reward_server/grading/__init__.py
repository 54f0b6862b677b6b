"""Decides whether an answer equals the ground truth: extraction, exact comparison, and symbolic comparison."""

from dataclasses import dataclass


class GoldUnparseable(ValueError):
    """The gold answer cannot be parsed as a mathematical expression."""


@dataclass(frozen=True)
class Unread:
    """An answer that has a letter, word or sign without a place in any reading, so that it equals no gold.

    `reason` says which, in words for a reader of the result.
    """

    reason: str


Outcome = bool | Unread
"""Of a comparison: whether answer and gold are equal, or that the answer cannot be read."""
