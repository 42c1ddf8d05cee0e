"""A prediction job: its folder, its shards, and how it is resumed after a stop.

<folder>/
  job.json           what is predicted, by what, and what is written
  results.jsonl      a line for each image; results-2-of-8.jsonl of a shard
  summary.json       when all are done; summary-2-of-8.json of a shard
  figures/ masks/ crops/
  results.csv coco.json coco_images.json results.parquet
  coco_classes.json coco_classes_images.json  of a task that finds classes beside objects
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

from dettoolkit.datasets.images import MAX_MEGAPIXELS
from dettoolkit.formats import FORMATS
from dettoolkit.inference.jobs.sources import Item, Sources, open_found
from dettoolkit.inference.jobs.table_files import import_arrow
from dettoolkit.inference.jobs.video import count_frames
from dettoolkit.spec import TaskSpec
from dettoolkit.tasks import spec_named

FILE = "job.json"
PART = f".{FILE}."
KINDS = ("figures", "json", "csv", "parquet")
"""What can be saved of every task; a task's `saves` are added. json is results.jsonl, always written."""
TABLES = {"coco": "coco.json", "csv": "results.csv", "parquet": "results.parquet"}


@dataclass(frozen=True)
class Shard:
    """Share `number`, from 1, of `of`."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"shard {self.number}/{self.of}: expected i/n with i from 1 to n, such as 1/8")

    def has(self, name: str) -> bool:
        """Return whether an image is in it: by its name, so whatever is added to the folder or taken away."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.number - 1

    def file(self, stem: str, ending: str) -> str:
        """Name its own file."""
        return f"{stem}{ending}" if self.of == 1 else f"{stem}-{self.number}-of-{self.of}{ending}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that decides a job's results."""

    model: str  # the file, for people; `fingerprint` says whether it is the same
    weights: str | None = None  # file of a named model's weights; None where it has its own
    fingerprint: str
    task: str
    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    sources: tuple[str, ...]  # as `Sources` takes them; local ones absolute
    save: tuple[str, ...]  # of KINDS and the task's own
    threshold: float | None  # lowest score of what is kept; None of a task without scores
    classes: tuple[str, ...] | None  # names of those that are kept; None keeps all
    every: int  # of a video, the first of so many frames
    limit: int | None  # images, and frames of each video, at most
    max_megapixels: float = MAX_MEGAPIXELS  # a larger image cannot be read; jobs of older versions do not say
    annotations: str | None  # COCO file that has the images' ids
    shards: int  # into how many it is divided

    def __post_init__(self) -> None:
        for kind in self.save:
            if kind not in self.kinds:
                raise ValueError(f"cannot save '{kind}' for {self.task}: choose from {', '.join(self.kinds)}")
        objects = self.spec.selectable(self.class_names)
        for name in self.classes or ():
            if name not in self.class_names:
                raise ValueError(f"no class '{name}': the model has {', '.join(self.class_names)}")
            if name not in objects:
                raise ValueError(f"no objects are of class '{name}': choose from {', '.join(objects)}")
        if self.classes is not None and self.threshold is None:
            raise ValueError(f"{self.task} does not support --classes: omit it")
        if "parquet" in self.save:
            import_arrow()

    @property
    def spec(self) -> TaskSpec:
        """Return the model's task."""
        return spec_named(self.task)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return what can be saved."""
        return *KINDS, *self.spec.saves

    def items(self, found: Sources, shard: Shard, taken: set[str]) -> Iterator[tuple[int, Item]]:
        """Yield what is to be predicted, with its place in the listing; names are added to `taken`."""
        for index, each in enumerate(islice(found, self.limit)):
            done = each.name in taken or f"{each.name}/{0:06d}" in taken
            if done or not shard.has(each.name):
                continue
            taken.add(each.name)
            opened = open_found(each, every=self.every, max_megapixels=self.max_megapixels)
            yield from ((index, item) for item in islice(opened, self.limit))

    def count(self, found: Sources, shard: Shard, ended: Event) -> int | None:
        """Count images and frames, done or not, as the videos' headers say; None once `ended` is set."""
        total = 0
        for each in islice(found, self.limit):
            if ended.is_set():
                return None
            if shard.has(each.name):
                frames = 1
                if each.kind == "video" and isinstance(each.where, Path):
                    frames = count_frames(each.where, every=self.every)
                total += frames if self.limit is None else min(frames, self.limit)
        return total


def fingerprint(model: Path) -> str:
    """Return the SHA-256 of a model's file, and of the weights beside it where a format has two files."""
    digest, format_ = hashlib.sha256(), FORMATS.get(model.suffix.lower())
    for path in [model] if format_ is None else format_.files_of(model):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_job(folder: Path) -> Job | None:
    """Read the job of a folder; None where there is none."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
        return Job(**{**data, **lists})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a prediction job of this version: {error}") from None


def enter_folder(folder: Path, job: Job, shard: Shard, *, resume: bool) -> bool:
    """Make a job's folder, or find that it is this job's; return whether this shard is resumed."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = os.listdir(folder)
    # The job is looked for last: another shard that begins at this moment writes it before all else.
    if not all(name.startswith(PART) for name in listed) and not (folder / FILE).exists():
        raise FileExistsError(f"{folder} contains files that belong to no prediction job: use a new folder")
    _write_once(folder / FILE, json.dumps(asdict(job), indent=2, ensure_ascii=False) + "\n")
    for name in listed:
        if name.startswith(PART):  # of a process that was killed, or of one that now finds the job there
            (folder / name).unlink(missing_ok=True)
    other = read_job(folder)
    if other is not None and other != job:
        mine, theirs = asdict(job), asdict(other)
        changed = [key for key in mine if mine[key] != theirs[key] and key != "model"]
        if changed and not resume:
            raise FileExistsError(
                f"{folder} already contains a job with different {', '.join(changed)}: use a new folder"
            )
        if changed:
            raise ValueError(
                f"{folder} contains a different job: "
                + "; ".join(f"{key} is {mine[key]!r:.60} here, {theirs[key]!r:.60} there" for key in changed)
                + ". Use a new folder, or the same model, images and options"
            )
    begun = (folder / shard.file("results", ".jsonl")).exists()
    if begun and not resume:
        raise FileExistsError(
            f"{folder} already has results: resume it with --resume {folder}, or use a new folder"
        )
    return begun


def _write_once(path: Path, text: str) -> None:
    """Write a file whole, unless it is there: of several processes that begin at once the first does it."""
    if path.exists():
        return
    part = path.with_name(f"{PART}{uuid4().hex}.part")
    try:
        # A source whose path is not UTF-8 has lone surrogates, each of which becomes JSON's own escape.
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        try:
            os.link(part, path)
        except OSError:  # another was first, or a file system without links, such as a mounted bucket
            if not path.exists():
                os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
