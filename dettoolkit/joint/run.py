"""Joint recipe to a run: the runs of both tasks, on one network, with data sets put together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import JointRecipe
from dettoolkit.config.joint import JointBoxes, JointMaps
from dettoolkit.datasets.data_report import DataReport
from dettoolkit.datasets.scenes.folder import as_in_cityscapes, write_scenes
from dettoolkit.datasets.two_tasks import BothLabels, Either, Paired, collate
from dettoolkit.detection import run as detection
from dettoolkit.detection.task import DetectionTask
from dettoolkit.drawing.boxes import Picture
from dettoolkit.drawing.grids import save_pages, stacked
from dettoolkit.drawing.joint_grids import joint_figure
from dettoolkit.evaluation.arrays import DetectionArrays
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts
from dettoolkit.joint.build import build_network
from dettoolkit.joint.result import JointResult
from dettoolkit.joint.single_tasks import (
    DETECTION,
    SEGMENTATION,
    detection_recipe,
    join_classes,
    same_images,
    segmentation_recipe,
    split_classes,
)
from dettoolkit.joint.task import JointPredictions, JointTask, boxed, mapped, split
from dettoolkit.network import Network
from dettoolkit.run import Batch, Classes, ImageFile, Run, Split, spread
from dettoolkit.segmentation import run as segmentation
from dettoolkit.segmentation.task import SegmentationTask

OWN_KEYS = re.compile(rf"\bdata\.(?=(?:{'|'.join({*JointBoxes.model_fields, *JointMaps.model_fields})})\b)")
PER_FIGURE = 4  # images, so that the figure still fits a screen


@dataclass(kw_only=True)
class JointRun(Run):
    """A joint model's run; see Run. `boxes` and `maps` are those of its tasks, with their own data."""

    recipe: JointRecipe
    task: JointTask
    boxes: detection.DetectionRun
    maps: segmentation.SegmentationRun

    @property
    def monitor(self) -> str | None:
        """Return the score's name that says which checkpoint is best; None when nothing can be scored."""
        return self.task.monitor if self.boxes.monitor or self.maps.monitor else None

    @property
    def data_at(self) -> str:
        """Return where the data are, for people."""
        roots = dict.fromkeys((self.boxes.recipe.data.root, self.maps.recipe.data.root))
        return " and ".join(roots)

    def trained_on(self) -> str:
        """Count the training images, for people."""
        if same_images(self.recipe):
            return super().trained_on()
        boxed, mapped = len(self.boxes.train), len(self.maps.train)
        return f"{boxed} training images with boxes and {mapped} with label maps"

    @property
    def images_per_sample(self) -> int:
        """Return how many images a sample of the training set has."""
        return 1 if same_images(self.recipe) else 2

    def image_files(self) -> list[ImageFile]:
        """Return the image files of the validation set, in its order."""
        boxed = self.boxes.image_files()
        return boxed if same_images(self.recipe) else boxed + self.maps.image_files()

    def prediction_of(self, result: JointResult, row: int) -> JointPredictions | None:
        """Return what `task.score` takes, of the result on image `row` of the validation set."""
        images = len(self.boxes.val)
        if same_images(self.recipe):
            boxes = self.boxes.prediction_of(result.detection, row)
            maps = self.maps.prediction_of(result.segmentation, self.val.map_row(row))
            return None if maps is None else JointPredictions(boxes, maps)
        if row < images:
            return JointPredictions(self.boxes.prediction_of(result.detection, row), None)
        maps = self.maps.prediction_of(result.segmentation, row - images)
        return None if maps is None else JointPredictions(None, maps)

    def read_annotations(self, splits: Sequence[Split]) -> None:
        """Read the label files of some splits, so that what is wrong shows at once."""
        self.maps.read_annotations(splits)
        for name in splits:
            self.problems[name].record(self.maps.problems[name].problems("nothing but void"))

    def network_lines(self) -> list[str]:
        """Describe the network in lines, beside one network for each task."""
        model, (height, width) = self.recipe.model, self.recipe.model.input_hw
        counts = [
            (count_parameters(each, norm_affine=True) / 1e6, count_madds(each, (height, width)) / 1e9)
            for each in (self.task.network, self.boxes.task.network, self.maps.task.network)
        ]
        (parameters, madds), *alone = counts
        sums = [sum(each) for each in zip(*alone, strict=True)]
        return [
            f"{model.type} on {model.backbone.title}, {len(self.boxes.classes.names)} classes of boxes, "
            f"{len(self.maps.classes.names)} of pixels, {len(self.boxes.task.anchors_xyxy)} default boxes at "
            f"{height}x{width}",
            f"{parameters:.2f}M parameters, {madds:.2f}B multiply-adds; a network for each task: "
            f"{alone[0][0]:.2f}M + {alone[1][0]:.2f}M = {sums[0]:.2f}M, "
            f"{alone[0][1]:.2f}B + {alone[1][1]:.2f}B = {sums[1]:.2f}B",
        ]

    def describe_targets(self, batch: Batch) -> str:
        """Describe a batch's boxes and label maps."""
        return f"{self.boxes.describe_targets(batch)}, {self.maps.describe_targets(batch)}"

    def batch_figure(self, batch: Batch) -> Picture:
        """Draw the images that have boxes, and those that have label maps."""
        parts = ((self.boxes, boxed(batch)), (self.maps, mapped(batch)))
        return stacked([run.batch_figure(part) for run, part in parts if len(part["images"])])

    def keep_predictions(self, folder: Callable[[], Path]) -> None:
        """From now on write every label map of a validation to a folder; boxes are written anyway."""
        self.maps.keep_predictions(folder)

    def write_predictions(self, predictions: Sequence[JointPredictions], out: Path) -> None:
        """Write what each task writes to a folder of its name."""
        boxes, maps = split(predictions)
        for name, run, own in ((DETECTION, self.boxes, boxes), (SEGMENTATION, self.maps, maps)):
            if own:
                (out / name).mkdir(parents=True, exist_ok=True)
                run.write_predictions(own, out / name)
        count = self.recipe.evaluation.figures
        if same_images(self.recipe) and boxes and maps and count:
            draw = partial(self._figure, DetectionArrays.concatenate(boxes), maps)
            rows = spread(np.arange(len(self.val)), count).tolist()
            save_pages(out / "figures", "predictions", rows, per_page=PER_FIGURE, draw=draw)

    def _figure(
        self, boxes: DetectionArrays, maps: Sequence[SegmentationCounts], rows: Sequence[int]
    ) -> Picture | None:
        """Draw both tasks' ground truth and predictions on images of the validation set."""
        counts = SegmentationCounts.concatenate(maps, len(self.maps.classes.names))
        scores = dict(zip(counts.image_ids.tolist(), counts.image_scores.tolist(), strict=True))
        items = []
        for row in rows:
            image_id, map_row = int(self.boxes.val.annotations.image_ids[row]), self.val.map_row(row)
            item = self.boxes.comparison(boxes, image_id, threshold=self.recipe.evaluation.threshold)
            if item is not None and map_row in scores:
                items.append((item, self.maps.item(map_row, score=scores[map_row])))
        names, colors = self.maps.classes.names, self.maps.task.classes.colors
        return joint_figure(items, self.boxes.classes.names, names, colors) if items else None


def training_images(recipe: JointRecipe) -> list[ImageFile]:
    """Return the training images that a recipe names."""
    _prepare(recipe)
    with _keys_of(SEGMENTATION, recipe):
        mapped = segmentation.training_images(segmentation_recipe(recipe))
    if same_images(recipe):
        return mapped
    with _keys_of(DETECTION, recipe):
        return detection.training_images(detection_recipe(recipe)) + mapped


def training_run(name: str, recipe: JointRecipe, *, pretrained: bool) -> JointRun:
    """Load the data and build the network of a training."""
    _prepare(recipe, generate=True)
    with _keys_of(DETECTION, recipe):
        boxes = detection.training_run(name, detection_recipe(recipe), pretrained=False)
    with _keys_of(SEGMENTATION, recipe):
        maps = segmentation.training_run(name, segmentation_recipe(recipe), pretrained=False)
    return _assemble(name, recipe, boxes, maps, pretrained=pretrained, train=True)


def evaluation_run(name: str, recipe: JointRecipe, *, own: Classes | None, what: str) -> JointRun:
    """Load the validation data and build the network that is scored; see TaskSpec.evaluation_run."""
    _prepare(recipe)
    boxed, mapped = (None, None) if own is None else split_classes(own)
    with _keys_of(DETECTION, recipe):
        boxes = detection.evaluation_run(name, detection_recipe(recipe), own=boxed, what=what)
    with _keys_of(SEGMENTATION, recipe):
        maps = segmentation.evaluation_run(name, segmentation_recipe(recipe), own=mapped, what=what)
    return _assemble(name, recipe, boxes, maps, pretrained=own is None, train=False)


@contextmanager
def _keys_of(task: str, recipe: JointRecipe) -> Iterator[None]:
    """Let messages about one of two data sets name its keys, not those of a recipe that has one."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        text = OWN_KEYS.sub(f"data.{task}.", str(error))
        if same_images(recipe) or type(error) not in (ValueError, FileNotFoundError):
            raise
        raise type(error)(text) from None


def _prepare(recipe: JointRecipe, *, generate: bool = False) -> None:
    data = recipe.data
    if data.type == "scenes":
        write_scenes(Path(data.root), **data.scenes.model_dump(), generate=generate)


def _assemble(
    name: str,
    recipe: JointRecipe,
    boxes: detection.DetectionRun,
    maps: segmentation.SegmentationRun,
    *,
    pretrained: bool,
    train: bool,
) -> JointRun:
    classes = join_classes(boxes.classes, maps.classes)
    network = build_network(recipe, num_classes=len(classes.names), pretrained=pretrained, exact=not train)
    val = _together(recipe, boxes, maps, "val")
    return JointRun(
        name=name,
        recipe=recipe,
        classes=classes,
        task=build_task(recipe, network, boxes=boxes.task, maps=maps.task),
        boxes=boxes,
        maps=maps,
        train=_together(recipe, boxes, maps, "train") if train else val,
        val=val,
        scored_on=maps.scored_on if same_images(recipe) else Path(f"{boxes.scored_on} and {maps.scored_on}"),
        problems={"train": _problems("train", boxes, maps), "val": _problems("val", boxes, maps)},
        collate=collate,
    )


def build_task(
    recipe: JointRecipe, network: Network, *, boxes: DetectionTask, maps: SegmentationTask
) -> JointTask:
    """Compose the tasks of both heads, which become tasks of this network."""
    for task, name in ((boxes, DETECTION), (maps, SEGMENTATION)):
        task.network = Network(backbone=network.backbone, heads={name: network.heads[name]})
    return JointTask(
        network=network,
        boxes=boxes,
        maps=maps,
        loss_weights=recipe.model.loss_weights,
        evaluation=recipe.evaluation,
        two_passes=recipe.data.passes == "two",
        mean=recipe.data.mean,
        std=recipe.data.std,
        auxiliary=maps.auxiliary,
    )


def _together(
    recipe: JointRecipe, boxes: detection.DetectionRun, maps: segmentation.SegmentationRun, split_: Split
) -> Any:
    """Put the data sets of a split together."""
    boxed, mapped = getattr(boxes, split_), getattr(maps, split_)
    if not same_images(recipe):
        return (Paired if split_ == "train" else Either)(boxed, mapped)
    same = as_in_cityscapes if recipe.data.type == "scenes" else Path
    kind = partial(BothLabels, maps=mapped, same=same)
    return detection.build_dataset(boxes.recipe, boxed.annotations, split=split_, kind=kind)


def _problems(split_: Split, *runs: Run) -> DataReport:
    """Return what was found wrong with the data of both tasks."""
    report = DataReport(Path(" and ".join(str(run.problems[split_].path) for run in runs)))
    for run in runs:
        report.extend(run.problems[split_])
    return report
