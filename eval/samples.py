"""Every sample of an evaluation, on disk as soon as its group is graded; what a stopped evaluation goes on from."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from openr1.runtime.files import to_line, write_objects


@dataclass(frozen=True)
class Sample:
    """One graded response. `index` counts the responses of a problem from 0."""

    id: str
    index: int
    prompt: str
    label: str
    response: str
    num_tokens: int
    truncated: bool
    extracted: str | None
    verdict: str
    score: float | None
    error: str | None


class SampleFile:
    """The samples of one benchmark: JSON lines, whole groups only."""

    def __init__(self, path: Path, n_samples_per_prompt: int) -> None:
        """Name a file that exists, or will."""
        self._path = path
        self._n_samples_per_prompt = n_samples_per_prompt

    def complete(self) -> dict[str, list[Sample]]:
        """Groups that have all their samples, by problem."""
        groups: dict[str, list[Sample]] = {}
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").split("\n")
            # The text after the last line break was being written when the process ended.
            for line in lines[:-1]:
                sample = Sample(**json.loads(line))
                groups.setdefault(sample.id, []).append(sample)
        return {name: group for name, group in groups.items() if len(group) == self._n_samples_per_prompt}

    def forget_incomplete(self) -> None:
        """Drop what a crash left of other groups, so that the file may be added to."""
        write_objects(self._path, [asdict(sample) for group in self.complete().values() for sample in group])

    def add(self, group: list[Sample]) -> None:
        """Append a problem's samples."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(to_line(asdict(sample)) for sample in group))
