"""The samples of an evaluation. Each group is written as soon as it is graded, so that evaluations can resume."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from openr1.runtime.files import to_line, write_objects


@dataclass(frozen=True)
class Sample:
    """One graded response. `index` numbers the responses of a problem from 0."""

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
    """The samples of one benchmark, as a JSON Lines file of complete groups."""

    def __init__(self, path: Path, n_samples_per_prompt: int) -> None:
        """Use the file at `path`, which need not exist yet."""
        self._path = path
        self._n_samples_per_prompt = n_samples_per_prompt

    def complete(self) -> dict[str, list[Sample]]:
        """Read the groups that have all their samples, by problem id."""
        groups: dict[str, list[Sample]] = {}
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").split("\n")
            # Text after the last line break is a row that was being written when the process was killed.
            for line in lines[:-1]:
                sample = Sample(**json.loads(line))
                groups.setdefault(sample.id, []).append(sample)
        return {name: group for name, group in groups.items() if len(group) == self._n_samples_per_prompt}

    def forget_incomplete(self) -> None:
        """Remove incomplete groups and rows left by a crash, so that samples can be appended."""
        write_objects(self._path, [asdict(sample) for group in self.complete().values() for sample in group])

    def add(self, group: list[Sample]) -> None:
        """Append the samples of a problem."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(to_line(asdict(sample)) for sample in group))
