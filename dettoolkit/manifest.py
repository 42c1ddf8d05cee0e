"""What a model says about itself: all that is needed to run it and to read its answers.

A checkpoint's is made from its recipe; an exported file carries its own. Plain data, so that it can be
written as JSON into any format's metadata. A file of others may say anything: `from_json` checks all values
against the types below, whose bounds keep what is made of them within memory. Imports nothing of ours.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import Meta

VERSION = 1
"""Of the layout below; a reader refuses a file of a later one."""
LARGEST = 16 << 20
"""Bytes of a manifest at most; one of ours has some thousand."""
MAX_BOXES = 4_000_000
"""Default boxes at most, 64 MB; an input of 8192 x 8192 has 2 million."""

SizeHW = tuple[Annotated[int, Meta(ge=1, le=16384)], Annotated[int, Meta(ge=1, le=16384)]]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]
Positive = Annotated[float, Meta(gt=0, le=1e6)]
Byte = Annotated[int, Meta(ge=0, le=255)]
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

INPUT = "images"
"""Name of an exported file's input."""
RAW = {"detection": ("class_logits", "box_deltas"), "segmentation": ("logits",)}
"""Names of a network's outputs, in their order."""
FINAL = {"detection": ("boxes_xyxy", "scores", "labels", "counts"), "segmentation": ("labels",)}
"""Names of the outputs of a file with post-processing inside; see ExportFacts."""


def name_raw(outputs: Any) -> list[tuple[str, Any]]:
    """Pair the raw outputs of a network, one or a tuple, with their names."""
    several = outputs if isinstance(outputs, tuple) else (outputs,)
    return list(zip(RAW["detection" if len(several) > 1 else "segmentation"], several, strict=True))


class ManifestError(ValueError):
    """A file that does not say what it is, or says it in a way that this version does not know."""


class Anchors(TypedDict):
    """Arguments of `detection.anchors.default_boxes`, without the input's size."""

    grids_hw: Annotated[tuple[SizeHW, ...], Meta(min_length=1, max_length=32)]
    min_scale: Fraction
    max_scale: Fraction
    aspect_ratios: Annotated[tuple[Positive, ...], Meta(max_length=32)]
    reduce_first_level: bool
    clip: bool


@dataclass(frozen=True, kw_only=True)
class DetectionSection:
    """How a detector's raw outputs become boxes.

    Attributes:
        activation: what turns logits into scores.
        score_threshold: a detection's score is above it.
        nms_iou: of two boxes of a class that overlap by more, the weaker goes.
        candidates_per_class: best boxes of a class that enter NMS.
        max_detections: most detections of an image.
        threshold: score from which a detection is shown to people, unless they say otherwise.
        anchors: how its default boxes are laid out.
    """

    activation: Literal["sigmoid", "softmax"]
    score_threshold: Fraction
    nms_iou: Fraction
    candidates_per_class: Count
    max_detections: Count
    threshold: Fraction
    anchors: Anchors

    def __post_init__(self) -> None:
        cells = sum(rows * columns for rows, columns in self.anchors["grids_hw"])
        boxes = cells * (2 + 2 * len(self.anchors["aspect_ratios"]))
        if boxes > MAX_BOXES:
            raise ManifestError(f"anchors make {boxes} default boxes, where {MAX_BOXES} are the most")


@dataclass(frozen=True, kw_only=True)
class SegmentationSection:
    """How a segmenter is run and its logits become label maps; see `segmentation.inference.InferenceOptions`.

    Attributes:
        colors: red, green, blue of each class, or None where one is to be chosen.
    """

    align_corners: bool
    mode: Literal["whole", "slide"] = "whole"
    window_hw: SizeHW = (769, 769)
    stride_hw: SizeHW = (513, 513)
    scales: Annotated[tuple[Annotated[float, Meta(gt=0, le=16)], ...], Meta(min_length=1, max_length=32)] = (
        1.0,
    )
    flip: bool = False
    colors: tuple[tuple[Byte, Byte, Byte] | None, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """What an exported file takes and gives, and how it was found to agree with PyTorch.

    Attributes:
        format: onnx, openvino, executorch, litert or pt2.
        precision: float32 or int8.
        batch: images that the file takes at once; None for any number.
        preprocessing: whether resizing and normalizing are inside. Then the input is uint8 (N, H, W, 3),
            RGB, of any size; otherwise float32 (N, 3, h, w) of `Manifest.input_hw`, normalized.
        postprocessing: whether the file gives final answers. Detection: boxes_xyxy float32 (N, D, 4) in
            pixels of what was put in, scores float32 (N, D), labels int64 (N, D) with -1 for padding, counts
            int64 (N,). Segmentation: labels uint8 (N, H, W) of the size of what was put in. Otherwise the raw
            outputs: class_logits and box_deltas, or logits.
        float_layers: of an int8 file, the layers that stayed float.
        parity: what the gate measured; empty before it has.
    """

    format: str
    precision: Literal["float32", "int8"] = "float32"
    batch: Annotated[int, Meta(ge=1, le=1024)] | None = None
    preprocessing: bool = False
    postprocessing: bool = False
    float_layers: tuple[str, ...] = ()
    parity: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A model's description of itself.

    Attributes:
        name: of the recipe.
        class_names: by label.
        class_ids: by label, the data's own: category ids, or values in label files.
        mean: of red, green and blue in [0, 1]; the network's input is (image / 255 - mean) / std.
        std: likewise.
        input_hw: size to which an image is resized (bilinear, half-pixel centers, no antialias) before it is
            normalized; None keeps its own, which only a segmenter can.
        recipe: the resolved recipe.
        versions: of the libraries that made the model.
        detection: of a detector; None of a segmenter.
        segmentation: of a segmenter; None of a detector.
        export: of an exported file; None of a checkpoint.
    """

    name: str
    class_names: Annotated[tuple[str, ...], Meta(min_length=1)]
    class_ids: tuple[Integer, ...]
    mean: tuple[Number, Number, Number]
    std: tuple[Positive, Positive, Positive]
    input_hw: SizeHW | None
    recipe: dict[str, Any]
    versions: dict[str, str]
    detection: DetectionSection | None = None
    segmentation: SegmentationSection | None = None
    export: ExportFacts | None = None

    def __post_init__(self) -> None:
        if (self.detection is None) == (self.segmentation is None):
            raise ManifestError(
                "a manifest describes either a detector or a segmenter: give one of the two sections"
            )
        if self.detection is not None and self.input_hw is None:
            raise ManifestError("a detector needs input_hw, the size that its default boxes belong to")
        names, colors = len(self.class_names), self.segmentation.colors if self.segmentation else None
        if len(self.class_ids) != names:
            raise ManifestError(f"there are {names} class names and {len(self.class_ids)} class ids")
        if colors is not None and len(colors) != names:
            raise ManifestError(f"there are {names} class names and {len(colors)} colors")

    @property
    def task(self) -> Literal["detection", "segmentation"]:
        """Return what the model does."""
        return "detection" if self.detection is not None else "segmentation"

    def to_json(self) -> str:
        """Write it as JSON on one line."""
        return json.dumps({"manifest": VERSION, **asdict(self)}, allow_nan=False)


def from_json(text: str | bytes, *, source: str) -> Manifest:
    """Read a manifest back.

    Raises:
        ManifestError: not a manifest, or of a later version; the message names `source` and the wrong key.
    """
    try:
        if len(text) > LARGEST:
            raise ManifestError(f"it has {len(text)} bytes, where a manifest has at most {LARGEST}")
        data = msgspec.json.decode(text)
        version = data.pop("manifest", None) if isinstance(data, dict) else None
        if type(version) is not int:
            raise ManifestError("it has no number of its layout, `manifest`")
        if version > VERSION:
            raise ManifestError(
                f"it was written by a later dettoolkit, in layout {version}: update dettoolkit"
            )
        return msgspec.convert(data, Manifest)
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"{source} holds no description that dettoolkit can read ({error}): export it again"
        ) from None
