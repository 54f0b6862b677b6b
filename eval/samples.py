"""Every sample of an evaluation, on disk as soon as its group is graded; what a stopped evaluation goes on from."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


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

    def __init__(self, path: Path) -> None:
        """Open a file that exists, or will."""
        self._path = path

    def read(self, n_samples_per_prompt: int) -> dict[str, list[Sample]]:
        """Groups that are complete, by problem; what a crash left of another group is forgotten, on disk as well."""
        groups: dict[str, list[Sample]] = {}
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").split("\n")
            # The text after the last line break was being written when the process ended.
            for line in lines[:-1]:
                sample = Sample(**json.loads(line))
                groups.setdefault(sample.id, []).append(sample)
        complete = {name: group for name, group in groups.items() if len(group) == n_samples_per_prompt}
        aside = self._path.with_suffix(".tmp")
        aside.write_text("".join(_to_lines(group) for group in complete.values()), encoding="utf-8")
        aside.replace(self._path)
        return complete

    def add(self, group: list[Sample]) -> None:
        """Append a problem's samples."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_to_lines(group))


def _to_lines(group: list[Sample]) -> str:
    return "".join(json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in group)
