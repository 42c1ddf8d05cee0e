"""The record of a prediction job: a line of JSON for each image, appended and never changed.

What a line says is done: it is written after the image's files, and its beginning, the name, before them.
A process that is killed leaves at most such a torn last line, which says whose files may be there already; it
is cut off when the job is resumed.
"""

from __future__ import annotations

import heapq
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from dettoolkit.inference.whole_files import whole

if sys.platform != "win32":  # which has no such lock: there one must not start two processes on one file
    import fcntl

Record = dict[str, Any]


class Journal:
    """Append records to a file that only this process writes.

    Args:
        path: the file; made where there is none.
        batch_size: images that go through the network at once; a batch that has not all of its records has
            none any more, since an image's result depends in its last digits on how many are with it. None
            keeps them all.

    Attributes:
        done: names of the images that had a line when it was opened. They are all that is held in memory.
        unreadable: how many of those could not be read.
        unfinished: the images, or the video, that have no record or none any more and may have files.
    """

    def __init__(self, path: Path, *, batch_size: int | None) -> None:
        self.path = path
        self._noted = path.with_name(f".{path.stem}.unfinished")
        self.unfinished = set[str](json.loads(self._noted.read_text()) if self._noted.exists() else ())
        self._begun = ""  # of a line, what is written already
        self._file: BinaryIO = path.open("a+b")
        try:
            if sys.platform != "win32":
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.done, self.unreadable = self._recover(batch_size)
        except BlockingIOError:
            self._file.close()
            raise BlockingIOError(
                f"another process is writing {path}: wait for it, or give each process its own --shard"
            ) from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the file, and let others write it."""
        # A file that could not be written cannot be closed either: it tries once more.
        with suppress(*[] if error is None else [OSError]):
            self._file.close()

    def begin(self, name: str) -> None:
        """Begin the record of an image whose files are about to be written."""
        self._begun = json.dumps({"name": name})[:-1]
        self._append(self._begun)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record, whose first key is the name, and hand it to the operating system at once."""
        line = json.dumps(record, allow_nan=False)
        self._append(line.removeprefix(self._begun) + "\n")
        self._begun = ""

    def finish(self) -> None:
        """Delete the note of what was unfinished: everything has its record."""
        self._noted.unlink(missing_ok=True)

    def _append(self, text: str) -> None:
        self._file.write(text.encode())
        self._file.flush()

    def _recover(self, batch_size: int | None) -> tuple[set[str], int]:
        """Cut off a torn end, a batch without its end, and the last video: its file is made as a whole."""
        self._file.seek(0)
        position, end = 0, 0  # behind the last whole line, and behind what is kept
        done, pending = set[str](), list[Record]()  # pending: of the batch or the video that is not ended
        video, readable, ended, unreadable = None, 0, True, 0
        for number, line in enumerate(self._file, start=1):
            record = _parse(line)
            if record is None:
                if self._file.read(1):
                    raise ValueError(
                        f"{self.path}, line {number} is not a valid record; delete the line and resume: its "
                        "image is predicted again"
                    )
                self.unfinished |= _names_begun(line)
                break
            if ended or record.get("video") != video:  # see worker.predict_items
                done.update(each["name"] for each in pending)
                unreadable += sum("error" in each for each in pending)
                pending, readable, end, video = [], 0, position, record.get("video")
            pending.append({key: record[key] for key in ("name", "error") if key in record})
            readable += "error" not in record
            ended = video is None and (batch_size is None or readable in (0, batch_size))
            position += len(line)
        if ended:
            done.update(each["name"] for each in pending)
            unreadable += sum("error" in each for each in pending)
            end = position
        else:
            self.unfinished |= {each["name"] for each in pending} if video is None else {video}
        if self.unfinished and end < self._file.seek(0, 2):  # the next process may be stopped too
            with whole(self._noted) as part:
                part.write_text(json.dumps(sorted(self.unfinished)))
        self._file.truncate(end)
        return done, unreadable


def read_records(path: Path) -> Iterator[Record]:
    """Yield a journal's records; a torn last line is left out."""
    with path.open("rb") as file:
        for line in file:
            record = _parse(line)
            if record is not None:
                yield record
            elif file.read(1):
                raise ValueError(f"{path}: {line[:60]!r} is not a valid record; delete the line")


def merge_records(paths: Sequence[Path]) -> Iterator[Record]:
    """Yield the records of several journals in the order of their images' listing, without holding them."""
    return heapq.merge(*map(read_records, paths), key=_index)


def _index(record: Record) -> int:
    if type(index := record.get("index")) is not int:
        raise ValueError(f"the record of {record['name']!r:.200} has the index {index!r:.60}, not a number")
    return index


def _parse(line: bytes) -> Record | None:
    """Read a whole line; None for a torn one."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("name"), str) else None


def _names_begun(line: bytes) -> set[str]:
    """Read the name in a torn line, if there is one."""
    found = re.match(rb'\{"name": ("([^"\\]|\\.)*")', line)
    record = _parse(found[0] + b"}\n") if found else None
    return set() if record is None else {record["name"]}
