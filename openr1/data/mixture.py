"""Prompts of several datasets in proportion to weights, as one stream that can resume."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from openr1.data.prompts import PromptStream
from openr1.errors import ConfigError, DatasetExhausted
from openr1.types import Prompt


@dataclass(frozen=True)
class Part:
    """One dataset of a mixture: its name for messages, its prompts, and its weight relative to the others'."""

    name: str
    prompts: list[Prompt]
    weight: float


def with_distinct_ids(parts: Iterable[Part]) -> list[Part]:
    """The parts with ids that are unique over all of them: an id of an earlier part gets `#<number of the part>`.

    Raises:
        ConfigError: An id so made occurs, too.
    """
    seen: set[str] = set()
    distinct = []
    for number, part in enumerate(parts, 1):
        prompts = [replace(one, id=f"{one.id}#{number}") if one.id in seen else one for one in part.prompts]
        ids = [one.id for one in prompts]
        twice = next((name for name, count in Counter(ids).items() if count > 1 or name in seen), None)
        if twice is not None:
            raise ConfigError(f"{part.name}: duplicate id {twice!r}; ids must be unique in all of data.train")
        seen.update(ids)
        distinct.append(replace(part, prompts=prompts))
    return distinct


def check_labels(parts: Iterable[Part]) -> None:
    """Refuse a prompt that has one label in one part, and another one in a later part.

    Raises:
        ConfigError: There is one.
    """
    labels: dict[tuple[str, str], tuple[str, str]] = {}
    for part in parts:
        for one in part.prompts:
            label, first = labels.setdefault((one.text, one.task), (one.label, part.name))
            if label != one.label:
                raise ConfigError(f"{part.name}: prompt {one.id!r} is in {first}, too, with another label; remove one")


class MixedStream:
    """Endless stream over several datasets, each of which is shuffled by epochs of its own.

    Every prompt comes from the dataset that is farthest behind its share of all prompts so far (ties: the first), so
    the numbers taken differ from the shares by less than the number of datasets, at every step. A position is that of
    each dataset, and how many prompts it has given.
    """

    def __init__(self, parts: Sequence[tuple[Part, PromptStream]]) -> None:
        """Start where the streams stand; weights need not add up to 1."""
        self._names = [part.name for part, _ in parts]
        self._streams = [stream for _, stream in parts]
        whole = sum(part.weight for part, _ in parts)
        self._shares = [part.weight / whole for part, _ in parts]
        self._taken = [0] * len(parts)

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts, all distinct.

        Raises:
            DatasetExhausted: A dataset has fewer prompts than its share of `count`, without those that are skipped.
        """
        turns = self._turns(count)
        batches = {index: iter(self._take_of(index, number)) for index, number in Counter(turns).items()}
        for index in turns:
            self._taken[index] += 1
        return [next(batches[index]) for index in turns]

    def state(self) -> dict[str, int]:
        """The position: that of each dataset, under `<its number>.<name>`."""
        state: dict[str, int] = {}
        for index, stream in enumerate(self._streams):
            values = stream.state() | {"taken": self._taken[index]}
            state |= {f"{index + 1}.{name}": value for name, value in values.items()}
        return state

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a position returned by `state`, of the same datasets, weights and seed."""
        for index, stream in enumerate(self._streams):
            prefix = f"{index + 1}."
            values = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            self._taken[index] = values.pop("taken")
            stream.restore(values)

    def _turns(self, count: int) -> list[int]:
        """Which dataset gives each of the next prompts."""
        taken = list(self._taken)
        turns = []
        for total in range(sum(taken) + 1, sum(taken) + count + 1):
            behind = [share * total - number for share, number in zip(self._shares, taken, strict=True)]
            index = behind.index(max(behind))
            taken[index] += 1
            turns.append(index)
        return turns

    def _take_of(self, index: int, count: int) -> list[Prompt]:
        try:
            return self._streams[index].take(count)
        except DatasetExhausted as error:
            raise DatasetExhausted(f"{self._names[index]}: {error}") from error
