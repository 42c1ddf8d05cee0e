"""Detection recipe to a run: data, network, task."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config.detection import DetectionData
from dettoolkit.config.recipe import DetectionRecipe
from dettoolkit.datasets.augment import build_transform
from dettoolkit.datasets.coco import BadImages, CocoAnnotations, CocoDetection, check_root, collate
from dettoolkit.datasets.labels import GAP, match_names
from dettoolkit.datasets.scenes.folder import check_scenes, write_scenes
from dettoolkit.detection.build import decoding_of
from dettoolkit.detection.figures import draw_predictions
from dettoolkit.detection.result import DetectionResult
from dettoolkit.detection.spec import DetectionSpec
from dettoolkit.detection.task import DetectionTask
from dettoolkit.drawing.boxes import Picture
from dettoolkit.drawing.detection_grids import batch_figure
from dettoolkit.evaluation.arrays import DetectionArrays, GroundTruthArrays
from dettoolkit.network import Network
from dettoolkit.run import Batch, Classes, ImageFile, Run, Split
from dettoolkit.weights.description import warn_of_other_classes
from dettoolkit.weights.load import load_pretrained

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class DetectionRun(Run):
    """A detector's run; see Run.

    Attributes:
        scored_classes: those of the network, with the category ids of the validation file.
    """

    recipe: DetectionRecipe
    train: CocoDetection
    val: CocoDetection
    task: DetectionTask
    scored_classes: Classes

    @property
    def monitor(self) -> str | None:
        """Return the name of the score that says which checkpoint is best; None when there are no objects."""
        return None if np.all(self.val.annotations.iscrowd) else self.task.monitor

    def image_files(self) -> list[ImageFile]:
        """Return the image files of the validation set, in its order."""
        return image_files(self.val.annotations, self.val.max_megapixels)

    def prediction_of(self, result: DetectionResult, row: int) -> DetectionArrays:
        """Return what `task.score` takes, of the result on image `row` of the validation set."""
        boxes = result.boxes_xyxy.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return DetectionArrays(
            image_ids=np.full(len(boxes), int(self.val.annotations.image_ids[row]), np.int64),
            category_ids=np.asarray(self.task.category_ids, np.int64)[result.labels],
            boxes_xywh=boxes,
            scores=result.scores.astype(np.float64),
        )

    def network_lines(self) -> list[str]:
        """Describe the network in lines, with the figures that Table 6 prints."""
        model, network = self.recipe.model, self.task.network
        height, width = model.input_hw
        return [
            f"{model.type} on {model.backbone.type}, {len(self.classes.names)} classes, "
            f"{len(self.task.anchors_xyxy)} default boxes at {height}x{width}",
            f"{count_parameters(network, norm_affine=False) / 1e6:.2f}M parameters without BN "
            f"({count_parameters(network, norm_affine=True) / 1e6:.2f}M with), "
            f"{count_madds(network, (height, width)) / 1e9:.2f}B multiply-adds",
        ]

    def batch_lines(self, batch: Batch, outputs: Any) -> list[str]:
        """Describe a batch's targets and the network's outputs."""
        shapes = ", ".join(
            f"{name.replace('_', ' ')} {tuple(output.shape)}"
            for name, output in zip(self.task.raw_outputs, outputs, strict=True)
        )
        boxes = int((batch["box_labels"] >= 0).sum())
        return [f"batch     images {tuple(batch['images'].shape)}, {boxes} boxes", f"outputs   {shapes}"]

    def batch_figure(self, batch: Batch) -> Picture:
        """Draw the ground truth of a batch that is on the CPU: uint8 (H, W, 3)."""
        return batch_figure(batch, self.classes.names)

    def write_predictions(self, predictions: Sequence[Any], out: Path) -> None:
        """Write the detections in COCO's results format, and figures."""
        detections = DetectionArrays.concatenate(predictions)
        (out / "predictions.json").write_text(json.dumps(detections.to_results()))
        draw_predictions(
            self.val,
            detections,
            out / "figures",
            truth=self.task.ground_truth,
            classes=self.scored_classes,
            count=self.recipe.evaluation.figures,
            threshold=self.recipe.evaluation.threshold,
        )


def image_files(annotations: CocoAnnotations, max_megapixels: float) -> list[ImageFile]:
    """Return the image files that annotations name."""
    return [
        ImageFile(annotations.image_path(row), (int(height), int(width)), max_megapixels)
        for row, (height, width) in enumerate(annotations.image_hw)
    ]


def training_run(
    spec: DetectionSpec, name: str, recipe: DetectionRecipe, *, pretrained: bool
) -> DetectionRun:
    """Load the data and build the detector of a training."""
    prepare_data(recipe.data, generate=True)
    train, val = (load_annotations(recipe.data, split) for split in ("train", "val"))
    classes = classes_of(train)
    scored = match_classes(classes, val, whose=str(train.path))
    network = _build_network(spec, recipe, classes, pretrained=pretrained)
    return _assemble(spec, name, recipe, network, classes=classes, scored=scored, train=train, val=val)


def evaluation_run(
    spec: DetectionSpec, name: str, recipe: DetectionRecipe, *, own: Classes | None, what: str
) -> DetectionRun:
    """Load the validation data and build the detector that is scored; see TaskSpec.evaluation_run."""
    prepare_data(recipe.data, ["val"])
    val = load_annotations(recipe.data, "val")
    classes = own or classes_of(val)
    scored = match_classes(classes, val, whose=what)
    network = _build_network(spec, recipe, classes, pretrained=own is None, exact=True)
    return _assemble(spec, name, recipe, network, classes=classes, scored=scored, train=None, val=val)


def _build_network(
    spec: DetectionSpec, recipe: DetectionRecipe, classes: Classes, *, pretrained: bool, exact: bool = False
) -> Network:
    network = spec.build_network(recipe, num_classes=len(classes.names))
    if pretrained:
        if recipe.model.weights is not None:
            warn_of_other_classes(recipe.model.weights, classes.names)
        hint = "data.label_map=ids gives the 91 class slots of TensorFlow and torchvision"
        theirs = spec.builder(recipe).torchvision_model
        load_pretrained(network, recipe.model, torchvision_model=theirs, exact=hint if exact else None)
    return network


def _assemble(
    spec: DetectionSpec,
    name: str,
    recipe: DetectionRecipe,
    network: Network,
    *,
    classes: Classes,
    scored: Classes,
    train: CocoAnnotations | None,
    val: CocoAnnotations,
) -> DetectionRun:
    val_set = build_dataset(recipe, val, split="val")
    truth = ground_truth_of(val)
    return DetectionRun(
        name=name,
        recipe=recipe,
        classes=classes,
        scored_classes=scored,
        task=build_task(spec, recipe, network, category_ids=scored.ids, ground_truth=truth),
        train=val_set if train is None else build_dataset(recipe, train, split="train"),
        val=val_set,
        scored_on=val.path,
        problems={"train": (train or val).problems, "val": val.problems},
        bad_images=BadImages(recipe.data.max_bad_images),
        collate=collate,
    )


def prepare_data(
    data: DetectionData, splits: Sequence[Split] = ("train", "val"), *, generate: bool = False
) -> None:
    """Check that the splits are there; with `generate`, make the scenes that the recipe asks for.

    Only a training generates: elsewhere a wrong data.root would be filled with other data than was meant.

    Raises:
        FileNotFoundError: nothing usable at data.root; the message says where to get data.
    """
    if data.type == "scenes":
        (write_scenes if generate else check_scenes)(Path(data.root), **data.scenes.model_dump())
    else:
        sections = [data.train if split == "train" else data.val for split in splits]
        expected = [path for section in sections for path in (section.images, section.annotations)]
        check_root(Path(data.root), expected=list(dict.fromkeys(expected)))


def load_annotations(data: DetectionData, split: Split) -> CocoAnnotations:
    """Read a split's annotations and report what is wrong with them."""
    section = data.train if split == "train" else data.val
    root = Path(data.root)
    annotations = CocoAnnotations.load(
        root / section.annotations, images=root / section.images, label_map=data.label_map
    )
    if annotations.problems.counts:
        logger.warning("%s", annotations.problems.summary())
    return annotations


def classes_of(annotations: CocoAnnotations) -> Classes:
    """Return the classes that a run on these annotations has."""
    return Classes(list(annotations.class_names), [int(each) for each in annotations.category_ids])


def match_classes(classes: Classes, annotations: CocoAnnotations, *, whose: str) -> Classes:
    """Find a model's classes, by name, in a file to score it on; ids are the file's.

    Raises:
        ValueError: the file has not the model's classes.
    """
    ids = dict(zip(annotations.class_names, annotations.category_ids, strict=True))
    ids.pop(GAP, None)  # slots of the id map that no category has
    wanted = [name for name in classes.names if name != GAP]
    remedy = "Score it on a file with its own classes"
    match_names(wanted, list(ids), whose=whose, path=annotations.path, remedy=remedy)
    unused = min([0, *ids.values()]) - 1  # an id that no category has
    return Classes(classes.names, [int(ids.get(name, unused)) for name in classes.names])


def build_dataset(recipe: DetectionRecipe, annotations: CocoAnnotations, *, split: Split) -> CocoDetection:
    """Build a split's data set; only training augments and may drop images without boxes."""
    data = recipe.data
    transform = build_transform(
        augment=data.augment if split == "train" else "none", input_hw=recipe.model.input_hw
    )
    return CocoDetection(
        annotations=annotations,
        transform=transform,
        on_bad_image=data.on_bad_image,
        max_bad_images=data.max_bad_images,
        max_megapixels=data.max_megapixels,
        drop_empty=data.drop_empty and split == "train",
        seed=recipe.trainer.seed,
    )


def ground_truth_of(annotations: CocoAnnotations) -> GroundTruthArrays:
    """Return the ground truth as evaluation takes it: boxes as in the file, ids the file's."""
    named = sorted(
        (id_, name)
        for id_, name in zip(annotations.category_ids, annotations.class_names, strict=True)
        if name != GAP
    )
    image_ids, category_ids = np.sort(annotations.image_ids), np.array([id_ for id_, _ in named], np.int64)
    own_ids = np.asarray(annotations.category_ids, np.int64)[annotations.labels]
    return GroundTruthArrays(
        image_ids=image_ids,
        category_ids=category_ids,
        names=[name for _, name in named],
        images=np.searchsorted(image_ids, annotations.image_ids[annotations.rows]),
        categories=np.searchsorted(category_ids, own_ids),
        boxes_xywh=annotations.boxes_xywh,
        areas=annotations.areas,
        crowds=annotations.iscrowd,
    )


def build_task(
    spec: DetectionSpec,
    recipe: DetectionRecipe,
    network: Network,
    *,
    category_ids: Sequence[int],
    ground_truth: GroundTruthArrays,
) -> DetectionTask:
    """Compose network, losses, post-processing and evaluation."""
    builder = spec.builder(recipe)
    return DetectionTask(
        network=network,
        raw_outputs=spec.raw_outputs,
        assign=builder.assigner(recipe.model),
        losses_of=builder.losses(recipe.model),
        decoding=decoding_of(recipe, builder),
        mean=recipe.data.mean,
        std=recipe.data.std,
        input_hw=recipe.model.input_hw,
        category_ids=category_ids,
        ground_truth=ground_truth,
    )
