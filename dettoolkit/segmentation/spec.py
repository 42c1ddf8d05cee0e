"""What the task segmentation gives to every command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from dettoolkit.config import SegmentationRecipe
from dettoolkit.manifest import Byte, Manifest, ManifestError, Section, SizeHW
from dettoolkit.spec import ErrorKind, TaskSpec, late

CITYSCAPES_HW = (512, 1024)  # half size, as in the last column of Table 7
Scale = Annotated[float, Meta(gt=0, le=16)]


@dataclass(frozen=True, kw_only=True)
class SegmentationSection(Section):
    """How a segmenter is run and its logits become label maps."""

    align_corners: bool  # how logits are upsampled; see torch's interpolate
    mode: Literal["whole", "slide"] = "whole"
    """Whole: the image at once. Slide: overlapping windows, whose logits are averaged where they overlap, as
    in mmsegmentation."""
    window_hw: SizeHW | None = None  # an image that is smaller is padded with 0, its mean color
    stride_hw: SizeHW | None = None  # steps between windows; the last ones end where the image does
    scales: Annotated[tuple[Scale, ...], Meta(min_length=1, max_length=32)] = (1.0,)
    """Factors of the image's size. Where there are several, or `flip`, softmax probabilities are averaged, as
    in TensorFlow's DeepLab."""
    flip: bool = False  # at each scale, predict on the mirrored image too
    colors: tuple[tuple[Byte, Byte, Byte] | None, ...] | None = None  # see Section

    def __post_init__(self) -> None:
        super().__post_init__()
        names = len(self.class_names)
        if self.colors is not None and len(self.colors) != names:
            raise ManifestError(f"there are {names} class names and {len(self.colors)} colors")
        if self.mode == "slide":
            window, stride = self.window_hw or (0, 0), self.stride_hw or (0, 0)
            if not all(0 < step <= side for step, side in zip(stride, window, strict=True)):
                raise ManifestError(
                    f"stride_hw must be at least 1 and at most window_hw {self.window_hw}, got "
                    f"{self.stride_hw}: pixels between the windows would get no class; two thirds of the "
                    "window are usual"
                )


class SegmentationSpec(TaskSpec):
    """Segmentation: the class of each pixel."""

    name = "segmentation"
    title = "Semantic segmentation"
    noun = "segmenter"
    pipeline_tag = "image-segmentation"
    recipe = SegmentationRecipe
    section = SegmentationSection
    raw_outputs = ("logits",)
    final_outputs = ("labels",)
    errors: ClassVar[Mapping[str, ErrorKind]] = {
        "pixels": ErrorKind(
            meaning="the fraction of differing pixels is",
            max={"exact": 0.001, "resized": 0.01, "quantized": 0.05},
        ),
        "worst_class": ErrorKind(
            meaning="1 - IoU of the class with the lowest agreement is",
            max={"exact": 0.01, "resized": 0.1, "quantized": 0.5},
        ),
    }
    saves = ("masks", "coco")
    default_saves = ("figures", "masks")
    csv_columns = ("class", "class_id", "pixels", "fraction")
    record_key = "classes"
    arrow_columns: ClassVar[Mapping[str, tuple[str, str]]] = {
        "class_names": ("name", "string"),
        "class_ids": ("class_id", "int64"),
        "pixels": ("pixels", "int64"),
        "rle": ("rle", "string"),
    }

    build_network = late(".build")
    training_run = late(".run")
    evaluation_run = late(".run")
    training_images = late(".run")
    distiller = late(".distill")
    describe = late(".build")
    decoder = late(".decode")
    compare = late(".result")
    final_module = late(".decode", "FinalLabels")
    onnx_answers = late(".onnx")
    torchvision_model = late(".build")
    examine = late(".doctor")
    suspects = late(".suspects")
    report = late(".report_page", "SegmentationReport")

    def input_hw(self, recipe: SegmentationRecipe) -> SizeHW | None:
        """Return the size to which images are resized; None keeps their own."""
        return recipe.data.eval_hw

    def fitting(self, recipe: SegmentationRecipe) -> dict[str, Any]:
        """Return what the sides of images that keep their own size are multiples of."""
        return {"multiple": recipe.data.eval_multiple}

    def teacher_hw(self, manifest: Manifest) -> None:
        """Return None: training crops images at their own size, whatever size is scored."""

    def coco_entry(self, entry: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mask of a class that occurs as COCO's stuff results have it."""
        coded = {"size": [record["height"], record["width"]], "counts": entry["rle"]}
        return {"category_id": entry["class_id"], "segmentation": coded}

    def check_export(self, manifest: Manifest) -> None:
        """Refuse sliding windows and scales; with post-processing inside, mirroring too."""
        section: SegmentationSection = manifest.section
        if section.mode != "whole" or section.scales != (1.0,):
            raise ValueError(
                "an exported file processes whole images at one scale, but this model is evaluated with mode "
                f"'{section.mode}' and scales {list(section.scales)}: add evaluation.mode=whole "
                "evaluation.scales=[1.0]"
            )
        if section.flip and manifest.final:
            raise ValueError(
                "post-processing inside a file does not support evaluation.flip: add evaluation.flip=false "
                "or omit --postprocessing"
            )

    def zoo_size(self, recipe: SegmentationRecipe) -> tuple[int, SizeHW]:
        """Return the number of classes of the data that a recipe names, and the size of one image.

        Of images in other folders nothing but the crops' size is known.
        """
        from dettoolkit.datasets.cityscapes_labels import CLASSES

        data = recipe.data
        classes = len(CLASSES if data.classes is None else data.classes)
        own = {"scenes": data.scenes.image_hw, "cityscapes": CITYSCAPES_HW, "folders": data.crop_hw}
        return classes, data.eval_hw or own[data.type]
