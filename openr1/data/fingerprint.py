"""Fingerprints of datasets: whether a run that is resumed has the rows that it began with."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from openr1.data.columns import RowSchema
from openr1.data.rows import read_rows


@dataclass(frozen=True)
class Fingerprint:
    """Number of rows, and a hash of all that openr1 reads of them, in their order."""

    rows: int
    sha256: str


def fingerprint(path: Path, schema: RowSchema) -> Fingerprint:
    """The fingerprint of a dataset.

    It does not depend on the file's format, on columns that are not read, or on chat template and tokenizer. Raises as
    `read_rows`.
    """
    digest = hashlib.sha256()
    rows = 0
    for _, row in read_rows(path, schema):
        rows += 1
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return Fingerprint(rows, digest.hexdigest())
