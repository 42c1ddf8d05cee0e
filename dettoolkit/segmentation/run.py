"""Segmentation recipe to objects: data sets, network and task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import SegmentationRecipe
from dettoolkit.config.segmentation import SegmentationData, SegmentationSplit
from dettoolkit.datasets.cityscapes import SegmentationDataset, collate
from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.datasets.data_report import BadImages
from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.datasets.labels import match_names
from dettoolkit.datasets.scenes.folder import check_scenes, write_scenes
from dettoolkit.datasets.segmentation_augment import (
    CenterCrop,
    EvalTransform,
    SegmentationTransform,
    scaled_labels,
    window_at,
)
from dettoolkit.datasets.segmentation_files import Layout, SegmentationFiles
from dettoolkit.datasets.segmentation_root import check_cityscapes_root
from dettoolkit.drawing.segmentation_grids import segmentation_batch_figure
from dettoolkit.evaluation.label_ids import write_label_ids
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts
from dettoolkit.network import Network
from dettoolkit.run import Batch, Classes, ImageFile, Run, Split
from dettoolkit.segmentation.build import build_loss, build_segmenter, section_of
from dettoolkit.segmentation.figures import draw_predictions
from dettoolkit.segmentation.result import SegmentationResult
from dettoolkit.segmentation.task import SegmentationTask
from dettoolkit.weights.description import warn_of_other_classes
from dettoolkit.wording import listing

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SegmentationRun(Run):
    """A segmenter's run; see Run."""

    recipe: SegmentationRecipe
    train: SegmentationDataset
    val: SegmentationDataset
    task: SegmentationTask

    @property
    def monitor(self) -> str | None:
        """Return the score's name that says which checkpoint is best; None when all labels are void."""
        void = self.problems["val"].counts.get("nothing but void", 0)
        return None if void == len(self.val) else self.task.monitor

    @property
    def val_batch_size(self) -> int:
        """Return the images per process in validation."""
        return self.recipe.data.eval_batch_size

    def image_files(self) -> list[ImageFile]:
        """Return the image files of the validation set, in its order."""
        return list_images(self.val)

    def prediction_of(self, result: SegmentationResult, row: int) -> SegmentationCounts | None:
        """Return what `task.score` takes; None where the label file cannot be read and is to be skipped."""
        maps = self.val.read_maps(row)
        if maps is None:
            return None
        labels, instances = maps
        hw = labels.shape[0], labels.shape[1]  # the image's too, but for a few data sets
        predicted = scaled_labels(result.labels, hw, window_at((0, 0), hw, hw))
        return self.task.count(
            row,
            torch.from_numpy(predicted),
            torch.from_numpy(labels),
            None if instances is None else torch.from_numpy(instances),
        )

    def read_annotations(self, splits: Sequence[Split]) -> None:
        """Read every label file of some splits, about 10 ms each, so that what is wrong shows at once."""
        for split in splits:
            problems = self.problems[split]
            known = problems.counts
            sizes = (self.train if split == "train" else self.val).read_labels()
            data = self.recipe.data
            if split == "val" and len(sizes) > 1 and data.eval_batch_size > 1 and data.eval_hw is None:
                met = listing([f"{h}x{w}" for h, w in sorted(sizes)])
                raise ValueError(
                    f"the label files of {self.scored_on} have different sizes ({met}), so images that keep "
                    f"theirs cannot be validated {data.eval_batch_size} at a time: set "
                    "data.eval_batch_size=1, or data.eval_hw"
                )
            if problems.counts != known:
                logger.warning("%s", problems.summary())

    def network_lines(self) -> list[str]:
        """Describe the network in lines, with the figures that Table 7 prints."""
        model, network = self.recipe.model, self.task.network
        height, width = self.recipe.data.eval_hw or self.recipe.data.crop_hw
        return [
            f"{model.type} on {model.backbone.type}, {len(self.classes.names)} classes, "
            f"{model.head.filters} filters",
            f"{count_parameters(network, norm_affine=True) / 1e6:.2f}M parameters, "
            f"{count_madds(network, (height, width)) / 1e9:.2f}B multiply-adds at {height}x{width}",
        ]

    def batch_lines(self, batch: Batch, outputs: Any) -> list[str]:
        """Describe a batch's targets and the network's outputs."""
        labels = batch["label_map"]
        present = [self.classes.names[label] for label in labels.unique().tolist() if label != VOID]
        return [
            f"batch     images {tuple(batch['images'].shape)}, labels {tuple(labels.shape)}, "
            f"{float((labels == VOID).float().mean()):.1%} void, classes: {listing(present)}",
            f"outputs   logits {tuple(outputs.shape)}",
        ]

    def batch_figure(self, batch: Batch) -> NDArray[np.uint8]:
        """Draw the images of a batch under their labels."""
        return segmentation_batch_figure(batch, self.classes.names, self.task.classes.colors)

    def write_predictions(self, predictions: Sequence[Any], out: Path) -> None:
        """Draw figures: images spread over the set, and the worst ones."""
        counts = SegmentationCounts.concatenate(predictions, len(self.classes.names))
        draw_predictions(self.val, self.task, counts, out / "figures", count=self.recipe.evaluation.figures)

    def keep_predictions(self, folder: Callable[[], Path]) -> None:
        """From now on write every prediction of a validation to a folder, as PNGs of label ids."""
        root = Path(self.recipe.data.root) / self.recipe.data.val.images

        def write(image_id: int, labels: NDArray[np.uint8]) -> None:
            image = self.val.files.image_paths[image_id].relative_to(root)
            write_label_ids(folder(), image, labels, self.task.classes.label_ids)

        self.task.sink = write


def list_images(data: SegmentationDataset) -> list[ImageFile]:
    """List the image files of a data set, in its order."""
    return [ImageFile(path, max_megapixels=data.max_megapixels) for path in data.files.image_paths]


def prepare_data(
    data: SegmentationData, splits: Sequence[SegmentationSplit], *, generate: bool = False
) -> None:
    """Check that the splits are there; with `generate`, make the scenes that the recipe asks for.

    Only a training generates: elsewhere a wrong data.root would be filled with other data than was meant.

    Raises:
        FileNotFoundError: nothing usable at data.root; the message says where to get data.
    """
    if data.type == "scenes":
        (write_scenes if generate else check_scenes)(Path(data.root), **data.scenes.model_dump())
    expected = [path for split in splits for path in (split.images, split.labels)]
    check_cityscapes_root(Path(data.root), expected=list(dict.fromkeys(expected)), layout=layout_of(data))


def layout_of(data: SegmentationData) -> Layout:
    """Return how images and labels find each other."""
    return "folders" if data.type == "folders" else "cityscapes"


def find_files(data: SegmentationData, splits: Sequence[SegmentationSplit]) -> SegmentationFiles:
    """Find the files of some splits as one set and report what is wrong with them."""
    classes = None
    if data.classes is not None:
        entries = [(each.name, each.ids, each.color) for each in data.classes]
        classes = LabelClasses.from_table(entries, ignore=[VOID] if data.ignore is None else data.ignore)
    parts = [
        SegmentationFiles.load(
            Path(data.root),
            images=split.images,
            labels=split.labels,
            classes=classes,
            layout=layout_of(data),
            ignore=data.ignore or [],
        )
        for split in splits
    ]
    files = SegmentationFiles.join(parts)
    if files.problems.counts:
        logger.warning("%s", files.problems.summary())
    return files


def in_order_of(names: Sequence[str], files: SegmentationFiles, *, whose: str) -> SegmentationFiles:
    """Number the classes of the files as a network does, which has them by name.

    Raises:
        ValueError: the files have not the network's classes.
    """
    classes, remedy = files.classes, "Give its classes by data.classes"
    if list(names) == classes.names:
        return files
    match_names(names, classes.names, whose=whose, path=files.path, remedy=remedy)
    return replace(files, classes=classes.reordered(names))


def training_run(name: str, recipe: SegmentationRecipe, *, pretrained: bool) -> SegmentationRun:
    """Find the data and build the segmenter of a training."""
    data = recipe.data
    prepare_data(data, [data.train, data.val, *data.extra], generate=True)
    train = find_files(data, [data.train, *data.extra])
    val = in_order_of(train.classes.names, find_files(data, [data.val]), whose=str(train.path))
    network = _build_network(recipe, train.classes, pretrained=pretrained)
    return _assemble(name, recipe, network, train=train, val=val)


def evaluation_run(
    name: str, recipe: SegmentationRecipe, *, own: Classes | None, what: str
) -> SegmentationRun:
    """Find the validation data and build the segmenter that is scored."""
    prepare_data(recipe.data, [recipe.data.val])
    val = find_files(recipe.data, [recipe.data.val])
    if own is not None:
        val = in_order_of(own.names, val, whose=what)
    network = _build_network(recipe, val.classes, pretrained=own is None, exact=True)
    return _assemble(name, recipe, network, train=None, val=val)


def _build_network(
    recipe: SegmentationRecipe, classes: LabelClasses, *, pretrained: bool, exact: bool = False
) -> Network:
    if pretrained and recipe.model.weights is not None:
        warn_of_other_classes(recipe.model.weights, classes.names)
    return build_segmenter(recipe.model, num_classes=len(classes), pretrained=pretrained, exact=exact)


def _assemble(
    name: str,
    recipe: SegmentationRecipe,
    network: Network,
    *,
    train: SegmentationFiles | None,
    val: SegmentationFiles,
) -> SegmentationRun:
    val_set = build_dataset(recipe, val, split="val")
    return SegmentationRun(
        name=name,
        recipe=recipe,
        classes=Classes(list(val.classes.names), list(val.classes.label_ids)),
        task=build_task(recipe, network, val.classes),
        train=val_set if train is None else build_dataset(recipe, train, split="train"),
        val=val_set,
        scored_on=val.path,
        problems={"train": (train or val).problems, "val": val.problems},
        bad_images=BadImages(recipe.data.max_bad_images),
        collate=collate,
    )


def training_transform(data: SegmentationData) -> SegmentationTransform | CenterCrop:
    """Build what makes a training sample of an image."""
    if data.augment is None:
        return CenterCrop(crop_hw=data.crop_hw, mean_fill=data.mean)
    return SegmentationTransform(crop_hw=data.crop_hw, mean_fill=data.mean, **data.augment.model_dump())


def build_dataset(
    recipe: SegmentationRecipe, files: SegmentationFiles, *, split: Split
) -> SegmentationDataset:
    """Build a split's data set; only training augments and crops."""
    data = recipe.data
    transform = EvalTransform(eval_hw=data.eval_hw) if split == "val" else training_transform(data)
    return SegmentationDataset(
        files=files,
        transform=transform,
        on_bad_image=data.on_bad_image,
        max_bad_images=data.max_bad_images,
        max_megapixels=data.max_megapixels,
        seed=recipe.trainer.seed,
        with_instances=split == "val",
    )


def build_task(recipe: SegmentationRecipe, network: Network, classes: LabelClasses) -> SegmentationTask:
    """Compose network, loss, inference and evaluation."""
    return SegmentationTask(
        network=network,
        loss_of=build_loss(recipe.model.loss, classes.names, align_corners=recipe.model.align_corners),
        mean=recipe.data.mean,
        std=recipe.data.std,
        inference=section_of(recipe, classes.names, classes.label_ids),
        classes=classes,
        categories=classes.categories,
    )
