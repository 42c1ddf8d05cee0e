"""Recipe to objects: the only module that knows every type."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
import torchvision

from dettoolkit.backbones.mobilenet import MobileNetV3
from dettoolkit.backbones.pretrained import load_backbone, load_ssdlite
from dettoolkit.config import recipe as schema
from dettoolkit.config import recipe_to_dict
from dettoolkit.datasets.augment import build_transform
from dettoolkit.datasets.coco import CocoAnnotations, CocoDetection, check_root, collate
from dettoolkit.datasets.scenes import write_scenes
from dettoolkit.detection.anchors import boxes_per_cell, default_boxes
from dettoolkit.detection.losses import focal_loss, multibox_loss
from dettoolkit.detection.matching import match
from dettoolkit.detection.model import Detector, initialise, level_grids, set_class_bias
from dettoolkit.detection.task import DetectionTask, Losses
from dettoolkit.heads.ssdlite import SSDLiteHead
from dettoolkit.training.data import DataModule

logger = logging.getLogger(__name__)

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Classes:
    """The classes of a run: names by label, and the annotation file's id of each."""

    names: list[str]
    category_ids: list[int]


def build_backbone(section: schema.Backbone, *, task: Literal["detection", "segmentation"]) -> MobileNetV3:
    """Build the backbone with random weights; a reduced tail is the task's own."""
    return MobileNetV3(
        network=section.type,
        width=section.width,
        tail=task if section.reduced_tail else "full",
        output_stride=section.output_stride,
        norm_eps=section.norm_eps,
        norm_momentum=section.norm_momentum,
    )


def build_detector(
    model: schema.SSDLiteModel, *, num_classes: int, pretrained: bool, exact: bool = False
) -> Detector:
    """Build the detector; with `pretrained`, start it from the weights that the recipe names.

    Raises:
        ValueError: with `exact`, weights of another number of classes; without, their predictors start fresh.
    """
    backbone = build_backbone(model.backbone, task="detection")
    levels = 2 + len(model.head.extra_channels)
    anchors = model.anchors
    cells = boxes_per_cell(
        levels=levels, aspect_ratios=anchors.aspect_ratios, reduce_first_level=anchors.reduce_first_level
    )
    head = SSDLiteHead(
        in_channels=(backbone.channels["c4"], backbone.channels["c5"]),
        extra_channels=model.head.extra_channels,
        boxes_per_cell=cells,
        num_classes=num_classes,
        norm_eps=model.backbone.norm_eps,
        norm_momentum=model.backbone.norm_momentum,
    )
    grids = level_grids(
        input_hw=model.input_hw,
        strides=(backbone.strides["c4"], backbone.strides["c5"]),
        extra_levels=len(model.head.extra_channels),
    )
    boxes = default_boxes(input_hw=model.input_hw, grids_hw=grids, **anchors.model_dump())
    detector = Detector(backbone=backbone, head=head, anchors_xyxy=boxes)
    # TensorFlow's config overrides the backbone's own initialisation too
    # (override_base_feature_extractor_hyperparams).
    initialise(detector, init=model.head.init, std=model.head.init_std)
    # The same config gives the predictors a plain normal (box_predictor: random_normal_initializer).
    for predictors in (head.class_predictors, head.box_predictors):
        initialise(predictors, init="normal", std=model.head.init_std)
    set_class_bias(head, model.head.class_bias)
    if pretrained and model.backbone.weights is not None:
        load_backbone(backbone, model.backbone.weights, network=model.backbone.type)
    if pretrained and model.weights is not None:
        report = load_ssdlite(detector, backbone, model.weights)
        if exact and report.replaced:
            raise ValueError(
                f"{model.weights} predicts another number of classes than the {num_classes} of the data set "
                f"({len(report.replaced)} tensors of another size): score it on data of its own classes; "
                "data.label_map=ids gives the 91 class slots of TensorFlow and torchvision"
            )
    return detector


def build_losses(loss: schema.FocalLoss | schema.MultiboxLoss) -> Losses:
    """Give the loss function of head outputs and targets."""
    if loss.type == "focal":
        return partial(focal_loss, alpha=loss.alpha, gamma=loss.gamma)
    return partial(multibox_loss, negatives_per_positive=loss.negatives_per_positive)


def prepare_data(data: schema.DetectionData, splits: Sequence[Split] = ("train", "val")) -> None:
    """Generate the scenes if the recipe asks for them; check that the splits are there.

    Raises:
        FileNotFoundError: nothing usable at data.root; the message says where to get data.
    """
    if data.type == "scenes":
        write_scenes(Path(data.root), **data.scenes.model_dump())
    else:
        sections = [data.train if split == "train" else data.val for split in splits]
        expected = [path for section in sections for path in (section.images, section.annotations)]
        check_root(Path(data.root), expected=list(dict.fromkeys(expected)))


def load_annotations(data: schema.DetectionData, split: Split) -> CocoAnnotations:
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
    """Give the classes that a run on these annotations has."""
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
            f"{whose} detects {len(wanted)} classes ({_listing(wanted)}), but {annotations.path} has "
            f"{len(ids)} ({_listing(list(ids))}). Only in the first: "
            f"{_listing(sorted(set(wanted) - set(ids)))}; only in the file: "
            f"{_listing(sorted(set(ids) - set(wanted)))}. Score it on a file with its own "
            "classes, or train on this one (model.weights starts from a checkpoint of other classes)"
        )
    unused = min([0, *ids.values()]) - 1  # an id that no category has
    return Classes(classes.names, [int(ids.get(name, unused)) for name in classes.names])


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} … {len(names) - 8} more" if len(names) > 8 else shown or "none"


def build_dataset(recipe: schema.Recipe, annotations: CocoAnnotations, *, split: Split) -> CocoDetection:
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
        drop_empty=data.drop_empty and split == "train",
        seed=recipe.trainer.seed,
    )


def build_data_module(recipe: schema.Recipe, train: CocoDetection, val: CocoDetection) -> DataModule:
    """Build the loaders of a run."""
    return DataModule(
        train=train,
        val=val,
        collate=collate,
        batch_size=recipe.data.batch_size,
        workers=recipe.data.workers,
        seed=recipe.trainer.seed,
    )


def build_task(
    recipe: schema.Recipe, detector: Detector, *, classes: Classes, ground_truth: dict[str, Any]
) -> DetectionTask:
    """Compose network, losses, post-processing and evaluation."""
    model, evaluation = recipe.model, recipe.evaluation
    return DetectionTask(
        network=detector,
        losses_of=build_losses(model.loss),
        activation="sigmoid" if model.loss.type == "focal" else "softmax",
        box_weight=model.loss.box_weight,
        assign=partial(match, **model.matcher.model_dump()),
        mean=recipe.data.mean,
        std=recipe.data.std,
        input_hw=model.input_hw,
        nms_iou=model.postprocess.nms_iou,
        candidates_per_class=model.postprocess.candidates_per_class,
        score_threshold=evaluation.score_threshold,
        max_detections=evaluation.max_detections,
        category_ids=classes.category_ids,
        ground_truth=ground_truth,
    )


def describe(name: str, recipe: schema.Recipe, classes: Classes) -> dict[str, Any]:
    """Describe a run in plain data: what its checkpoints carry besides weights."""
    return {
        "name": name,
        "recipe": recipe_to_dict(recipe),
        "class_names": classes.names,
        "category_ids": classes.category_ids,
        "versions": {
            "dettoolkit": version("dettoolkit"),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "lightning": str(lightning.__version__),
            "python": platform.python_version(),
        },
    }
