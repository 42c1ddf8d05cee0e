"""Segmentation recipe to objects: data sets, network and task."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from dettoolkit.datasets.data_root import check_root
from dettoolkit.datasets.images import resize_labels
from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.datasets.labels import match_names
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.datasets.scenes.folder import write_scenes
from dettoolkit.datasets.segmentation_files import Layout, SegmentationFiles
from dettoolkit.drawing.boxes import Picture
from dettoolkit.drawing.grids import save_pages
from dettoolkit.drawing.segmentation_grids import (
    SegmentationItem,
    segmentation_batch_figure,
    segmentation_figure,
)
from dettoolkit.evaluation.label_ids import write_label_ids
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts
from dettoolkit.run import Batch, Classes, ImageFile, Run, Split, spread
from dettoolkit.segmentation.build import build_auxiliary, build_network, build_task
from dettoolkit.segmentation.result import SegmentationResult
from dettoolkit.segmentation.task import SegmentationTask
from dettoolkit.segmentation.training_data import build_dataset
from dettoolkit.wording import listing

logger = logging.getLogger(__name__)

PER_FIGURE = 4  # images, so that the figure still fits a screen
LAYOUTS: dict[str, Layout] = {"scenes": "cityscapes", "cityscapes": "cityscapes", "folders": "folders"}


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
        return list_images(self.val.files, self.recipe.data)

    def prediction_of(self, result: SegmentationResult, row: int) -> SegmentationCounts | None:
        """Return what `task.score` takes; None where the label file cannot be read and is to be skipped."""
        maps = self.val.read_maps(row)
        if maps is None:
            return None
        labels, instances = maps
        hw = labels.shape[0], labels.shape[1]  # the image's too, but for a few data sets
        predicted = resize_labels(result.labels, hw)
        return self.task.count(
            row,
            torch.from_numpy(predicted),
            torch.from_numpy(labels),
            None if instances is None else torch.from_numpy(instances),
        )

    def read_annotations(self, splits: Sequence[Split]) -> None:
        """Read every label file of some splits, about 10 ms each, so that what is wrong shows at once."""
        data = self.recipe.data
        for split in splits:
            known = self.problems[split].counts
            sizes = (self.train if split == "train" else self.val).read_labels()
            if split == "val" and len(sizes) > 1 and data.eval_batch_size > 1 and data.eval_hw is None:
                met = listing([f"{h}x{w}" for h, w in sorted(sizes)])
                raise ValueError(
                    f"the label files of {self.scored_on} have different sizes ({met}), so they cannot be "
                    f"validated in batches of {data.eval_batch_size}: set data.eval_batch_size=1, or "
                    "data.eval_hw"
                )
            if self.problems[split].counts != known:
                logger.warning("%s", self.problems[split].summary())

    def network_lines(self) -> list[str]:
        """Describe the network in lines, with the figures that Table 7 prints."""
        model, network = self.recipe.model, self.task.network
        height, width = self.recipe.data.eval_hw or self.recipe.data.crop_hw
        return [
            f"{model.type} on {model.backbone.title}, {len(self.classes.names)} classes, "
            f"{model.head.filters} filters",
            f"{count_parameters(network, norm_affine=True) / 1e6:.2f}M parameters, "
            f"{count_madds(network, (height, width)) / 1e9:.2f}B multiply-adds at {height}x{width}",
        ]

    def describe_targets(self, batch: Batch) -> str:
        """Describe a batch's label maps."""
        labels = batch["label_map"]
        present = [self.classes.names[label] for label in labels.unique().tolist() if label != VOID]
        void = float((labels == VOID).float().mean())
        return f"labels {tuple(labels.shape)}, {void:.1%} ignored, classes: {listing(present)}"

    def batch_figure(self, batch: Batch) -> Picture:
        """Draw the images of a batch under their labels."""
        return segmentation_batch_figure(batch, self.classes.names, self.task.classes.colors)

    def write_predictions(self, predictions: Sequence[Any], out: Path) -> None:
        """Draw predictions beside ground truth: images spread over the set, and the worst ones.

        Predictions of a whole set are too large to keep, so these images are predicted once more.
        """
        counts = SegmentationCounts.concatenate(predictions, len(self.classes.names))
        count, scores = self.recipe.evaluation.figures, counts.image_scores
        scored = np.flatnonzero(~np.isnan(scores))
        for name, title, rows in (
            ("predictions", "Predictions and ground truth", spread(scored, count)),
            ("worst", "Worst images first", scored[np.argsort(scores[scored], kind="stable")][:count]),
        ):
            draw = partial(self._figure, counts, title)
            save_pages(out / "figures", name, rows.tolist(), per_page=PER_FIGURE, draw=draw)

    def _figure(self, counts: SegmentationCounts, title: str, rows: Sequence[int]) -> Picture:
        """Predict on the images of some rows of `counts` and draw them."""
        items = [self.item(int(counts.image_ids[row]), score=float(counts.image_scores[row])) for row in rows]
        return segmentation_figure(items, self.task.classes.names, self.task.classes.colors, title=title)

    def item(self, image_id: int, *, score: float = math.nan) -> SegmentationItem:
        """Predict on an image once more, to draw it."""
        network = self.task.network
        device, was_training = next(network.parameters()).device, network.training
        network.eval()
        batch = collate([self.val[SampleKey(image_id, 0)]])
        on_device = {key: batch[key].to(device) for key in ("images", "label_map_hw")}
        with torch.inference_mode():
            predicted = self.task.segment(network, on_device)[0]
        network.train(was_training)
        return SegmentationItem(
            image=batch["images"][0].permute(1, 2, 0).numpy(),  # (3, H, W) -> (H, W, 3)
            labels=batch["label_map"][0].numpy(),
            predicted=predicted.cpu().numpy(),
            title=self.val.files.image_paths[image_id].name,
            score=score,
        )

    def keep_predictions(self, folder: Callable[[], Path]) -> None:
        """From now on write every prediction of a validation to a folder, as PNGs of label ids."""
        root = Path(self.recipe.data.root) / self.recipe.data.val.images

        def write(image_id: int, labels: NDArray[np.uint8]) -> None:
            image = self.val.files.image_paths[image_id].relative_to(root)
            write_label_ids(folder(), image, labels, self.task.classes.label_ids)

        self.task.sink = write


def list_images(files: SegmentationFiles, data: SegmentationData) -> list[ImageFile]:
    """List the image files of some splits, in their order."""
    return [ImageFile(path, max_megapixels=data.max_megapixels) for path in files.image_paths]


def training_images(recipe: SegmentationRecipe) -> list[ImageFile]:
    """Return the training images that a recipe names, without `data.extra`."""
    prepare_data(recipe.data, [recipe.data.train])
    return list_images(find_files(recipe.data, [recipe.data.train]), recipe.data)


def prepare_data(
    data: SegmentationData, splits: Sequence[SegmentationSplit], *, generate: bool = False
) -> None:
    """Check that the splits are there; with `generate`, make the scenes that the recipe asks for.

    Only a training generates: elsewhere a wrong data.root would be filled with other data than was meant.
    """
    if data.type == "scenes":
        write_scenes(Path(data.root), **data.scenes.model_dump(), generate=generate)
    expected = [path for split in splits for path in (split.images, split.labels)]
    check_root(Path(data.root), expected=expected, layout=LAYOUTS[data.type])


def find_files(data: SegmentationData, splits: Sequence[SegmentationSplit]) -> SegmentationFiles:
    """Find the files of some splits as one set and report what is wrong with them."""
    classes = None
    if data.classes is not None:
        entries = [(each.name, each.ids, each.color) for each in data.classes]
        classes = LabelClasses.from_table(entries, ignore=[VOID] if data.ignore is None else data.ignore)
    load = partial(
        SegmentationFiles.load,
        Path(data.root),
        classes=classes,
        layout=LAYOUTS[data.type],
        ignore=data.ignore or [],
    )
    files = SegmentationFiles.join([load(images=each.images, labels=each.labels) for each in splits])
    if files.problems.counts:
        logger.warning("%s", files.problems.summary())
    return files


def in_order_of(names: Sequence[str], files: SegmentationFiles, *, whose: str) -> SegmentationFiles:
    """Number the classes of the files as a network does, which has the same ones by name."""
    classes, remedy = files.classes, "Set its classes in data.classes"
    match_names(names, classes.names, whose=whose, path=files.path, remedy=remedy)
    return files if list(names) == classes.names else replace(files, classes=classes.reordered(names))


def training_run(name: str, recipe: SegmentationRecipe, *, pretrained: bool) -> SegmentationRun:
    """Find the data and build the segmenter of a training."""
    data = recipe.data
    prepare_data(data, [data.train, data.val, *data.extra], generate=True)
    train = find_files(data, [data.train, *data.extra])
    val = in_order_of(train.classes.names, find_files(data, [data.val]), whose=str(train.path))
    return _assemble(name, recipe, train=train, val=val, pretrained=pretrained)


def evaluation_run(
    name: str, recipe: SegmentationRecipe, *, own: Classes | None, what: str
) -> SegmentationRun:
    """Find the validation data and build the segmenter that is scored."""
    prepare_data(recipe.data, [recipe.data.val])
    val = find_files(recipe.data, [recipe.data.val])
    if own is not None:
        val = in_order_of(own.names, val, whose=what)
    return _assemble(name, recipe, train=None, val=val, pretrained=own is None)


def _assemble(
    name: str,
    recipe: SegmentationRecipe,
    *,
    train: SegmentationFiles | None,
    val: SegmentationFiles,
    pretrained: bool,
) -> SegmentationRun:
    classes, val_set = val.classes, build_dataset(recipe, val, split="val")
    network = build_network(recipe, num_classes=len(classes), pretrained=pretrained, exact=train is None)
    task = build_task(recipe, network, classes)
    if train is not None:
        task.auxiliary = build_auxiliary(recipe, network, num_classes=len(classes))
    return SegmentationRun(
        name=name,
        recipe=recipe,
        classes=Classes(list(classes.names), list(classes.label_ids)),
        task=task,
        train=val_set if train is None else build_dataset(recipe, train, split="train"),
        val=val_set,
        scored_on=val.path,
        problems={"train": (train or val).problems, "val": val.problems},
        collate=collate,
    )
