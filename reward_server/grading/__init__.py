"""Whether an answer equals the known truth: find it, decide the plain cases exactly, leave the rest to a worker."""


class GoldUnparseable(ValueError):
    """The gold answer is no mathematical expression."""
