"""What is wanted of an export, and what that makes of the model's manifest; nonsense is refused here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from dettoolkit.formats import DEFAULT, NAMES, facts, requires
from dettoolkit.hub import on_hub
from dettoolkit.manifest import ExportFacts, Manifest, Section, SizeHW, nearest_hw, portable
from dettoolkit.named_models import is_named
from dettoolkit.tasks import spec_for


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is wanted of an export; see `manifest.ExportFacts` for what the file then takes and gives.

    Attributes:
        format: its name in `formats.FORMATS`.
        precision: float32, or int8: quantized to 8 bits with images of the training set.
        batch: images that the file takes at once; None for any number.
        preprocessing: put resizing and normalizing inside.
        postprocessing: put everything up to final outputs inside.
        input_hw: size of the network's input; None takes the recipe's, or, where images keep their own size,
            that of the first image that the file is compared on.
        score_threshold: results have scores above it; None takes the task's default.
        images: folder, pattern or file of images to compare on; None takes the recipe's validation set.
        limit: most images to compare on, taken evenly from all.
        metric: also score both on the whole validation set and compare; None does so for int8, unless
            `images` are given.
        tolerances: by name, in place of the default ones.
    """

    format: str = DEFAULT
    precision: Literal["float32", "int8"] = "float32"
    batch: int | None = 1
    preprocessing: bool = False
    postprocessing: bool = False
    input_hw: SizeHW | None = None
    score_threshold: float | None = None
    images: Path | None = None
    limit: int = 32
    metric: bool | None = None
    tolerances: Mapping[str, float] = field(default_factory=dict)

    @property
    def scores(self) -> bool:
        """Return whether both models are scored on the validation set."""
        return self.metric if self.metric is not None else self.precision == "int8" and self.images is None


def default_out(source: Path, request: Request) -> Path:
    """Return where the file goes: beside the checkpoint, in the run's folder, or here if there is none."""
    suffix = "" if request.precision == "float32" else f"_{request.precision}"
    if is_named(source) or on_hub(source):
        return Path(f"{source.stem}{suffix}{NAMES[request.format].ending}")
    folder = source.parent if source.is_file() else source
    return folder / f"model{suffix}{NAMES[request.format].ending}"


def check(out: Path, request: Request) -> None:
    """Refuse what cannot become a file, before any work."""
    if request.format not in NAMES:
        raise ValueError(f"there is no format '{request.format}': choose from {', '.join(NAMES)}")
    kind = NAMES[request.format]
    if out.suffix.lower() != kind.ending:
        raise ValueError(f"files in format {kind.name} end in {kind.ending}, but --out is {out}")
    if request.precision == "int8" and not kind.int8:
        able = ", ".join(each.name for each in NAMES.values() if each.int8)
        raise ValueError(f"int8 is available only for {able}: omit --int8 for {kind.name}")
    if request.batch is not None and request.batch < 1:
        raise ValueError(f"the batch size must be at least 1, got {request.batch}")
    if request.limit < 1:
        raise ValueError(f"the comparison needs at least one image, got --limit {request.limit}")
    for path in (*kind.files_of(out), report_path(out)):
        if path.exists():
            raise FileExistsError(f"{path} already exists: remove it, or choose another file with --out")
    with requires(kind.name):
        for library in (*kind.libraries, *(kind.quantizers if request.precision == "int8" else ())):
            if find_spec(library) is None:
                raise ModuleNotFoundError(name=library)


def report_path(out: Path) -> Path:
    """Return where the report of an exported file is."""
    return out.with_name(f"{out.name}.report.json")


def manifest_for(described: Manifest, request: Request, *, first_hw: SizeHW) -> Manifest:
    """Return what the file of a checkpoint, so described, will take and give.

    ValueError for a size or threshold that it cannot have. A network that takes any size gets `first_hw`.
    """
    spec, input_hw = spec_for(described), described.input_hw
    if not spec.resizable and request.input_hw not in (None, input_hw):
        raise ValueError(
            f"this {spec.noun} has the input size {input_hw}, which export cannot change to "
            f"{request.input_hw}: train with another model.input_hw, or omit --size"
        )
    section = spec.export_section(
        described.section, score_threshold=request.score_threshold, final=request.postprocessing
    )
    return replace(
        described.with_section(section),
        recipe=portable(described.recipe),
        input_hw=request.input_hw or input_hw or nearest_hw(first_hw, described.multiple),
        export=ExportFacts(
            format=request.format,
            outputs=spec.final_outputs if request.postprocessing else spec.raw_outputs,
            precision=request.precision,
            batch=request.batch,
            preprocessing=request.preprocessing,
            postprocessing=request.postprocessing,
        ),
    )


def notes_on(described: Manifest, manifest: Manifest) -> tuple[str, ...]:
    """Return in which way the file differs from how the checkpoint is evaluated."""
    notes = []
    if described.input_hw != manifest.input_hw and manifest.input_hw is not None:
        height, width = manifest.input_hw
        notes.append(
            f"the file resizes every image to {height} x {width} (height x width), while the checkpoint "
            "keeps image sizes; PyTorch was compared at this size"
        )
    for name, ours, theirs in _changes(described.section, manifest.section):
        notes.append(f"{name} is {theirs}, in the checkpoint {ours}; both were compared with the former")
    if facts(manifest).precision == "int8":
        notes.append(
            "x86 processors without VNNI may saturate 8-bit sums: for such a processor, export on it"
        )
    return tuple(notes)


def _changes(before: Section, after: Section) -> Iterator[tuple[str, Any, Any]]:
    """Yield name and both values of what differs between two sections, in the sections inside them too."""
    for name in (each.name for each in fields(after)):
        ours, theirs = getattr(before, name), getattr(after, name)
        if isinstance(ours, Section):
            yield from _changes(ours, theirs)
        elif ours != theirs:
            yield name, ours, theirs


def with_facts(manifest: Manifest, **changes: Any) -> Manifest:
    """Change some of what an exported file's manifest says of it."""
    return replace(manifest, export=replace(facts(manifest), **changes))
