"""What a model says about itself: all that is needed to run it and to read its outputs.

A checkpoint's is made from its recipe; an exported file carries its own. Plain data, so that it can be
written as JSON into any format's metadata. A stranger's file may say anything: `from_json` checks all values
against the types below, whose bounds keep what is made of them within memory. Imports nothing of ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import Meta

VERSION = 2  # of the layout below; a file of another one is refused
MAX_BYTES = 16 << 20  # of a manifest; one of ours has some thousand
MAX_SIDE = 16384  # of an input, and of an image that is resized to be cropped

Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
SizeHW = tuple[Side, Side]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]
Positive = Annotated[float, Meta(gt=0, le=1e6)]
Byte = Annotated[int, Meta(ge=0, le=255)]
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

INPUT = "images"  # name of an exported file's input


class ManifestError(ValueError):
    """A file that does not say what it is, or says it in a way that this version does not know."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """What every task's section has."""

    class_names: Annotated[tuple[str, ...], Meta(min_length=1)]  # by label
    class_ids: tuple[Integer, ...]  # by label, the data's own: category ids, or values in label files

    def __post_init__(self) -> None:
        if len(self.class_ids) != len(self.class_names):
            raise ManifestError(
                f"there are {len(self.class_names)} class names and {len(self.class_ids)} class ids"
            )

    @property
    def default_threshold(self) -> float | None:
        """Return the score from which results are shown by default; None where there are no scores."""
        return None

    @property
    def colors(self) -> tuple[tuple[Byte, Byte, Byte] | None, ...] | None:
        """Return red, green, blue of each class in figures; None, for one or all, chooses."""
        return None


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """What an exported file takes and gives, and how it was found to agree with PyTorch."""

    format: str  # onnx, openvino, executorch, litert or pt2
    outputs: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]  # their names, in order
    precision: Literal["float32", "int8"] = "float32"
    batch: Annotated[int, Meta(ge=1, le=1024)] | None = None  # images at once; None for any number
    preprocessing: bool = False
    """Whether resizing and normalizing are inside. Then the input is uint8 (N, H, W, 3), RGB, of any size;
    otherwise float32 (N, 3, h, w) of `Manifest.input_hw`, normalized."""
    postprocessing: bool = False  # gives the task's `final_outputs`, not the network's `raw_outputs`
    float_layers: tuple[str, ...] = ()  # of an int8 file, the layers that stayed float
    parity: dict[str, Any] = field(default_factory=dict)  # what the gate measured; empty before it has


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A model's description of itself."""

    name: str  # of the recipe
    mean: tuple[Number, Number, Number]  # RGB; the network's input is (image / 255 - mean) / std
    std: tuple[Positive, Positive, Positive]
    input_hw: SizeHW | None  # to which an image is fitted before it is normalized; None keeps its own
    fit: Literal["stretch", "crop"] = "stretch"
    """Stretch resizes the whole image to `input_hw` (bilinear, half-pixel centers, no antialias); crop
    resizes its shorter side to `short_side` (bilinear, half-pixel centers) and crops the center."""
    crop_fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0  # shorter side of `input_hw`, over `short_side`
    antialias: bool = False  # of crop: whether pixels are averaged where the image shrinks
    multiple: Annotated[int, Meta(ge=1, le=MAX_SIDE)] | None = None
    """Of images that keep their own size: sides are resized to the nearest multiple; None leaves them."""
    recipe: dict[str, Any]  # resolved
    versions: dict[str, str]  # of the libraries that made the model
    tasks: dict[str, Any]  # a section for each task, by its name
    export: ExportFacts | None = None  # of an exported file; None of a checkpoint

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ManifestError("it has no task section")
        if self.fit == "crop" and not max(self.input_hw or (MAX_SIDE + 1,)) <= self.short_side <= MAX_SIDE:
            raise ManifestError(
                f"images whose shorter side is {self.short_side} cannot be cropped to {self.input_hw}"
            )

    @property
    def short_side(self) -> int:
        """Return the size of an image's shorter side before its center is cropped."""
        return round(min(self.input_hw or (0,)) / self.crop_fraction)

    @property
    def task(self) -> str:
        """Return the name of the model's task; refuse several."""
        if len(self.tasks) > 1:
            raise ManifestError(f"the model has several tasks ({', '.join(self.tasks)}), but one is required")
        return next(iter(self.tasks))

    @property
    def section(self) -> Any:
        """Return the section of the model's one task: an object of its `TaskSpec.section`."""
        return self.tasks[self.task]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the class names of the model's one task, by label."""
        names: tuple[str, ...] = self.section.class_names
        return names

    @property
    def final(self) -> bool:
        """Return whether the outputs are final answers."""
        return self.export is not None and self.export.postprocessing

    @property
    def takes_images(self) -> bool:
        """Return whether the model takes uint8 images of any size: resizing and normalizing are inside."""
        return self.export is not None and self.export.preprocessing

    def with_section(self, section: Section) -> Self:
        """Return the manifest with another section for its one task."""
        return replace(self, tasks={self.task: section})

    def to_json(self) -> str:
        """Return it as JSON on one line."""
        return json.dumps({"manifest": VERSION, **asdict(self)}, allow_nan=False)


def portable(value: Any) -> Any:
    """Take the folders of this machine out of a recipe: of absolute paths the name stays."""
    if isinstance(value, Mapping):
        return {key: portable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [portable(each) for each in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def from_json(text: str | bytes, *, source: str, sections: Mapping[str, type[Section]]) -> Manifest:
    """Read a manifest back; `sections` are the types of the tasks' sections.

    A ManifestError, for what is not a manifest or of another version, names `source` and the wrong key.
    """
    remedy = "export it again"
    try:
        if len(text) > MAX_BYTES:
            raise ManifestError(f"it has {len(text)} bytes, but a manifest has at most {MAX_BYTES}")
        data = msgspec.json.decode(text)
        version = data.pop("manifest", None) if isinstance(data, dict) else None
        if type(version) is not int:
            raise ManifestError("it has no layout version, `manifest`")
        if version != VERSION:
            later = version > VERSION
            remedy = "update dettoolkit" if later else remedy
            age = "a later" if later else "an earlier"
            raise ManifestError(f"layout version {version} is from {age} version; this one reads {VERSION}")
        manifest = msgspec.convert(data, Manifest)
        if unknown := sorted(manifest.tasks.keys() - sections.keys()):
            raise ManifestError(f"there is no task '{unknown[0]}', only {', '.join(sections)}")
        tasks = {name: msgspec.convert(section, sections[name]) for name, section in manifest.tasks.items()}
        return replace(manifest, tasks=tasks)
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"{source} has no manifest that dettoolkit can read ({error}): {remedy}"
        ) from None


def nearest_hw(hw: SizeHW, multiple: int | None) -> SizeHW:
    """Return a size (h, w) of the nearest multiples, not 0, of two the larger; None: as it is."""
    step = multiple or 1
    height, width = (max((side + step // 2) // step, 1) * step for side in hw)
    return height, width
