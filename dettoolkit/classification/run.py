"""Classification recipe to objects."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dettoolkit.classification.build import build_network, hidden_channels
from dettoolkit.classification.result import ClassificationResult
from dettoolkit.classification.task import ClassificationTask, build_mix
from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config.classification import ClassificationData, InceptionAugment
from dettoolkit.config.recipe import ClassificationRecipe
from dettoolkit.datasets.classification_augment import (
    EvalTransform,
    TrainTransform,
    inception_changes,
    torchvision_changes,
)
from dettoolkit.datasets.data_root import check_root
from dettoolkit.datasets.image_folder import ImageFolder, ImageFolderFiles, collate
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.drawing.boxes import Picture
from dettoolkit.drawing.classification_grids import (
    ClassificationItem,
    classification_batch_figure,
    classification_figure,
)
from dettoolkit.drawing.grids import save_pages
from dettoolkit.evaluation.top_k import TOP, ClassificationArrays
from dettoolkit.network import Network
from dettoolkit.run import Batch, Classes, ImageFile, Run, Split, spread
from dettoolkit.wording import listing

logger = logging.getLogger(__name__)

PER_FIGURE = 16  # images, so that the figure still fits a screen


@dataclass(kw_only=True)
class ClassificationRun(Run):
    """A classifier's run; see Run."""

    recipe: ClassificationRecipe
    train: ImageFolder
    val: ImageFolder
    task: ClassificationTask

    def network_lines(self) -> list[str]:
        """Describe the network in lines, with the figures that Table 3 prints."""
        model, network = self.recipe.model, self.task.network
        height, width = self.recipe.data.eval_hw or self.recipe.data.input_hw
        hidden = hidden_channels(model)
        layer = "no hidden layer" if hidden is None else f"a hidden layer of {hidden}"
        return [
            f"classifier on {model.backbone.title}, {len(self.classes.names)} classes, {layer}",
            f"{count_parameters(network, norm_affine=True) / 1e6:.2f}M parameters, "
            f"{count_madds(network, (height, width)) / 1e6:.1f}M multiply-adds at {height}x{width}",
        ]

    def describe_targets(self, batch: Batch) -> str:
        """List a batch's classes."""
        present = [self.classes.names[label] for label in batch["class_labels"].unique().tolist()]
        return f"classes: {listing(present)}"

    def batch_figure(self, batch: Batch) -> Picture:
        """Draw the classes of a batch's images."""
        return classification_batch_figure(batch, self.classes.names)

    def write_predictions(self, predictions: Sequence[Any], out: Path) -> None:
        """Write each image's best classes; draw images spread over the set, and the surest wrong ones."""
        answers, count = ClassificationArrays.concatenate(predictions), self.recipe.evaluation.figures
        (out / "predictions.json").write_text(json.dumps(self._plain(answers)))
        wrong = np.flatnonzero(~answers.right)
        best = answers.scores[wrong].max(axis=1, initial=0)
        surest = wrong[np.argsort(-best, kind="stable")][:count]
        for name, title, rows in (
            ("predictions", "Predictions", spread(np.arange(len(answers.labels)), count)),
            ("wrong", "Wrong predictions, the most confident first", surest),
        ):
            draw = partial(self._figure, answers, title)
            save_pages(out / "figures", name, rows.tolist(), per_page=PER_FIGURE, draw=draw)

    def _plain(self, answers: ClassificationArrays) -> list[dict[str, Any]]:
        names, files = self.classes.names, self.val.files
        rows = zip(answers.image_ids, answers.labels, answers.best, answers.scores, strict=True)
        return [
            {
                "file": files.image_path(int(image)).relative_to(files.path).as_posix(),
                "class": names[label],
                "predicted": [names[each] for each in best],
                "scores": [round(float(score), 6) for score in scores],
            }
            for image, label, best, scores in rows
        ]

    def _figure(self, answers: ClassificationArrays, title: str, rows: Sequence[int]) -> Picture:
        """Show the images of some rows of `answers` as the network got them."""
        items = []
        for row in rows:
            batch = collate([self.val[SampleKey(int(answers.image_ids[row]), 0)]])
            item = ClassificationItem(
                image=batch["images"][0].permute(1, 2, 0).numpy(),  # (3, H, W) -> (H, W, 3)
                label=int(answers.labels[row]),
                predicted=int(answers.best[row, 0]),
                score=float(answers.scores[row, 0]),
            )
            items.append(item)
        return classification_figure(items, self.classes.names, title=title)

    def image_files(self) -> list[ImageFile]:
        """Return the image files of the validation set, in its order."""
        return list_images(self.val.files, self.recipe.data)

    def prediction_of(self, result: ClassificationResult, row: int) -> ClassificationArrays:
        """Return what `task.score` takes: a true class that is not among the best ones has the rank after."""
        label = self.val.files.labels[row]
        rank = np.flatnonzero(result.labels == label)
        return ClassificationArrays(
            image_ids=np.array([row]),
            labels=np.array([label]),
            ranks=rank if len(rank) else np.array([TOP]),
            best=result.labels[None],
            scores=result.scores[None].astype(np.float64),
        )


def list_images(files: ImageFolderFiles, data: ClassificationData) -> list[ImageFile]:
    """List the image files of a split, in its order."""
    paths = (files.image_path(row) for row in range(len(files.labels)))
    return [ImageFile(path, max_megapixels=data.max_megapixels) for path in paths]


def training_images(recipe: ClassificationRecipe) -> list[ImageFile]:
    """Return the training images that a recipe names."""
    return list_images(find_files(recipe.data, "train"), recipe.data)


def find_files(data: ClassificationData, split: Split) -> ImageFolderFiles:
    """Find the images of a split and report what is wrong with them."""
    images = getattr(data, split).images
    files = ImageFolderFiles.load(Path(data.root), images=images, names=data.names)
    if files.problems.counts:
        logger.warning("%s", files.problems.summary())
    return files


def training_run(name: str, recipe: ClassificationRecipe, *, pretrained: bool) -> ClassificationRun:
    """Find the data and build the classifier of a training."""
    data = recipe.data
    check_root(Path(data.root), expected=[data.train.images, data.val.images], layout="classes")
    train = find_files(data, "train")
    if len(train.class_names) < 2:
        raise ValueError(
            f"{train.path} has only one class, {train.class_names[0]}: a classifier needs "
            "at least two; use one folder per class"
        )
    val = find_files(data, "val").numbered_as(train.class_names, whose=str(train.path))
    return _assemble(name, recipe, train=train, val=val, pretrained=pretrained)


def evaluation_run(
    name: str, recipe: ClassificationRecipe, *, own: Classes | None, what: str
) -> ClassificationRun:
    """Find the validation data and build the classifier that is scored."""
    check_root(Path(recipe.data.root), expected=[recipe.data.val.images], layout="classes")
    val = find_files(recipe.data, "val")
    if own is not None:
        val = val.numbered_as(own.names, whose=what)
    return _assemble(name, recipe, train=None, val=val, pretrained=own is None)


def _assemble(
    name: str,
    recipe: ClassificationRecipe,
    *,
    train: ImageFolderFiles | None,
    val: ImageFolderFiles,
    pretrained: bool,
) -> ClassificationRun:
    names, val_set = val.class_names, build_dataset(recipe, val, split="val")
    network = build_network(recipe, num_classes=len(names), pretrained=pretrained, exact=train is None)
    return ClassificationRun(
        name=name,
        recipe=recipe,
        classes=Classes(list(names), list(range(len(names)))),
        task=build_task(recipe, network, names),
        train=val_set if train is None else build_dataset(recipe, train, split="train"),
        val=val_set,
        scored_on=val.path,
        problems={"train": (train or val).problems, "val": val.problems},
        collate=collate,
    )


def training_transform(data: ClassificationData) -> TrainTransform | EvalTransform:
    """Build what makes a training sample of an image."""
    augment = data.augment
    if augment is None:
        return EvalTransform(input_hw=data.input_hw, resize=data.eval_resize, antialias=data.antialias)
    window, inception = {"area", "aspect", "flip"}, isinstance(augment, InceptionAugment)
    own = augment.model_dump(exclude={"type", *window})
    changes = inception_changes(**own) if inception else torchvision_changes(mean=data.mean, **own)
    return TrainTransform(
        input_hw=data.input_hw,
        antialias=data.antialias,
        changes=changes,
        **augment.model_dump(include=window),
    )


def build_dataset(recipe: ClassificationRecipe, files: ImageFolderFiles, *, split: Split) -> ImageFolder:
    """Build a split's data set; only training augments."""
    data, scored_hw = recipe.data, recipe.data.eval_hw or recipe.data.input_hw
    scored = EvalTransform(input_hw=scored_hw, resize=data.eval_resize, antialias=data.antialias)
    transform = training_transform(data) if split == "train" else scored
    return ImageFolder(
        files=files,
        transform=transform,
        on_bad_image=data.on_bad_image,
        max_bad_images=data.max_bad_images,
        max_megapixels=data.max_megapixels,
        reduced=data.reduced_decoding in (("training", "always") if split == "train" else ("always",)),
        seed=recipe.trainer.seed,
    )


def build_task(
    recipe: ClassificationRecipe, network: Network, class_names: Sequence[str]
) -> ClassificationTask:
    """Compose network, loss and evaluation."""
    loss = recipe.model.loss
    return ClassificationTask(
        network=network,
        label_smoothing=loss.label_smoothing,
        mix=build_mix(num_classes=len(class_names), mixup=loss.mixup, cutmix=loss.cutmix),
        mean=recipe.data.mean,
        std=recipe.data.std,
        class_names=class_names,
    )
