"""What classification gives to every command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dettoolkit.config.recipe import ClassificationRecipe
from dettoolkit.manifest import Section, SizeHW
from dettoolkit.spec import ErrorKind, TaskSpec, late

IMAGENET_CLASSES = 1000


class ClassificationSpec(TaskSpec):
    """One class for the whole image."""

    name = "classification"
    title = "Image classification"
    noun = "classifier"
    pipeline_tag = "image-classification"
    recipe = ClassificationRecipe
    section = Section
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

    build_network = late(".build")
    training_run = late(".run")
    evaluation_run = late(".run")
    training_images = late(".run")
    distiller = late(".distill")
    decoder = late(".decode")
    compare = late(".result")
    final_module = late(".decode", "BestClasses")
    onnx_answers = late(".decode")
    examine = late(".doctor")
    suspects = late(".suspects")
    report = late(".report_page", "ClassificationReport")

    def input_hw(self, recipe: ClassificationRecipe) -> SizeHW:
        """Return the size of the images that are scored."""
        return recipe.data.eval_hw or recipe.data.input_hw

    def fitting(self, recipe: ClassificationRecipe) -> dict[str, Any]:
        """Resize the shorter side and crop the center, as evaluation does."""
        fraction = min(self.input_hw(recipe)) / recipe.data.eval_resize
        return {"fit": "crop", "crop_fraction": fraction, "antialias": recipe.data.antialias}

    def zoo_size(self, recipe: ClassificationRecipe) -> tuple[int, SizeHW]:
        """Return ImageNet's classes and the size of an image that is scored."""
        return IMAGENET_CLASSES, self.input_hw(recipe)
