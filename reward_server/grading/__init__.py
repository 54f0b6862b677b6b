"""Decides whether an answer equals the ground truth: extraction, exact comparison, and symbolic comparison."""


class GoldUnparseable(ValueError):
    """The gold answer cannot be parsed as a mathematical expression."""
