"""What a model says about itself: all that is needed to run it and to read its answers.

A checkpoint's is made from its recipe; an exported file carries its own. Plain data, so that it can be
written as JSON into any format's metadata. Imports nothing of ours.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

VERSION = 1
"""Of the layout below; a reader refuses a file of a later one."""

SizeHW = tuple[int, int]

INPUT = "images"
"""Name of an exported file's input."""
RAW = {"detection": ("class_logits", "box_deltas"), "segmentation": ("logits",)}
"""Names of a network's outputs, in their order."""
FINAL = {"detection": ("boxes_xyxy", "scores", "labels", "counts"), "segmentation": ("labels",)}
"""Names of the outputs of a file with post-processing inside; see ExportFacts."""


class ManifestError(ValueError):
    """A file that does not say what it is, or says it in a way that this version does not know."""


@dataclass(frozen=True, kw_only=True)
class DetectionFacts:
    """How a detector's raw outputs become boxes.

    Attributes:
        activation: what turns logits into scores.
        score_threshold: a detection's score is above it.
        nms_iou: of two boxes of a class that overlap by more, the weaker goes.
        candidates_per_class: best boxes of a class that enter NMS.
        max_detections: most detections of an image.
        shown_threshold: score from which a detection is shown to people, unless they say otherwise.
        anchors: arguments of `detection.anchors.default_boxes`, without the input's size.
    """

    activation: Literal["sigmoid", "softmax"]
    score_threshold: float
    nms_iou: float
    candidates_per_class: int
    max_detections: int
    shown_threshold: float
    anchors: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SegmentationFacts:
    """How a segmenter is run and its logits become label maps; see `segmentation.inference.InferenceOptions`.

    Attributes:
        colors: red, green, blue of each class, or None where one is to be chosen.
    """

    align_corners: bool
    mode: Literal["whole", "slide"] = "whole"
    window_hw: SizeHW = (769, 769)
    stride_hw: SizeHW = (513, 513)
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    colors: tuple[tuple[int, int, int] | None, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """What an exported file takes and gives, and how it was found to agree with PyTorch.

    Attributes:
        format: onnx, openvino, executorch, litert or pt2.
        precision: float32 or int8.
        batch: images that the file takes at once; None for any number.
        preprocessing: whether resizing and normalising are inside. Then the input is uint8 (N, H, W, 3),
            RGB, of any size; otherwise float32 (N, 3, h, w) of `Manifest.input_hw`, normalised.
        postprocessing: whether the file gives final answers. Detection: boxes_xyxy float32 (N, D, 4) in
            pixels of what was put in, scores float32 (N, D), labels int64 (N, D) with -1 for padding, counts
            int64 (N,). Segmentation: labels uint8 (N, H, W) of the size of what was put in. Otherwise the raw
            outputs: class_logits and box_deltas, or logits.
        float_layers: of an int8 file, the layers that stayed float.
        parity: what the gate measured; empty before it has.
    """

    format: str
    precision: Literal["float32", "int8"] = "float32"
    batch: int | None = None
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
        input_hw: size to which an image is resized (bilinear, half-pixel centres, no antialias) before it is
            normalised; None keeps its own, which only a segmenter can.
        recipe: the resolved recipe.
        versions: of the libraries that made the model.
        detection: of a detector; None of a segmenter.
        segmentation: of a segmenter; None of a detector.
        export: of an exported file; None of a checkpoint.
    """

    name: str
    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_hw: SizeHW | None
    recipe: dict[str, Any]
    versions: dict[str, str]
    detection: DetectionFacts | None = None
    segmentation: SegmentationFacts | None = None
    export: ExportFacts | None = None

    def __post_init__(self) -> None:
        if (self.detection is None) == (self.segmentation is None):
            raise ManifestError(
                "a manifest describes either a detector or a segmenter: give one of the two sections"
            )

    @property
    def task(self) -> Literal["detection", "segmentation"]:
        """Say what the model does."""
        return "detection" if self.detection is not None else "segmentation"

    def to_json(self) -> str:
        """Write it as JSON on one line."""
        return json.dumps({"manifest": VERSION, **asdict(self)}, allow_nan=False)


def from_json(text: str, *, source: str) -> Manifest:
    """Read a manifest back.

    Raises:
        ManifestError: not a manifest, or of a later version; the message names `source`.
    """
    try:
        data = json.loads(text)
        version = data.pop("manifest")
        if version > VERSION:
            raise ManifestError(
                f"{source} was exported by a later dettoolkit (manifest {version}, this one reads up to "
                f"{VERSION}): update dettoolkit"
            )
        sections = {"detection": DetectionFacts, "segmentation": SegmentationFacts, "export": ExportFacts}
        for name, section in sections.items():
            data[name] = section(**_tuples(data[name])) if data[name] is not None else None
        return Manifest(**_tuples(data))
    except ManifestError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(
            f"{source} holds no description that dettoolkit can read ({error}): export it again"
        ) from None


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    """Turn the lists that JSON made of tuples back, below plain dicts excepted."""

    def back(value: Any) -> Any:
        return tuple(back(each) for each in value) if isinstance(value, list) else value

    return {key: back(value) for key, value in data.items()}
