"""Detection recipe to objects."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dettoolkit.wording import listing
from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config.detection import DetectionData
from dettoolkit.config.recipe import DetectionRecipe
from dettoolkit.datasets.augment import build_transform
from dettoolkit.datasets.coco import BadImages, CocoAnnotations, CocoDetection, check_root, collate
from dettoolkit.datasets.scenes.folder import check_scenes, write_scenes
from dettoolkit.detection.build import activation_of, build_detector, build_losses
from dettoolkit.detection.figures import draw_predictions, draw_training_batch
from dettoolkit.detection.matching import match
from dettoolkit.detection.model import Detector
from dettoolkit.detection.task import DetectionTask
from dettoolkit.evaluation.coco_ap import DetectionArrays
from dettoolkit.run import Classes, Run, Split, warn_of_other_classes
from dettoolkit.training.module import Batch

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

    def network_lines(self) -> list[str]:
        """Describe the network in lines, with the figures that Table 6 prints."""
        network = self.task.network
        height, width = self.recipe.model.input_hw
        return [
            f"ssdlite on {self.recipe.model.backbone.type}, {len(self.classes.names)} classes, "
            f"{len(network.anchors_xyxy)} default boxes at {height}x{width}",
            f"{count_parameters(network, norm_affine=False) / 1e6:.2f}M parameters without BN "
            f"({count_parameters(network, norm_affine=True) / 1e6:.2f}M with), "
            f"{count_madds(network, (height, width)) / 1e9:.2f}B multiply-adds",
        ]

    def batch_lines(self, batch: Batch, outputs: Any) -> list[str]:
        """Describe a batch's targets and the network's outputs."""
        logits, deltas = outputs
        return [
            f"batch     images {tuple(batch['images'].shape)}, {int((batch['labels'] >= 0).sum())} boxes",
            f"outputs   class logits {tuple(logits.shape)}, box deltas {tuple(deltas.shape)}",
        ]

    def draw_training_batch(self, folder: Path) -> None:
        """Draw the ground truth of the first images as the network will see them."""
        draw_training_batch(self.train, self.classes.names, folder, self.recipe.evaluation.figures)

    def write_predictions(self, predictions: Sequence[Any], out: Path) -> None:
        """Write the detections in COCO's results format, and figures."""
        detections = DetectionArrays.concatenate(predictions)
        (out / "predictions.json").write_text(json.dumps(detections.to_results()))
        evaluation = self.recipe.evaluation
        draw_predictions(
            self.val,
            detections,
            out / "figures",
            class_names=self.scored_classes.names,
            category_ids=self.scored_classes.ids,
            count=evaluation.figures,
            threshold=evaluation.threshold,
        )


def training_run(name: str, recipe: DetectionRecipe, *, pretrained: bool) -> DetectionRun:
    """Load the data and build the detector of a training."""
    prepare_data(recipe.data, generate=True)
    train, val = (load_annotations(recipe.data, split) for split in ("train", "val"))
    classes = classes_of(train)
    scored = match_classes(classes, val, whose=str(train.path))
    if pretrained and recipe.model.weights is not None:
        warn_of_other_classes(recipe.model.weights, classes.names)
    detector = build_detector(recipe.model, num_classes=len(classes.names), pretrained=pretrained)
    return _assemble(name, recipe, detector, classes=classes, scored=scored, train=train, val=val)


def evaluation_run(name: str, recipe: DetectionRecipe, *, own: Classes | None, what: str) -> DetectionRun:
    """Load the validation data and build the detector that is scored; see build.evaluation_run."""
    prepare_data(recipe.data, ["val"])
    val = load_annotations(recipe.data, "val")
    classes = own or classes_of(val)
    scored = match_classes(classes, val, whose=what)
    detector = build_detector(
        recipe.model, num_classes=len(classes.names), pretrained=own is None, exact=True
    )
    return _assemble(name, recipe, detector, classes=classes, scored=scored, train=None, val=val)


def _assemble(
    name: str,
    recipe: DetectionRecipe,
    detector: Detector,
    *,
    classes: Classes,
    scored: Classes,
    train: CocoAnnotations | None,
    val: CocoAnnotations,
) -> DetectionRun:
    val_set = build_dataset(recipe, val, split="val")
    return DetectionRun(
        name=name,
        recipe=recipe,
        classes=classes,
        scored_classes=scored,
        task=build_task(recipe, detector, classes=scored, ground_truth=val.evaluation_dict()),
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
    ids.pop("N/A", None)  # slots of the id map that no category has
    wanted = [name for name in classes.names if name != "N/A"]
    if set(wanted) != set(ids):
        raise ValueError(
            f"{whose} detects {len(wanted)} classes ({listing(wanted)}), but {annotations.path} has "
            f"{len(ids)} ({listing(list(ids))}). Only in the first: "
            f"{listing(sorted(set(wanted) - set(ids)))}; only in the file: "
            f"{listing(sorted(set(ids) - set(wanted)))}. Score it on a file with its own "
            "classes, or train on this one (model.weights starts from a checkpoint of other classes)"
        )
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


def build_task(
    recipe: DetectionRecipe, detector: Detector, *, classes: Classes, ground_truth: dict[str, Any]
) -> DetectionTask:
    """Compose network, losses, post-processing and evaluation."""
    model, evaluation = recipe.model, recipe.evaluation
    return DetectionTask(
        network=detector,
        losses_of=build_losses(model.loss),
        activation=activation_of(model.loss),
        box_weight=model.loss.box_weight,
        assign=partial(match, **model.matcher.model_dump()),
        mean=recipe.data.mean,
        std=recipe.data.std,
        input_hw=model.input_hw,
        nms_iou=model.postprocess.nms_iou,
        candidates_per_class=model.postprocess.candidates_per_class,
        score_threshold=evaluation.score_threshold,
        max_detections=evaluation.max_detections,
        category_ids=classes.ids,
        ground_truth=ground_truth,
    )
