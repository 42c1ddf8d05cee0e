"""A second detection head that lives in this file alone: without anchors, after FCOS (arXiv 1904.01355).

Each cell of a level says how far the sides of an object are from its center. Its assigner looks at what the
head predicts, as those of YOLOX and NanoDet do. All else is detection's: data, post-processing, COCO's
numbers, results, export behind the gate with final answers inside.

N: images, M: objects, A: cells of all levels, K: classes.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from dettoolkit import load, tasks
from dettoolkit.backbones.initialize import initialize
from dettoolkit.config import load_recipe
from dettoolkit.config.detection import Postprocess, SSDLiteModel
from dettoolkit.config.model import Model
from dettoolkit.config.recipe import DetectionRecipe
from dettoolkit.config.sections import InitStd, Section, SizeHW, Text
from dettoolkit.datasets.images import read_image
from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.box_coding import CODERS, pairwise_iou
from dettoolkit.detection.detectors import BUILDERS, Detector
from dettoolkit.detection.matching import Assignment, Objects, Targets
from dettoolkit.detection.spec import DetectionSpec, Level
from dettoolkit.export.command import export
from dettoolkit.export.request import Request
from dettoolkit.training import commands

pytestmark = pytest.mark.usefixtures("alone")

RECIPE = """\
model:
  type: points
  input_hw: [64, 64]
  backbone: {type: mobilenet_v3_small, width: 0.35, tail: reduced, norm_momentum: 0.1}
data:
  type: coco
  root: nowhere
  train: {images: train, annotations: annotations/train.json}
  val: {images: val, annotations: annotations/val.json}
  augment: none
  batch_size: 8
  workers: 0
optim: {type: adamw, lr: 0.02, schedule: {warmup_steps: 5}}
trainer:
  max_epochs: 60
  val_every_epochs: 60
  ema: {decay: 0.5, warmup_steps: 1}
  accelerator: cpu
  devices: 1
  log_every_steps: 1
  loggers: {tensorboard: false}
  extra: {enable_progress_bar: false}
evaluation: {figures: 2, score_threshold: 0.01}
"""


# The recipe's section


class PointsHeadSection(Section):
    init: Literal["truncated_normal", "normal"] = Field("normal", description="Of the initial kernels.")
    init_std: InitStd = Field(0.03, description="Standard deviation of the initial kernels.")


class PointsModel(Model):
    type: Literal["points"]
    input_hw: SizeHW = Field((64, 64), description="Height and width that images are resized to.")
    head: PointsHeadSection = Field(default_factory=PointsHeadSection)
    postprocess: Postprocess = Field(default_factory=Postprocess)
    weights: Text | None = Field(None, description="Weights of the whole detector to start from.")


class TwoHeadsRecipe(DetectionRecipe):
    model: Annotated[SSDLiteModel | PointsModel, Field(discriminator="type")]


# The head


class PointsHead(nn.Module):
    """Predict class logits (N, A, K) and distances (N, A, 4), not negative, in units of a cell."""

    features = ("c4", "c5")
    anchors_xyxy: Tensor

    def __init__(self, *, in_channels: tuple[int, ...], anchors_xyxy: Tensor, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("anchors_xyxy", anchors_xyxy, persistent=False)
        self.classes = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for channels in in_channels)
        self.distances = nn.ModuleList(nn.Conv2d(channels, 4, 1) for channels in in_channels)

    def initialize(self) -> None:
        initialize(self, init="normal", std=0.03)
        for branch in self.classes:
            nn.init.constant_(branch.bias, -3.0)

    def forward(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        logits = [branch(x) for branch, x in zip(self.classes, features, strict=True)]
        distances = [F.softplus(branch(x)) for branch, x in zip(self.distances, features, strict=True)]
        logits, distances = (
            torch.cat([each.flatten(2).transpose(1, 2) for each in levels], dim=1)
            for levels in (logits, distances)
        )
        return logits, distances


# Which cell learns which object, and the losses


@torch.no_grad()
def assign(
    outputs: tuple[Tensor, Tensor], anchors_xyxy: Tensor, objects: Objects, *, cells: int = 3
) -> Assignment:
    """Give each object the cells inside it that predict it best: int64 (N, A), -1 for none."""
    logits, distances = outputs
    boxes = CODERS["distances"].decode(distances.float(), anchors_xyxy)  # (N, A, 4)
    most = objects.labels.shape[1]
    matched = torch.full(boxes.shape[:2], -1, device=boxes.device)
    if most == 0:
        return Assignment(matched)
    center = (anchors_xyxy[:, :2] + anchors_xyxy[:, 2:]) / 2
    corners = objects.boxes_xyxy.unsqueeze(2)  # (N, M, 1, 4)
    inside = ((corners[..., :2] < center) & (center < corners[..., 2:])).all(-1)
    inside &= (objects.labels >= 0).unsqueeze(2)  # (N, M, A)
    index = objects.labels.clamp(min=0).unsqueeze(2).expand(-1, -1, boxes.shape[1])
    own = logits.float().sigmoid().transpose(1, 2).gather(1, index)  # (N, M, A): score of its class
    cost = -own.log() - 3 * (pairwise_iou(objects.boxes_xyxy, boxes) + 1e-6).log()
    cost = cost.masked_fill(~inside, torch.inf)
    worst = cost.topk(min(cells, cost.shape[2]), dim=2, largest=False).values[..., -1:]
    finite = cost.masked_fill(~inside | (cost > worst), torch.inf)
    lowest, best = finite.min(dim=1)  # (N, A): an object wins a cell that several want
    return Assignment(torch.where(lowest.isfinite(), best, matched))


def losses(outputs: tuple[Tensor, Tensor], anchors_xyxy: Tensor, targets: Targets) -> dict[str, Tensor]:
    """Compute focal loss over all cells, and 1 - IoU of those that have an object."""
    logits, distances = (each.float() for each in outputs)
    positive = targets.slots > 0
    count = positive.sum().clamp(min=1)
    wanted = F.one_hot(targets.slots, logits.shape[2] + 1)[..., 1:].float()
    focal = sigmoid_focal_loss(logits, wanted, alpha=0.5, reduction="sum")
    wanted = CODERS["distances"].encode(targets.boxes_xyxy, anchors_xyxy)
    sides = (distances, wanted, torch.minimum(distances, wanted))
    area, true, shared = ((each[..., :2] + each[..., 2:]).prod(-1) for each in sides)
    iou = shared / (area + true - shared + 1e-6)
    return {"class": focal / count, "box": torch.where(positive, 1 - iou, 0.0).sum() / count}


# What tells detection of it


def points(model: PointsModel) -> Detector:
    def levels(strides: Mapping[str, int]) -> tuple[Level, ...]:
        grids = [tuple(-(-side // strides[name]) for side in model.input_hw) for name in PointsHead.features]
        return tuple(Level(grid_hw=(rows, cols), sizes=((1 / cols, 1 / rows),)) for rows, cols in grids)

    def head(*, channels: Mapping[str, int], levels: tuple[Level, ...], num_classes: int) -> PointsHead:
        return PointsHead(
            in_channels=tuple(channels[name] for name in PointsHead.features),
            anchors_xyxy=default_boxes(levels, input_hw=model.input_hw),
            num_classes=num_classes,
        )

    return Detector(
        levels=levels,
        head=head,
        coder="distances",
        background=False,
        activation="sigmoid",
        assigner=lambda _: assign,
        losses_of=losses,
        torchvision_model="none",
    )


class TwoHeadsSpec(DetectionSpec):
    """Detection, whose recipes may have this model too."""

    recipe = TwoHeadsRecipe


@pytest.fixture(scope="module")
def resolved(tiny, tmp_path_factory):
    """Return the recipe, on pictures of a blue box and a yellow bar; until the end both heads are known."""
    folder = tmp_path_factory.mktemp("points")
    (folder / "points.yaml").write_text(RECIPE)
    two = tuple(TwoHeadsSpec() if spec.name == "detection" else spec for spec in tasks.TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "TASKS", two)
        patch.setitem(BUILDERS, PointsModel, points)
        yield load_recipe(str(folder / "points.yaml"), [f"data.root={tiny.data}", f"trainer.out={folder}"])


@pytest.fixture(scope="module")
def trained(resolved):
    """Return the folder of a run, and its score."""
    return commands.train("points", resolved.recipe, config_yaml=resolved.to_yaml())


def test_the_cells_that_predict_an_object_best_learn_it():
    levels = (Level(grid_hw=(4, 4), sizes=((0.25, 0.25),)),)
    anchors = default_boxes(levels, input_hw=(64, 64))
    objects = Objects(torch.tensor([[[0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 0.0, 0.0]]]), torch.tensor([[1, -1]]))
    logits, distances = torch.zeros(1, 16, 2), torch.full((1, 16, 4), 0.5)
    assert (
        assign((logits, distances), anchors, objects, cells=9).matched >= 0
    ).sum() == 4  # centers 8 and 24 of 64
    logits[0, 5, 1] = 4.0
    matched = assign((logits, distances), anchors, objects, cells=1).matched
    assert (matched[0] >= 0).nonzero().flatten().tolist() == [5]
    logits[0, 5, 1], distances[0, 0] = 0.0, torch.tensor([0.5, 0.5, 2.0, 2.0])  # exactly the object's sides
    matched = assign((logits, distances), anchors, objects, cells=1).matched
    assert (matched[0] >= 0).nonzero().flatten().tolist() == [0]
    for none in (
        Objects(objects.boxes_xyxy, objects.labels - 9),
        Objects(torch.zeros(1, 0, 4), torch.zeros(1, 0)),
    ):
        assert (assign((logits, distances), anchors, none).matched < 0).all()


def test_it_is_checked(resolved):
    text = commands.check("points", resolved.recipe)
    assert "points on mobilenet_v3_small, 2 classes, 20 default boxes at 64x64" in text
    assert "class logits (8, 20, 2), box deltas (8, 20, 4)" in text


def test_it_is_trained_and_scored(resolved, trained, tmp_path):
    run, result = trained
    assert result.numbers["AP50"] > 0.5
    again = commands.evaluate(run, recipe=resolved.recipe, out=tmp_path / "evaluation")[1]
    assert again.numbers == result.numbers
    assert json.loads((tmp_path / "evaluation/predictions.json").read_text())


def test_it_is_loaded_and_finds_objects(trained, tiny):
    predictor = load(trained[0], device="cpu")
    section = predictor.manifest.section
    assert (section.coder, section.background, section.activation) == ("distances", False, "sigmoid")
    found = predictor([tiny.data / f"val/{number}.png" for number in range(1, 6)])
    assert {name for result in found for name in result.names} == {"box", "bar"}


@pytest.mark.parametrize("inside", [False, True])
def test_it_is_exported_behind_the_gate(trained, tiny, tmp_path, inside):
    pytest.importorskip("onnxruntime")
    request = Request(format="onnx", batch=None, preprocessing=inside, postprocessing=inside, metric=True)
    exported = export(trained[0], tmp_path / "points.onnx", request)
    assert not exported.report.failures
    images = [read_image(tiny.data / f"val/{number}.png") for number in range(1, 6)]
    ours, theirs = (load(path, device="cpu")(images) for path in (trained[0], exported.path))
    assert sum(len(result) for result in ours) > 3
    for expected, found in zip(ours, theirs, strict=True):
        assert found.names == expected.names
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1.0 if inside else 0.01)
