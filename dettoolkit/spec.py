"""What a task gives to every command: one object of a subclass of TaskSpec, listed in `tasks.py`.

Commands ask the spec and name no task. Importing this, or a task's `spec` module, costs nothing: neither
torch nor data sets are loaded before a method needs them.
"""

# ruff: noqa: ARG002  defaults take what overriding methods need

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from dettoolkit.config.recipe import Recipe
from dettoolkit.manifest import Manifest, Section, SizeHW

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dettoolkit.doctor.examination import Examination, Progress
    from dettoolkit.doctor.findings import Finding
    from dettoolkit.network import Network
    from dettoolkit.results import Image, Result
    from dettoolkit.run import Batch, Classes, ImageFile, Run, Split
    from dettoolkit.task_report import TaskReport
    from dettoolkit.teacher import Compare

Strictness = Literal["exact", "resized", "quantized"]
"""How close an exported file's answers must be: the same arithmetic, resizing inside too, 8 bits."""


@dataclass(frozen=True, kw_only=True)
class ErrorKind:
    """An error by which a file is judged; 0 is perfect agreement."""

    meaning: str  # begins the sentence about it, such as "the fraction of pixels of another class is"
    max: Mapping[Strictness, float]  # the tolerance of each; without one the error is printed, not judged
    required: bool = True  # without it a comparison proves nothing


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far the results of one model are from those of another."""

    errors: Mapping[str, float]  # by name, those of `TaskSpec.errors` that apply
    details: Mapping[str, Any] = field(default_factory=dict)  # more numbers, for people
    doubts: tuple[str, ...] = ()  # sentences that say why the errors prove nothing


class Decoder(Protocol):
    """Turn images into results, by a network that is called as often as the task's inference asks."""

    def __call__(
        self, forward: Any, inputs: Tensor, images: Sequence[Image], *, min_score: float
    ) -> list[Result]:
        """Return the result of each image, uint8 (H, W, 3) RGB as before resizing, in the image's own pixels.

        `forward` runs the model on inputs (N, ...) made of the images and returns its tuple of outputs, raw
        or final. Results that have scores leave out what is below `min_score`.
        """


class _Late:
    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.folder = self.name or name, owner.__module__.rpartition(".")[0]

    def __get__(self, spec: TaskSpec | None, owner: type) -> Any:
        return self if spec is None else getattr(import_module(self.module, self.folder), self.name)


def late(module: str, name: str = "") -> Any:
    """Return a method of a spec that is a function of a module, of its own name unless another is given.

    The module, such as ".run" of the task's folder, is imported when the method is called; the function is
    not given the spec.
    """
    return _Late(module, name)


class TaskSpec(ABC):
    """A task: its recipe, networks, data, results and files."""

    name: ClassVar[str]  # in manifests, networks (`Network.heads`) and results
    title: ClassVar[str]  # for people, such as "Object detection"
    noun: ClassVar[str]  # what a model of it is called, such as "detector"
    pipeline_tag: ClassVar[str]  # Hugging Face's name of the task
    recipe: ClassVar[type[Recipe]]
    section: ClassVar[type[Section]]  # of a manifest
    raw_outputs: ClassVar[tuple[str, ...]]  # names of a network's outputs, in their order
    final_outputs: ClassVar[tuple[str, ...]]  # of a file with post-processing inside
    errors: ClassVar[Mapping[str, ErrorKind]]  # of an exported file's results, beside those of raw outputs
    size_scores: ClassVar[tuple[str, ...]] = ()  # names of scores by the objects' size, small first
    saves: ClassVar[tuple[str, ...]] = ()  # what `predict --save` can write besides figures and tables
    default_saves: ClassVar[tuple[str, ...]] = ("figures",)  # what it writes unless told otherwise
    csv_columns: ClassVar[tuple[str, ...]]  # of a job's table, after the image's name
    record_key: ClassVar[str]  # of a result's list in its record, such as "objects"
    arrow_columns: ClassVar[Mapping[str, tuple[str, str]]]
    """Of a job's Parquet table: column to (key in an entry of that list, Arrow's type)."""
    resizable: ClassVar[bool] = True  # whether a file may have another input size than its recipe

    @property
    def parts(self) -> tuple[TaskSpec, ...]:
        """Return the tasks whose results its own has: itself, unless it composes others."""
        return (self,)

    # Training and evaluation

    @abstractmethod
    def build_network(
        self, recipe: Any, *, num_classes: int, pretrained: bool = False, exact: bool = False
    ) -> Network:
        """Build a recipe's network, with random weights or, `pretrained`, from those that the recipe names.

        With `exact`, weights of another number of classes are refused; without, class layers start fresh.
        """

    @abstractmethod
    def training_run(self, name: str, recipe: Any, *, pretrained: bool) -> Run:
        """Load the data and build the network of a training.

        Without `pretrained` the weights that the recipe starts from are not needed: a checkpoint brings them.
        """

    @abstractmethod
    def evaluation_run(self, name: str, recipe: Any, *, own: Classes | None, what: str) -> Run:
        """Load the validation data and build the network that is scored; refuse data of other classes.

        `own` are the classes of a checkpoint, whose weights the caller loads; None takes the recipe's
        model.weights and the data set's classes. `what` is the weights' name, for messages.
        """

    def distiller(self, settings: Any, *, own: Any, theirs: Any, order: Sequence[int]) -> Compare:
        """Return how a network's outputs are compared with a teacher's: a function to parts of a loss.

        Args:
            settings: the recipe's `distill`.
            own: the network's section of a manifest; `theirs` is the teacher's.
            theirs: see `own`.
            order: the teacher's label of each class.
        """
        from dettoolkit.teacher import compare_nothing

        return compare_nothing

    def teacher_hw(self, manifest: Manifest) -> SizeHW | None:
        """Return the size of the images that a teacher is given; None for the student's."""
        return manifest.input_hw

    @abstractmethod
    def training_images(self, recipe: Any) -> list[ImageFile]:
        """Return the training images that a recipe names; an int8 file is calibrated with some of them."""

    def examine(self, recipe: Any, *, deep: bool, progress: Progress, run: Run | None = None) -> Examination:
        """Return what the doctor looks at, and the task's own checks, which read all labels if `deep`.

        Nothing is changed, and no network is built. The annotations of a training, its `run`, are taken as
        they are loaded; None loads them.
        """
        from dettoolkit.doctor.examination import Examination, ListedImage

        images = [
            ListedImage(each.path, row, each.hw) for row, each in enumerate(self.training_images(recipe))
        ]
        return Examination(images={"train": images}, trained_on=len(images))

    def suspects(self, run: Any, *, split: Split, batches: Iterable[Batch]) -> list[Finding]:
        """Return the annotations of a run's validation set that its network doubts, ranked by cleanlab.

        `split` is what these data are in the recipe; `batches` are all of the set, on the network's device.
        """
        raise ValueError(f"labels of a {self.noun} cannot be ranked: omit --label-errors")

    # A model that is run

    def torchvision_model(self, recipe: Any) -> str:
        """Return torchvision's name of the network whose weights `model.weights` may name."""
        return str(recipe.model.backbone.type)

    def published_classes(self, recipe: Any, categories: Sequence[str]) -> Classes:
        """Return the classes of torchvision's weights, whose outputs it calls `categories`."""
        from dettoolkit.run import Classes

        names = [name.replace("__background__", "background") for name in categories]
        return Classes(names, list(range(len(names))))

    def describe(self, recipe: Any, network: Network, *, classes: Classes) -> Section:
        """Return the section of a checkpoint's manifest: how its raw outputs become results."""
        return self.section(class_names=tuple(classes.names), class_ids=tuple(classes.ids))

    @abstractmethod
    def input_hw(self, recipe: Any) -> SizeHW | None:
        """Return the size to which images are resized; None keeps their own."""

    def sample_folder(self, recipe: Any) -> Path:
        """Return the folder of the validation images, some of which a page shows."""
        return Path(recipe.data.root, recipe.data.val.images)

    def fitting(self, recipe: Any) -> dict[str, Any]:
        """Return how images are fitted to that size: a manifest's fit, crop_fraction, antialias, multiple."""
        return {}

    @abstractmethod
    def decoder(self, manifest: Manifest, device: torch.device) -> Decoder:
        """Return what turns outputs, which are on the device, into results.

        The manifest's export section says whether they are raw or final.
        """

    def count_classes(self, outputs: Sequence[Tensor], manifest: Manifest) -> int:
        """Return the number of classes that outputs have; of final ones, that they show at least."""
        if not manifest.final:
            return outputs[0].shape[1] if outputs[0].dim() > 1 else 0
        labels = outputs[self.final_outputs.index("labels")]
        return int(labels.max()) + 1 if labels.numel() else 0

    def report(self) -> TaskReport | None:
        """Return what makes the task's part of an evaluation's report; None leaves numbers and curves."""
        return None

    # Results in files

    def selectable(self, class_names: Sequence[str]) -> Sequence[str]:
        """Return the classes whose objects can be kept alone, of a model's."""
        return class_names

    def categories(
        self, part: TaskSpec, class_names: Sequence[str], class_ids: Sequence[int]
    ) -> dict[int, str]:
        """Return COCO's categories, id to name, of one of the `parts`' results, of a model's classes."""
        return dict(zip(class_ids, class_names, strict=True))

    def csv_row(self, entry: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the cells of an entry of a record's list, as `csv_columns` names them."""
        return tuple(entry["name" if column == "class" else column] for column in self.csv_columns)

    def coco_entry(self, entry: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
        """Return an entry of a record's list as COCO's results have it, without the image's id."""
        raise NotImplementedError(f"COCO has no results format for {self.name}")

    # Export

    @abstractmethod
    def compare(
        self, pairs: Iterable[tuple[Result, Result]], section: Section, strictness: Strictness
    ) -> Comparison:
        """Compare the results of a reference and of a file on the same images."""

    def export_section(self, section: Any, *, score_threshold: float | None, final: bool) -> Section:
        """Return an exported file's section, of a checkpoint's; `final` where the file gives final answers.

        The score threshold is the one that was asked for; None takes the default.
        """
        if score_threshold is not None:
            raise ValueError(f"a {self.noun} has no detection scores: omit --score-threshold")
        unchanged: Section = section
        return unchanged

    def check_export(self, manifest: Manifest) -> None:  # noqa: B027
        """Refuse ways of answering that a file of one input size cannot have, and say what to change."""

    def final_module(self, manifest: Manifest) -> nn.Module | None:
        """Return the module that turns raw outputs and (H, W) into final ones; None where PyTorch has none.

        It is called as module(outputs, (H, W)), traced by torch.export.
        """
        return None

    @abstractmethod
    def onnx_answers(
        self, graph: Any, raw: Sequence[Any], manifest: Manifest, image_hw: tuple[Any, Any] | None
    ) -> list[tuple[Any, list[int | str], Any]]:
        """Add the nodes to a `formats.onnx.nodes.Nodes` that turn raw outputs into final ones.

        `image_hw` has height and width of what was put in, int64 (1,) each; None where it is the input's.
        Returned are value, shape without the batch, and ONNX type of each of `final_outputs`.
        """

    def page(self, section: Any) -> dict[str, Any]:
        """Return what the browser page must know beside the classes: see demo/page/."""
        return {}

    # The paper's tables

    @abstractmethod
    def zoo_size(self, recipe: Any) -> tuple[int, SizeHW]:
        """Return the number of classes of the data that a recipe names, and the size of one image."""

    def paper_classes(self, classes: int) -> int:
        """Return the classes of a network of which the paper counts `classes` slots."""
        return classes
