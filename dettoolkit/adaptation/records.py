"""What an adaptation has done, line by line, so that one that was killed goes on where it was.

A line is on the disk before the next thing begins. A process that is killed leaves at most a torn last line,
which is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]
FILE = "journal.jsonl"


class Journal:
    """Records of an adaptation's folder, in their order; `kind` says what one is of.

    start: the network that is adapted. proposals: those of a step. trial: the score of one. step: which was
    taken. check: a whole network, measured. final: the long fine-tune.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.records = list(self._recover())

    def add(self, kind: str, **values: Any) -> Record:
        """Append a record and wait until it is on the disk."""
        record = {"kind": kind, **values}
        with self.path.open("ab") as file:
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)
        return record

    def find(self, kind: str, **values: Any) -> Record | None:
        """Return the first record of a kind with these values, if there is one."""
        return next(self.each(kind, **values), None)

    def each(self, kind: str, **values: Any) -> Iterator[Record]:
        """Yield the records of a kind with these values."""
        wanted = {"kind": kind, **values}
        yield from (each for each in self.records if wanted.items() <= each.items())

    def _recover(self) -> Iterator[Record]:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            os.truncate(self.path, len(content) - len(torn))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
                raise ValueError(
                    f"{self.path}, line {number} is not a record: the file was changed. Remove this line and "
                    "all below it to go on from there"
                )
            yield record
