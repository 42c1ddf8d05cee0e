"""What is wanted of an export, and what that makes of the model's manifest; nonsense is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from dettoolkit.export.publish import report_path
from dettoolkit.formats import FORMATS, missing
from dettoolkit.manifest import DetectionSection, ExportFacts, Manifest, SizeHW

ENDINGS = {name: ending for ending, name in FORMATS.items()}

# What the formats need besides PyTorch; the extra has the format's name.
LIBRARIES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "executorch": ("executorch",),
    "litert": ("litert_torch", "ai_edge_litert"),
    "pt2": (),
}

INT8_FORMATS = ("onnx",)

INSIDE_SCORE_THRESHOLD = 0.05
"""Of detections of a file that gives final boxes, unless said otherwise: they are meant to be shown."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is wanted of an export; see `manifest.ExportFacts` for what the file then takes and gives.

    Attributes:
        format: onnx, openvino, executorch, litert or pt2.
        precision: float32, or int8: quantized to 8 bits with images of the training set.
        batch: images that the file takes at once; None for any number.
        preprocessing: put resizing and normalizing inside.
        postprocessing: put everything up to final boxes or label maps inside.
        input_hw: size of the network's input; None takes the recipe's, or, of a segmenter that keeps its
            images' size, that of the first image it is tried on.
        score_threshold: a detection's score is above it; None takes the recipe's, with `postprocessing`
            INSIDE_SCORE_THRESHOLD.
        images: folder, pattern or file of images to try the file on; None takes the recipe's validation set.
        limit: images to try, at most, taken evenly from all.
        metric: also score both on the whole validation set and compare; None does so for int8, unless
            `images` are given.
        tolerances: by name, in the place of `gate`'s own.
    """

    format: str = "onnx"
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
    """Return where the file goes: beside the checkpoint, or in the run's folder."""
    suffix = "" if request.precision == "float32" else f"_{request.precision}"
    folder = source.parent if source.is_file() else source
    return folder / f"model{suffix}{ENDINGS[request.format]}"


def check(out: Path, request: Request) -> None:
    """Refuse what cannot become a file, before any work."""
    if request.format not in ENDINGS:
        raise ValueError(f"there is no format '{request.format}': choose among {', '.join(ENDINGS)}")
    ending = ENDINGS[request.format]
    if out.suffix.lower() != ending:
        raise ValueError(f"a file of the format {request.format} ends in {ending}, but it is to be {out}")
    if request.precision == "int8" and request.format not in INT8_FORMATS:
        raise ValueError(
            f"int8 is made for {', '.join(INT8_FORMATS)} only: leave it out for {request.format}"
        )
    if request.batch is not None and request.batch < 1:
        raise ValueError(f"a file takes at least one image at once, not {request.batch}")
    if request.limit < 1:
        raise ValueError(f"a file is tried on at least one image, not {request.limit}: raise --limit")
    for path in (out, report_path(out), out.with_suffix(".bin") if request.format == "openvino" else out):
        if path.exists():
            raise FileExistsError(f"{path} exists already: remove it, or name another file by --out")
    for library in LIBRARIES[request.format]:
        if find_spec(library) is None:
            raise missing(request.format, ModuleNotFoundError(name=library))


def manifest_for(described: Manifest, request: Request, *, first_hw: SizeHW) -> Manifest:
    """Return what the file will take and give.

    Args:
        described: the checkpoint's manifest.
        request: what is wanted.
        first_hw: size of the first image, for a segmenter that takes any.

    Raises:
        ValueError: a size or threshold that the model cannot have.
    """
    detection, input_hw = described.detection, described.input_hw
    if detection is not None:
        if request.input_hw not in (None, input_hw):
            raise ValueError(
                f"this detector's default boxes belong to an input of {input_hw}, so its size cannot become "
                f"{request.input_hw} by exporting: train with model.input_hw, or leave --size out"
            )
        detection = _thresholded(detection, request)
    elif request.score_threshold is not None:
        raise ValueError("a segmenter has no scores: leave --score-threshold out")
    return replace(
        described,
        recipe=_portable(described.recipe),
        input_hw=request.input_hw or input_hw or first_hw,
        detection=detection,
        export=ExportFacts(
            format=request.format,
            precision=request.precision,
            batch=request.batch,
            preprocessing=request.preprocessing,
            postprocessing=request.postprocessing,
        ),
    )


def _portable(value: Any) -> Any:
    """Take the folders of the machine that exports out of a recipe: of absolute paths the name stays."""
    if isinstance(value, Mapping):
        return {key: _portable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(each) for each in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _thresholded(facts: DetectionSection, request: Request) -> DetectionSection:
    least = request.score_threshold
    if least is None:
        least = max(facts.score_threshold, INSIDE_SCORE_THRESHOLD if request.postprocessing else 0.0)
    if not 0 <= least < 1:
        raise ValueError(f"a score threshold must be at least 0 and below 1, got {least}")
    return replace(facts, score_threshold=least, threshold=max(facts.threshold, least))


def notes_on(described: Manifest, manifest: Manifest) -> tuple[str, ...]:
    """Return in which way the file differs from how the checkpoint is evaluated."""
    notes = []
    if described.input_hw != manifest.input_hw and manifest.input_hw is not None:
        height, width = manifest.input_hw
        notes.append(
            f"every image is resized to {height} x {width} (height x width), where the checkpoint keeps an "
            "image's own size; PyTorch was compared at this size too"
        )
    before, after = described.detection, manifest.detection
    if before is not None and after is not None and before.score_threshold != after.score_threshold:
        notes.append(
            f"detections have scores above {after.score_threshold:g}, in PyTorch above "
            f"{before.score_threshold:g}; both were compared at the former"
        )
    if manifest.export is not None and manifest.export.precision == "int8":
        notes.append(
            "x86 processors without VNNI may cut 8-bit sums off: for use on such a one, export on it"
        )
    return tuple(notes)


def with_facts(manifest: Manifest, **changes: Any) -> Manifest:
    """Change some of what an exported file's manifest says of it."""
    if manifest.export is None:
        raise ValueError("only an exported file's manifest has these facts")
    return replace(manifest, export=replace(manifest.export, **changes))
