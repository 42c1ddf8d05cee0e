"""Detection recipe to a run: data, network, task."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config.detection import DetectionData, Preset, StrongAugment
from dettoolkit.config.recipe import DetectionRecipe
from dettoolkit.datasets.augment import DetectionTransform
from dettoolkit.datasets.coco import CocoDetection, collate
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.labels import GAP, match_names
from dettoolkit.datasets.samples import Partners
from dettoolkit.datasets.strong_augment import StrongTransform
from dettoolkit.detection.build import build_network
from dettoolkit.detection.detectors import decoding_of, detector_of
from dettoolkit.detection.postprocess import Detections
from dettoolkit.detection.result import DetectionResult
from dettoolkit.detection.splits import load_annotations, load_splits, prepare_data
from dettoolkit.detection.task import DetectionTask, detection_arrays
from dettoolkit.drawing.boxes import Picture
from dettoolkit.drawing.detection_grids import ComparisonItem, batch_figure, comparison_figure
from dettoolkit.drawing.grids import save_pages
from dettoolkit.evaluation.arrays import DetectionArrays, GroundTruthArrays
from dettoolkit.evaluation.worst import worst_images
from dettoolkit.network import Network
from dettoolkit.run import Batch, Classes, ImageFile, Run, Split, spread

logger = logging.getLogger(__name__)

PER_FIGURE = 8  # images of a comparison, so that it still fits a screen


@dataclass(kw_only=True)
class DetectionRun(Run):
    """A detector's run; see Run."""

    recipe: DetectionRecipe
    train: CocoDetection
    val: CocoDetection
    task: DetectionTask

    @property
    def monitor(self) -> str | None:
        """Return the name of the score that says which checkpoint is best; None when there are no objects."""
        return None if np.all(self.val.annotations.iscrowd) else self.task.monitor

    def image_files(self) -> list[ImageFile]:
        """Return the image files of the validation set, in its order."""
        return list_images(self.val.annotations, self.recipe.data)

    def prediction_of(self, result: DetectionResult, row: int) -> DetectionArrays:
        """Return what `task.score` takes, of the result on image `row` of the validation set."""
        columns = (result.boxes_xyxy, result.scores, result.labels, np.int64(len(result)))
        found = Detections(*(torch.as_tensor(column)[None] for column in columns))
        image_id = torch.as_tensor(self.val.annotations.image_ids[row])[None]
        return detection_arrays(found, image_id, self.task.category_ids)

    def network_lines(self) -> list[str]:
        """Describe the network in lines, with the figures that Table 6 prints."""
        model, network = self.recipe.model, self.task.network
        height, width = model.input_hw
        return [
            f"{model.type} on {model.backbone.title}, {len(self.classes.names)} classes, "
            f"{len(self.task.anchors_xyxy)} default boxes at {height}x{width}",
            f"{count_parameters(network, norm_affine=False) / 1e6:.2f}M parameters without BN "
            f"({count_parameters(network, norm_affine=True) / 1e6:.2f}M with), "
            f"{count_madds(network, (height, width)) / 1e9:.2f}B multiply-adds",
        ]

    def describe_targets(self, batch: Batch) -> str:
        """Count a batch's boxes."""
        return f"{int((batch['box_labels'] >= 0).sum())} boxes"

    def batch_figure(self, batch: Batch) -> Picture:
        """Draw the ground truth of a batch that is on the CPU: uint8 (H, W, 3)."""
        return batch_figure(batch, self.classes.names)

    def write_predictions(self, predictions: Sequence[Any], out: Path) -> None:
        """Write COCO's results format, and figures of images spread over the set and of the worst ones."""
        detections = DetectionArrays.concatenate(predictions)
        (out / "predictions.json").write_text(json.dumps(detections.to_results()))
        count, threshold = self.recipe.evaluation.figures, self.recipe.evaluation.threshold
        ids = self.val.annotations.image_ids
        if count == 0 or not len(ids):
            return

        def draw(images: list[int]) -> Picture | None:
            items = [self.comparison(detections, image, threshold=threshold) for image in images]
            readable = [item for item in items if item is not None]
            return comparison_figure(readable, self.classes.names) if readable else None

        worst = worst_images(self.task.ground_truth, detections, score_threshold=threshold, count=count)
        for name, images in (
            ("predictions", spread(ids, count).tolist()),
            ("worst", [image for image, _ in worst]),
        ):
            save_pages(out / "figures", name, images, per_page=PER_FIGURE, draw=draw)

    def comparison(
        self, detections: DetectionArrays, image_id: int, *, threshold: float
    ) -> ComparisonItem | None:
        """Return an image with its objects and what was detected; None where it cannot be read."""
        annotations = self.val.annotations
        row = int(np.flatnonzero(annotations.image_ids == image_id)[0])
        path = annotations.image_path(row)
        try:
            image = read_image(path, max_megapixels=self.val.max_megapixels)
        except BadImageError:  # recorded already when it was to be scored
            return None
        mine = slice(*annotations.offsets[row : row + 2])
        shown = (detections.image_ids == image_id) & (detections.scores >= threshold)
        label_of = {category: label for label, category in enumerate(self.task.category_ids)}
        true_ids = np.asarray(annotations.category_ids)[annotations.labels[mine]]
        found_ids = detections.category_ids[shown]
        return ComparisonItem(
            image=image,
            title=path.name,
            boxes_xyxy=_corners(annotations.boxes_xywh[mine]),
            labels=np.array([label_of.get(int(each), -1) for each in true_ids], np.int64),
            crowds=annotations.iscrowd[mine],
            predicted_boxes_xyxy=_corners(detections.boxes_xywh[shown]),
            predicted_labels=np.array([label_of[int(each)] for each in found_ids], np.int64),
            predicted_scores=detections.scores[shown],
        )


def _corners(boxes_xywh: np.ndarray) -> np.ndarray:
    return np.hstack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]])


def list_images(annotations: CocoAnnotations, data: DetectionData) -> list[ImageFile]:
    """List the image files that annotations name, in their order."""
    return [
        ImageFile(annotations.image_path(row), (int(height), int(width)), data.max_megapixels)
        for row, (height, width) in enumerate(annotations.image_hw)
    ]


def training_images(recipe: DetectionRecipe) -> list[ImageFile]:
    """Return the training images that a recipe names."""
    prepare_data(recipe.data, ["train"])
    return list_images(load_annotations(recipe.data, "train"), recipe.data)


def training_run(name: str, recipe: DetectionRecipe, *, pretrained: bool) -> DetectionRun:
    """Load the data and build the detector of a training."""
    prepare_data(recipe.data, ["train", "val"], generate=True)
    train, val = load_splits(recipe.data)
    whose = str(train.path)
    return _assemble(name, recipe, classes_of(train), whose, train=train, val=val, pretrained=pretrained)


def evaluation_run(name: str, recipe: DetectionRecipe, *, own: Classes | None, what: str) -> DetectionRun:
    """Load the validation data and build the detector that is scored; see TaskSpec.evaluation_run."""
    prepare_data(recipe.data, ["val"])
    val = load_annotations(recipe.data, "val", classes=own.names if own else ())
    return _assemble(name, recipe, own or classes_of(val), what, train=None, val=val, pretrained=own is None)


def _assemble(
    name: str,
    recipe: DetectionRecipe,
    classes: Classes,
    whose: str,
    *,
    train: CocoAnnotations | None,
    val: CocoAnnotations,
    pretrained: bool,
) -> DetectionRun:
    category_ids = match_classes(classes, val, whose=whose)
    network = build_network(
        recipe, num_classes=len(classes.names), pretrained=pretrained, exact=train is None
    )
    truth, val_set = ground_truth_of(val), build_dataset(recipe, val, split="val")
    return DetectionRun(
        name=name,
        recipe=recipe,
        classes=classes,
        task=build_task(recipe, network, category_ids=category_ids, ground_truth=truth),
        train=val_set if train is None else build_dataset(recipe, train, split="train"),
        val=val_set,
        scored_on=val.path,
        problems={"train": (train or val).problems, "val": val.problems},
        collate=collate,
    )


def classes_of(annotations: CocoAnnotations) -> Classes:
    """Return the classes that a run on these annotations has."""
    return Classes(list(annotations.class_names), [int(each) for each in annotations.category_ids])


def match_classes(classes: Classes, annotations: CocoAnnotations, *, whose: str) -> list[int]:
    """Find a model's classes, by name, in a file to score it on, and return the file's ids of them."""
    ids = dict(zip(annotations.class_names, annotations.category_ids, strict=True))
    ids.pop(GAP, None)  # slots of the id map that no category has
    wanted = [name for name in classes.names if name != GAP]
    remedy = "Evaluate it on a file with its own classes"
    match_names(wanted, list(ids), whose=whose, path=annotations.path, remedy=remedy)
    unused = min([0, *ids.values()]) - 1  # an id that no category has
    return [int(ids.get(name, unused)) for name in classes.names]


def augmentation(
    augment: Preset | StrongAugment, input_hw: tuple[int, int]
) -> tuple[DetectionTransform | StrongTransform, Partners | None]:
    """Build what makes a sample of an image, and what says which images it is mixed with."""
    if not isinstance(augment, StrongAugment):  # nor "strong", which the recipe has made a section
        return DetectionTransform(augment=augment, input_hw=input_hw), None  # type: ignore[arg-type]
    mosaic = augment.mosaic
    partners = Partners(count=3, probability=mosaic.probability, off_epochs=mosaic.off_epochs)
    settings = {name: value for name, value in augment if name != "type"}
    return StrongTransform(input_hw=input_hw, **settings), partners


def build_dataset(
    recipe: DetectionRecipe,
    annotations: CocoAnnotations,
    *,
    split: Split,
    kind: Callable[..., CocoDetection] = CocoDetection,
) -> CocoDetection:
    """Build a split's data set, of a kind; only training augments and may drop images without boxes."""
    data = recipe.data
    transform, partners = augmentation(data.augment if split == "train" else "none", recipe.model.input_hw)
    return kind(
        annotations=annotations,
        transform=transform,
        partners=partners,
        on_bad_image=data.on_bad_image,
        max_bad_images=data.max_bad_images,
        max_megapixels=data.max_megapixels,
        drop_empty=data.drop_empty and split == "train",
        cache=cache_of(data) if split == "train" else None,
        reduced=data.reduced_decoding in (("training", "always") if split == "train" else ("always",)),
        seed=recipe.trainer.seed,
    )


def cache_of(data: DetectionData) -> Path | None:
    """Return the folder for large images, which may not be inside the data set: that is never changed."""
    if data.cache is None:
        return None
    folder, root = (Path(each).expanduser().resolve() for each in (data.cache, data.root))
    if folder.is_relative_to(root):
        raise ValueError(
            f"data.cache={data.cache} is inside data.root, which is never changed: choose another folder"
        )
    return folder


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
    recipe: DetectionRecipe, network: Network, *, category_ids: Sequence[int], ground_truth: GroundTruthArrays
) -> DetectionTask:
    """Compose network, losses, post-processing and evaluation."""
    detector = detector_of(recipe.model)
    return DetectionTask(
        network=network,
        assign=detector.assigner(detector.levels(network.backbone.strides)),  # type: ignore[arg-type]
        losses_of=detector.losses_of,
        decoding=decoding_of(recipe),
        mean=recipe.data.mean,
        std=recipe.data.std,
        input_hw=recipe.model.input_hw,
        category_ids=category_ids,
        ground_truth=ground_truth,
    )
