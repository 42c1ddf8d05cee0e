"""What classification gives to every command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dettoolkit.config.classification import ClassificationData
from dettoolkit.config.recipe import ClassificationRecipe
from dettoolkit.manifest import Manifest, Section, SizeHW
from dettoolkit.spec import Comparison, Decoder, ErrorKind, Strictness, TaskSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dettoolkit.classification.run import ClassificationRun
    from dettoolkit.network import Network
    from dettoolkit.results import Result
    from dettoolkit.run import Classes, ImageFile

IMAGENET_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class ClassificationSection(Section):
    """A classifier's section of a manifest."""


def scored_hw(data: ClassificationData) -> SizeHW:
    """Return the size of the images that are scored, and predicted on."""
    return data.eval_hw or data.input_hw


class ClassificationSpec(TaskSpec):
    """One class for the whole image."""

    name = "classification"
    title = "Image classification"
    noun = "classifier"
    recipe = ClassificationRecipe
    section = ClassificationSection
    raw_outputs = ("logits",)
    final_outputs = ("scores", "labels")
    errors: ClassVar[Mapping[str, ErrorKind]] = {
        "top1": ErrorKind(
            meaning="the fraction of images whose best class differs is",
            max={"exact": 0.0, "resized": 0.02, "quantized": 0.1},
        )
    }
    csv_columns = ("rank", "class", "class_id", "score")
    record_key = "best"
    arrow_columns: ClassVar[Mapping[str, tuple[str, str]]] = {
        "class_names": ("name", "string"),
        "class_ids": ("class_id", "int64"),
        "scores": ("score", "float32"),
    }

    def build_network(self, recipe: ClassificationRecipe, *, num_classes: int) -> Network:
        """Build a classifier with random weights."""
        from dettoolkit.classification.build import build_classifier

        return build_classifier(recipe.model, num_classes=num_classes, pretrained=False)

    def training_run(self, name: str, recipe: ClassificationRecipe, *, pretrained: bool) -> ClassificationRun:
        """Find the data and build the classifier of a training."""
        from dettoolkit.classification.run import training_run

        return training_run(name, recipe, pretrained=pretrained)

    def evaluation_run(
        self, name: str, recipe: ClassificationRecipe, *, own: Classes | None, what: str
    ) -> ClassificationRun:
        """Find the validation data and build the classifier that is scored."""
        from dettoolkit.classification.run import evaluation_run

        return evaluation_run(name, recipe, own=own, what=what)

    def training_images(self, recipe: ClassificationRecipe) -> list[ImageFile]:
        """Return the training images that a recipe names."""
        from dettoolkit.classification.run import build_dataset, find_files, list_images

        return list_images(build_dataset(recipe, find_files(recipe.data, "train"), split="val"))

    def describe(
        self, recipe: ClassificationRecipe, network: Network, *, classes: Classes
    ) -> ClassificationSection:
        """Return the section of a checkpoint's manifest."""
        del recipe, network
        return ClassificationSection(class_names=tuple(classes.names), class_ids=tuple(classes.ids))

    def input_hw(self, recipe: ClassificationRecipe) -> SizeHW:
        """Return the size of the images that are scored."""
        return scored_hw(recipe.data)

    def fitting(self, recipe: ClassificationRecipe) -> dict[str, Any]:
        """Resize the shorter side and crop the center, as evaluation does."""
        data = recipe.data
        fraction = min(self.input_hw(recipe)) / data.eval_resize
        return {"fit": "crop", "crop_fraction": fraction, "antialias": data.antialias}

    def decoder(self, manifest: Manifest, device: torch.device) -> Decoder:
        """Return what turns logits, or a file's final outputs, into results."""
        from dettoolkit.classification.decode import ClassificationDecoder

        del device
        return ClassificationDecoder(manifest)

    def count_classes(self, outputs: Sequence[Tensor], manifest: Manifest) -> int:
        """Return the number of classes that logits have, or that final labels show at least."""
        if manifest.final:
            labels = outputs[self.final_outputs.index("labels")]
            return int(labels.max()) + 1 if labels.numel() else 0
        return int(outputs[0].shape[-1])

    def csv_row(self, entry: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the cells of one of an image's best classes."""
        return entry["rank"], entry["name"], entry["class_id"], entry["score"]

    def compare(
        self, pairs: Iterable[tuple[Result, Result]], section: Section, strictness: Strictness
    ) -> Comparison:
        """Count the images whose best class differs."""
        from dettoolkit.classification.compare import compare

        del section, strictness
        return compare(pairs)

    def final_module(self, manifest: Manifest) -> nn.Module:
        """Return the module that turns logits into the best classes and their scores."""
        from dettoolkit.classification.decode import BestClasses

        del manifest
        return BestClasses()

    def onnx_answers(
        self, graph: Any, raw: Sequence[Any], manifest: Manifest, image_hw: tuple[Any, Any] | None
    ) -> list[tuple[Any, list[int | str], Any]]:
        """Add the nodes that turn logits into the best classes and their scores."""
        from dettoolkit.classification.onnx import best_classes

        del image_hw
        return best_classes(graph, raw[0], len(manifest.class_names))

    def zoo_size(self, recipe: ClassificationRecipe) -> tuple[int, SizeHW]:
        """Return ImageNet's classes and the size of an image that is scored."""
        return IMAGENET_CLASSES, self.input_hw(recipe)
