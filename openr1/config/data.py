"""Where rows come from: files and datasets of the hub, their weights, and the names of their columns."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from openr1.config.sections import Section

ColumnName = Literal["id", "prompt", "messages", "label", "task", "response", "chosen", "rejected", "prefix", "meta"]
Columns = dict[ColumnName, Annotated[str, Field(min_length=1)]]
"""Names in the file by openr1's names. Columns inside of others are written with dots: `reward_model.ground_truth`."""


class SourceConfig(Section):
    """One of several datasets that a run trains on."""

    path: Path
    """File, or dataset of the hub."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of the prompts, relative to the other weights."""
    columns: Columns | None = None
    """As data.columns, for this dataset; null: those."""
    task: str | None = None
    """As data.task, for this dataset; null: that."""


def _kind_of_sources(value: object) -> str:
    return "list" if isinstance(value, list | tuple) else "path"


Sources = Annotated[
    Annotated[Path, Tag("path")] | Annotated[list[SourceConfig], Field(min_length=1), Tag("list")],
    Discriminator(_kind_of_sources),
]
"""One dataset, or several with weights."""
