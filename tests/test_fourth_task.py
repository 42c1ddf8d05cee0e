"""A fourth task that lives in this file alone: how many objects of each class a picture shows.

Its spec in `tasks.TASKS` is all that dettoolkit gets to know of it. Everything else is what the command line
runs for every task: check, train, resume, evaluate, predict, export behind the gate.

N: images, K: classes, (h, w): the network's input.
"""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from dettoolkit import cli, load, tasks
from dettoolkit.backbones.initialize import initialize
from dettoolkit.backbones.mobilenet import build_backbone
from dettoolkit.config import load_recipe
from dettoolkit.config.model import Model
from dettoolkit.config.recipe import Recipe, any_recipe, recipe_kinds
from dettoolkit.config.sections import Data, Section, SizeHW, Split, Text
from dettoolkit.datasets.data_report import DataReport
from dettoolkit.datasets.images import read_image, resize_image
from dettoolkit.datasets.samples import collate_images, sample_key
from dettoolkit.manifest import Section as ManifestSection
from dettoolkit.network import Network
from dettoolkit.results import Result
from dettoolkit.run import Classes, ImageFile, Run, Task
from dettoolkit.spec import Comparison, ErrorKind, TaskSpec
from dettoolkit.tasks import TASKS
from dettoolkit.weights.load import load_pretrained

pytestmark = pytest.mark.usefixtures("alone")

# The recipe


class CounterModel(Model):
    type: Literal["counter"]
    input_hw: SizeHW = Field((64, 64), description="Size that images are resized to.")
    weights: Text | None = Field(None, description="Weights to start from.")


class CountingData(Data):
    type: Literal["counted"]
    train: Split = Split(images="train")
    val: Split = Split(images="val")


class CountingEvaluation(Section):
    figures: int = Field(0, ge=0, le=100, description="Images in the picture grids.")


class CountingRecipe(Recipe):
    files: ClassVar[str] = "counted"
    model: CounterModel
    data: CountingData
    evaluation: CountingEvaluation = Field(default_factory=CountingEvaluation)


RECIPE = """\
model: {type: counter, backbone: {type: mobilenet_v3_small, width: 0.35, norm_momentum: 0.1}}
data: {type: counted, root: nowhere, batch_size: 8, workers: 0}
optim: {type: adamw, lr: 0.01}
trainer:
  max_epochs: 30
  val_every_epochs: 10
  accelerator: cpu
  devices: 1
  log_every_steps: 1
  loggers: {tensorboard: false}
  extra: {enable_progress_bar: false}
"""
NAMES, IDS = ["disc", "bar"], [5, 9]


def write_pictures(root: Path) -> Path:
    """Write pictures of up to three discs and bars; counts.json has their numbers by file."""
    for split, count in (("train", 24), ("val", 9)):
        counts, random = {}, np.random.default_rng(count)
        (root / split).mkdir(parents=True)
        for number in range(count):
            image = np.full((48, 80, 3), 90, np.uint8)
            discs, bars = (int(each) for each in random.integers(0, 4, 2))
            for place in range(discs):
                cv2.circle(image, (14 + 24 * place, 12), 9, (30, 40, 220), -1)
            for place in range(bars):
                cv2.rectangle(image, (6 + 24 * place, 30), (24 + 24 * place, 40), (230, 200, 20), -1)
            cv2.imwrite(str(root / split / f"{number}.png"), image)
            counts[f"{number}.png"] = [discs, bars]
        (root / split / "counts.json").write_text(json.dumps(counts))
    return root


# Data, network, task


class Pictures:
    """A split: samples with the numbers of objects, int64 (K,)."""

    def __init__(self, recipe: CountingRecipe, split: Split) -> None:
        self.folder = Path(recipe.data.root) / split.images
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no counted pictures at {self.folder}: set data.root")
        self.counts = json.loads((self.folder / "counts.json").read_text())
        self.files = sorted(self.counts)
        self.transform = SimpleNamespace(input_hw=recipe.model.input_hw)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Any) -> dict[str, Any]:
        row = sample_key(key).index
        path = self.folder / self.files[row]
        image = read_image(path)
        pixels = torch.from_numpy(resize_image(image, self.transform.input_hw)).permute(2, 0, 1)
        return {
            "image": pixels.contiguous(),
            "image_id": row,
            "file": str(path),
            "original_hw": image.shape[:2],
            "numbers": torch.tensor(self.counts[self.files[row]]),
        }


def collate(samples: Sequence[Any]) -> dict[str, Any]:
    good, batch = collate_images(samples)
    return {**batch, "numbers": torch.stack([each["numbers"] for each in good])}


class CountingHead(nn.Module):
    """Estimate the numbers of objects from C5's mean: (N, K)."""

    features = ("c5",)
    class_layers = ("estimate.*",)

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.estimate = nn.Linear(in_channels, num_classes)

    def initialize(self) -> None:
        nn.init.normal_(self.estimate.weight, std=0.01)
        nn.init.constant_(self.estimate.bias, 1.5)

    def forward(self, c5: Tensor) -> Tensor:
        estimates: Tensor = self.estimate(c5.mean((2, 3)))
        return estimates


def whole(estimates: Tensor) -> Tensor:
    """Round estimates to numbers of objects."""
    return estimates.float().round().clamp(min=0).long()


@dataclass
class CountingScore:
    numbers: dict[str, float]

    def table(self) -> str:
        return f"exact {self.numbers['exact']:.3f}"

    def to_json(self) -> dict[str, Any]:
        return {"numbers": self.numbers}


class CountingTask(Task):
    monitor = "exact"
    raw_outputs = ("estimates",)

    def losses(self, outputs: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"number": nn.functional.smooth_l1_loss(outputs, batch["numbers"].float())}

    def predict(self, forward: Any, batch: dict[str, Any]) -> NDArray[np.int64]:
        """Return (N, 2, K): the numbers that were found, and the true ones."""
        found = whole(forward(self.images(batch)))
        return torch.stack([found, batch["numbers"]], 1).cpu().numpy()

    def score(self, predictions: Sequence[NDArray[np.int64]]) -> CountingScore:
        found, true = np.concatenate(predictions).transpose(1, 0, 2)
        return CountingScore({"exact": float((found == true).mean())})


@dataclass(kw_only=True)
class CountingRun(Run):
    def image_files(self) -> list[ImageFile]:
        return [ImageFile(self.val.folder / name) for name in self.val.files]

    def prediction_of(self, result: "CountingResult", row: int) -> NDArray[np.int64]:
        return np.stack([result.numbers, self.val.counts[self.val.files[row]]])[None]

    def network_lines(self) -> list[str]:
        return [f"counter of {len(self.classes.names)} classes"]

    def describe_targets(self, batch: dict[str, Any]) -> str:
        return f"{int(batch['numbers'].sum())} objects"

    def write_predictions(self, predictions: Sequence[Any], out: Path) -> None:
        (out / "predictions.json").write_text(json.dumps(np.concatenate(predictions)[:, 0].tolist()))


# The model that is run


@dataclass(frozen=True, kw_only=True)
class CountingSection(ManifestSection):
    """Class names and ids are all that a counter needs."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CountingResult(Result):
    numbers: NDArray[np.int64]  # (K,)
    task = "counting"

    def summary(self) -> str:
        pairs = zip(self.numbers.tolist(), self.class_names, strict=True)
        return ", ".join(f"{number} x {name}" for number, name in pairs)

    def tally(self) -> dict[str, int]:
        return dict(zip(self.class_names, self.numbers.tolist(), strict=True))

    def plot(self) -> NDArray[np.uint8]:
        return self.image

    def to_dict(self) -> dict[str, Any]:
        rows = zip(self.class_names, self.class_ids, self.numbers.tolist(), strict=True)
        counts = [{"name": name, "class_id": id_, "number": number} for name, id_, number in rows]
        return {**self._facts(), "counts": counts}


class CountingSpec(TaskSpec):
    name = "counting"
    title = "Counting"
    noun = "counter"
    recipe = CountingRecipe
    section = CountingSection
    raw_outputs = ("estimates",)
    final_outputs = ("numbers",)
    errors: ClassVar[Mapping[str, ErrorKind]] = {
        "numbers": ErrorKind(
            meaning="the fraction of numbers that differ is",
            max={"exact": 0.0, "resized": 0.1, "quantized": 0.5},
        )
    }
    csv_columns = ("class", "class_id", "number")
    record_key = "counts"
    arrow_columns: ClassVar[Mapping[str, tuple[str, str]]] = {
        "class_names": ("name", "string"),
        "numbers": ("number", "int64"),
    }

    def build_network(self, recipe: CountingRecipe, *, num_classes: int) -> Network:
        backbone = build_backbone(recipe.model.backbone)
        head = CountingHead(in_channels=backbone.channels["c5"], num_classes=num_classes)
        initialize(backbone, init="truncated_normal", std=0.09)
        head.initialize()
        return Network(backbone=backbone, heads={self.name: head})

    def training_run(self, name: str, recipe: CountingRecipe, *, pretrained: bool) -> CountingRun:
        network = self.build_network(recipe, num_classes=len(NAMES))
        if pretrained:
            load_pretrained(network, recipe.model, torchvision_model="none", exact=None)
        return self.assemble(name, recipe, network, train=Pictures(recipe, recipe.data.train))

    def evaluation_run(
        self, name: str, recipe: CountingRecipe, *, own: Classes | None, what: str
    ) -> CountingRun:
        return self.assemble(name, recipe, self.build_network(recipe, num_classes=len(NAMES)), train=None)

    def assemble(self, name: str, recipe: CountingRecipe, network: Network, *, train: Any) -> CountingRun:
        val = Pictures(recipe, recipe.data.val)
        return CountingRun(
            name=name,
            recipe=recipe,
            classes=Classes(NAMES, IDS),
            task=CountingTask(network=network, mean=recipe.data.mean, std=recipe.data.std),
            train=train or val,
            val=val,
            scored_on=val.folder,
            problems={"train": DataReport(val.folder), "val": DataReport(val.folder)},
            collate=collate,
        )

    def training_images(self, recipe: CountingRecipe) -> list[ImageFile]:
        data = Pictures(recipe, recipe.data.train)
        return [ImageFile(data.folder / name) for name in data.files]

    def input_hw(self, recipe: CountingRecipe) -> tuple[int, int]:
        return recipe.model.input_hw

    def decoder(self, manifest: Any, device: torch.device) -> Any:
        def decode(forward: Any, inputs: Tensor, images: Sequence[Any], *, min_score: float) -> list[Result]:
            (found,) = forward(inputs)
            numbers = (found if manifest.final else whole(found)).cpu().numpy()
            return [
                CountingResult(
                    path=None,
                    image=image,
                    class_names=manifest.class_names,
                    class_ids=manifest.section.class_ids,
                    numbers=own,
                )
                for image, own in zip(images, numbers, strict=True)
            ]

        return decode

    def count_classes(self, outputs: Sequence[Tensor], manifest: Any) -> int:
        return outputs[0].shape[1]

    def compare(self, pairs: Any, section: Any, strictness: Any) -> Comparison:
        numbers = np.array([[one.numbers, two.numbers] for one, two in pairs])
        return Comparison(errors={"numbers": float((numbers[:, 0] != numbers[:, 1]).mean())})

    def onnx_answers(self, graph: Any, raw: Sequence[Any], manifest: Any, image_hw: Any) -> list[Any]:
        numbers = graph.cast(graph.op("Round", graph.op("Relu", raw[0])), ir.DataType.INT64)
        return [(numbers, [len(manifest.class_names)], ir.DataType.INT64)]

    def zoo_size(self, recipe: CountingRecipe) -> tuple[int, tuple[int, int]]:
        return len(NAMES), recipe.model.input_hw


# The proof


@pytest.fixture(autouse=True, scope="module")
def fourth():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "TASKS", (*TASKS, CountingSpec()))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("counting")


@pytest.fixture(scope="module")
def pictures(folder):
    return write_pictures(folder / "data")


@pytest.fixture(scope="module")
def recipe(folder):
    path = folder / "count.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def run(recipe, pictures, folder):
    """Return the folder of a trained run; not to be changed."""
    assert cli.main(["train", str(recipe), f"data.root={pictures}", f"trainer.out={folder / 'runs'}"]) == 0
    (made,) = (folder / "runs" / "count").iterdir()
    return made


def test_its_recipe_is_loaded_and_checked(recipe):
    loaded = load_recipe(str(recipe)).recipe
    assert type(loaded) is CountingRecipe is recipe_kinds()[-1]
    assert tasks.spec_of(loaded).name == "counting"
    assert "CounterModel" in json.dumps(any_recipe().model_json_schema())
    with pytest.raises(ValueError, match=r"inputt_hw: unknown key; did you mean 'input_hw'"):
        load_recipe(str(recipe), ["model.inputt_hw=[64, 64]"])
    assert load_recipe("ssdlite_scenes").recipe.model.type == "ssdlite"


def test_without_its_spec_its_recipe_is_unknown(recipe, monkeypatch):
    monkeypatch.setattr(tasks, "TASKS", TASKS)
    with pytest.raises(ValueError, match=r"model\.type"):
        load_recipe(str(recipe))


def test_it_is_checked_trained_resumed_and_evaluated(run, recipe, pictures, tmp_path, capsys):
    assert cli.main(["train", str(recipe), f"data.root={pictures}", "--check"]) == 0
    shown = capsys.readouterr().out
    assert "estimates (8, 2)" in shown
    assert "loss      number" in shown
    taught = [f"distill.teacher={run}", "distill.features.type=pkd", f"data.root={pictures}", "--check"]
    assert cli.main(["train", str(recipe), *taught]) == 0
    assert "distill_features" in capsys.readouterr().out
    run = shutil.copytree(run, tmp_path / "count" / "copy")
    assert cli.main(["train", "--resume", str(run), "trainer.max_epochs=31"]) == 0
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 93
    assert content["dettoolkit"]["class_ids"] == IDS
    assert "network.heads.counting.estimate.weight" in content["state_dict"]
    assert cli.main(["evaluate", str(run), "--out", str(tmp_path / "scored")]) == 0
    report = json.loads((tmp_path / "scored" / "evaluation.json").read_text())
    assert 0 <= report["numbers"]["exact"] <= 1
    again = f"model.weights={run / 'checkpoints' / 'best.ckpt'}"
    assert cli.main(["train", str(recipe), again, f"data.root={pictures}", "--check"]) == 0


def test_it_is_loaded_and_predicts(run, pictures, tmp_path):
    predictor = load(run)
    (result, *_) = predictor(str(pictures / "val" / "*.png"))
    assert predictor.task == result.task == "counting"
    assert result.numbers.shape == (2,)
    out = tmp_path / "found"
    arguments = ["predict", str(run), str(pictures / "val"), "--out", str(out), "--save", "csv,json,figures"]
    assert cli.main(arguments) == 0
    with next(out.glob("*.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 9
    assert {row["class"] for row in rows} == set(NAMES)
    expected = {
        Path(each.path).name: each.numbers.tolist() for each in predictor(str(pictures / "val" / "*.png"))
    }
    assert [int(row["number"]) for row in rows if Path(row["name"]).name == "3.png"] == expected["3.png"]


@pytest.mark.parametrize("final", [False, True])
def test_it_is_exported_behind_the_gate(run, pictures, tmp_path, final):
    pytest.importorskip("onnxruntime")
    file = tmp_path / "count.onnx"
    inside = ["--preprocessing", "--postprocessing"] if final else []
    assert cli.main(["export", str(run), "--out", str(file), "--metric", *inside]) == 0
    report = json.loads(Path(f"{file}.report.json").read_text())
    assert "numbers" in json.dumps(report)
    exported, own = load(file), load(run)
    assert exported.manifest.export.outputs == (("numbers",) if final else ("estimates",))
    pattern = str(pictures / "val" / "*.png")
    for ours, theirs in zip(own(pattern), exported(pattern), strict=True):
        assert np.abs(ours.numbers - theirs.numbers).max() <= int(final)
