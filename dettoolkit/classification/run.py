"""Classification recipe to objects."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dettoolkit.classification.build import build_classifier, hidden_channels
from dettoolkit.classification.figures import draw_predictions
from dettoolkit.classification.losses import build_loss, build_mix
from dettoolkit.classification.result import ClassificationResult
from dettoolkit.classification.spec import scored_hw
from dettoolkit.classification.task import ClassificationTask
from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config.classification import ClassificationData, InceptionAugment
from dettoolkit.config.recipe import ClassificationRecipe
from dettoolkit.datasets.classification_augment import (
    EvalTransform,
    TrainTransform,
    inception_changes,
    torchvision_changes,
)
from dettoolkit.datasets.data_report import BadImages
from dettoolkit.datasets.image_folder import ImageFolder, ImageFolderFiles, check_root, collate
from dettoolkit.drawing.classification_grids import classification_batch_figure
from dettoolkit.evaluation.top_k import TOP, ClassificationArrays
from dettoolkit.network import Network
from dettoolkit.run import Batch, Classes, ImageFile, Run, Split
from dettoolkit.weights.description import warn_of_other_classes
from dettoolkit.wording import listing

logger = logging.getLogger(__name__)


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
        height, width = scored_hw(self.recipe.data)
        hidden = hidden_channels(model)
        layer = "no hidden layer" if hidden is None else f"a hidden layer of {hidden}"
        return [
            f"classifier on {model.backbone.type}, {len(self.classes.names)} classes, {layer}",
            f"{count_parameters(network, norm_affine=True) / 1e6:.2f}M parameters, "
            f"{count_madds(network, (height, width)) / 1e6:.1f}M multiply-adds at {height}x{width}",
        ]

    def batch_lines(self, batch: Batch, outputs: Any) -> list[str]:
        """Describe a batch's targets and the network's outputs."""
        present = [self.classes.names[label] for label in batch["class_labels"].unique().tolist()]
        return [
            f"batch     images {tuple(batch['images'].shape)}, classes: {listing(present)}",
            f"outputs   logits {tuple(outputs.shape)}",
        ]

    def batch_figure(self, batch: Batch) -> NDArray[np.uint8]:
        """Draw the classes of a batch's images."""
        return classification_batch_figure(batch, self.classes.names)

    def write_predictions(self, predictions: Sequence[Any], out: Path) -> None:
        """Write each image's best classes, and figures."""
        answers = ClassificationArrays.concatenate(predictions)
        (out / "predictions.json").write_text(json.dumps(self._plain(answers)))
        draw_predictions(
            self.val,
            answers,
            out / "figures",
            class_names=self.classes.names,
            count=self.recipe.evaluation.figures,
        )

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

    def image_files(self) -> list[ImageFile]:
        """Return the image files of the validation set, in its order."""
        return list_images(self.val)

    def prediction_of(self, result: ClassificationResult, row: int) -> ClassificationArrays:
        """Return what `task.score` takes: a true class that is not among the best ones has the rank after."""
        label, best = int(self.val.files.labels[row]), result.labels[None]
        rank = np.flatnonzero(result.labels == label)
        return ClassificationArrays(
            image_ids=np.array([row]),
            labels=np.array([label]),
            ranks=rank if len(rank) else np.array([TOP]),
            best=best,
            scores=result.scores[None].astype(np.float64),
        )


def list_images(data: ImageFolder) -> list[ImageFile]:
    """List the image files of a data set, in its order."""
    paths = (data.files.image_path(row) for row in range(len(data)))
    return [ImageFile(path, max_megapixels=data.max_megapixels) for path in paths]


def find_files(data: ClassificationData, split: Split) -> ImageFolderFiles:
    """Find the images of a split and report what is wrong with them."""
    section = data.train if split == "train" else data.val
    files = ImageFolderFiles.load(Path(data.root), images=section.images, names=data.names)
    if files.problems.counts:
        logger.warning("%s", files.problems.summary())
    return files


def training_run(name: str, recipe: ClassificationRecipe, *, pretrained: bool) -> ClassificationRun:
    """Find the data and build the classifier of a training.

    Raises:
        ValueError: there is only one class, or the validation set has others.
    """
    data = recipe.data
    check_root(Path(data.root), expected=list(dict.fromkeys((data.train.images, data.val.images))))
    train = find_files(data, "train")
    if len(train.class_names) < 2:
        raise ValueError(
            f"{train.path} has one class only, {train.class_names[0]}: a classifier needs "
            "at least two; give each class a folder of its own"
        )
    val = find_files(data, "val").numbered_as(train.class_names, whose=str(train.path))
    network = _build_network(recipe, train.class_names, pretrained=pretrained)
    return _assemble(name, recipe, network, train=train, val=val)


def evaluation_run(
    name: str, recipe: ClassificationRecipe, *, own: Classes | None, what: str
) -> ClassificationRun:
    """Find the validation data and build the classifier that is scored."""
    data = recipe.data
    check_root(Path(data.root), expected=[data.val.images])
    val = find_files(data, "val")
    if own is not None:
        val = val.numbered_as(own.names, whose=what)
    network = _build_network(recipe, val.class_names, pretrained=own is None, exact=True)
    return _assemble(name, recipe, network, train=None, val=val)


def _build_network(
    recipe: ClassificationRecipe, class_names: Sequence[str], *, pretrained: bool, exact: bool = False
) -> Network:
    if pretrained and recipe.model.weights is not None:
        warn_of_other_classes(recipe.model.weights, class_names)
    return build_classifier(recipe.model, num_classes=len(class_names), pretrained=pretrained, exact=exact)


def _assemble(
    name: str,
    recipe: ClassificationRecipe,
    network: Network,
    *,
    train: ImageFolderFiles | None,
    val: ImageFolderFiles,
) -> ClassificationRun:
    val_set = build_dataset(recipe, val, split="val")
    return ClassificationRun(
        name=name,
        recipe=recipe,
        classes=Classes(list(val.class_names), list(range(len(val.class_names)))),
        task=build_task(recipe, network, val.class_names),
        train=val_set if train is None else build_dataset(recipe, train, split="train"),
        val=val_set,
        scored_on=val.path,
        problems={"train": (train or val).problems, "val": val.problems},
        bad_images=BadImages(recipe.data.max_bad_images),
        collate=collate,
    )


def training_transform(data: ClassificationData) -> TrainTransform | EvalTransform:
    """Build what makes a training sample of an image."""
    augment = data.augment
    if augment is None:
        return EvalTransform(input_hw=data.input_hw, resize=data.eval_resize, antialias=data.antialias)
    if isinstance(augment, InceptionAugment):
        changes = inception_changes(color=augment.color)
    else:
        changes = torchvision_changes(
            policy=augment.policy,
            num_ops=augment.num_ops,
            magnitude=augment.magnitude,
            erasing=augment.erasing,
            mean=data.mean,
        )
    return TrainTransform(
        input_hw=data.input_hw,
        area=augment.area,
        aspect=augment.aspect,
        antialias=data.antialias,
        flip=augment.flip,
        changes=changes,
    )


def build_dataset(recipe: ClassificationRecipe, files: ImageFolderFiles, *, split: Split) -> ImageFolder:
    """Build a split's data set; only training augments."""
    data = recipe.data
    transform = (
        training_transform(data)
        if split == "train"
        else EvalTransform(input_hw=scored_hw(data), resize=data.eval_resize, antialias=data.antialias)
    )
    return ImageFolder(
        files=files,
        transform=transform,
        on_bad_image=data.on_bad_image,
        max_bad_images=data.max_bad_images,
        max_megapixels=data.max_megapixels,
        seed=recipe.trainer.seed,
    )


def build_task(
    recipe: ClassificationRecipe, network: Network, class_names: Sequence[str]
) -> ClassificationTask:
    """Compose network, loss and evaluation."""
    loss = recipe.model.loss
    return ClassificationTask(
        network=network,
        loss_of=build_loss(label_smoothing=loss.label_smoothing),
        mix=build_mix(num_classes=len(class_names), mixup=loss.mixup, cutmix=loss.cutmix),
        mean=recipe.data.mean,
        std=recipe.data.std,
        class_names=class_names,
    )
