"""What every test may use: the repository, real data and weights where there are any, and tiny runs."""

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from allowed_skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401  hooks
from filelock import FileLock
from learning_margins import SEED

# Before any library is imported: nothing asks the network for news or sends it a report.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

REPOSITORY = Path(__file__).resolve().parents[1]

TINY_RECIPE = """\
model:
  type: ssdlite
  input_hw: [64, 64]
  backbone: {type: mobilenet_v3_small, width: 0.35, tail: reduced, norm_momentum: 0.1}
  head: {extra_channels: [32, 32], class_bias: -4.6}
  loss: {type: focal}
data:
  type: coco
  root: nowhere
  train: {images: train, annotations: annotations/train.json}
  val: {images: val, annotations: annotations/val.json}
  augment: none
  batch_size: 4
  workers: 0
optim: {lr: 0.05, schedule: {warmup_steps: 1}}
trainer:
  max_epochs: 2
  accelerator: cpu
  devices: 1
  log_every_steps: 1
  loggers: {tensorboard: false}
  extra: {enable_progress_bar: false}
evaluation: {figures: 2}
"""
TINY_CLASSES = {3: "box", 7: "bar"}  # ids with gaps, as COCO's
TINY_SEGMENTATION_RECIPE = """\
model:
  type: lraspp
  backbone: {type: mobilenet_v3_small, width: 0.35, tail: reduced_c4, output_stride: 16, norm_momentum: 0.1}
  head: {filters: 32}
data:
  type: cityscapes
  root: nowhere
  crop_hw: [64, 64]
  augment: null
  batch_size: 4
  workers: 0
optim: {lr: 0.05, schedule: {type: poly, warmup_steps: 1}}
trainer:
  max_epochs: 2
  accelerator: cpu
  devices: 1
  log_every_steps: 1
  loggers: {tensorboard: false}
  extra: {enable_progress_bar: false}
evaluation: {figures: 2}
"""
TINY_CLASSIFICATION_RECIPE = """\
model:
  type: classifier
  backbone: {type: mobilenet_v3_small, width: 0.35, norm_momentum: 0.1}
  head: {dropout: 0.1}
data:
  type: image_folder
  root: nowhere
  input_hw: [64, 64]
  eval_resize: 64
  augment: null
  batch_size: 6
  workers: 0
optim: {lr: 0.05, schedule: {warmup_steps: 1}}
trainer:
  max_epochs: 2
  accelerator: cpu
  devices: 1
  log_every_steps: 1
  loggers: {tensorboard: false}
  extra: {enable_progress_bar: false}
evaluation: {figures: 4}
"""
TINY_JOINT_RECIPE = """\
model:
  type: joint
  input_hw: [64, 64]
  backbone: {type: mobilenet_v3_small, width: 0.35, tail: reduced, norm_momentum: 0.1}
  detection: {head: {extra_channels: [32, 32], class_bias: -4.6}, loss: {type: focal}}
  segmentation: {head: {filters: 32}}
data:
  type: cityscapes
  root: nowhere
  detection: {augment: none}
  batch_size: 4
  workers: 0
optim: {lr: 0.05, schedule: {warmup_steps: 1}}
trainer:
  max_epochs: 2
  accelerator: cpu
  devices: 1
  log_every_steps: 1
  loggers: {tensorboard: false}
  extra: {enable_progress_bar: false}
evaluation: {figures: 2}
"""
LEARN = (  # scores that tell, from random weights within seconds; on any CPU: see learning_margins.py
    "data.batch_size=8",
    "optim={type: adamw, lr: 0.04, schedule: {type: poly, power: 0.9, warmup_steps: 5, warmup_factor: 0.2}}",
    "trainer={max_epochs: 60, val_every_epochs: 30, ema: {decay: 0.5, warmup_steps: 1}}",
    f"trainer.seed={SEED}",
)
LEARN_CLASSES = (
    "data={train: {images: many}, batch_size: 16}",
    "model.backbone.norm_momentum=0.3",  # with less, one of twenty seeds is scored by statistics that lag
    "optim={type: adamw, lr: 0.01, schedule: {warmup_steps: 5, warmup_factor: 0.2}}",
    "trainer={max_epochs: 20, val_every_epochs: 10, ema: {decay: 0.5, warmup_steps: 1}}",
    f"trainer.seed={SEED}",
)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder that holds the real data sets (coco256, facemask848, …), or skip."""
    return _folder("DETTOOLKIT_TEST_DATA", "data", "the real data sets (coco256, facemask848, …)")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Return the folder that holds the pretrained weights, or skip."""
    return _folder("DETTOOLKIT_TEST_WEIGHTS", "weights", "the pretrained weights")


def _folder(variable: str, name: str, content: str) -> Path:
    named = os.environ.get(variable)
    folder = Path(named) if named else REPOSITORY.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set {variable} to the one that holds {content}")
    return folder.resolve()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Take launchers' variables away, collect what is told, and let Ctrl-C work again afterwards."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from dettoolkit.training.run_folder import RANKS

    for name in (*RANKS, "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what the test leaves there is taken away, too
        monkeypatch.delenv(name)
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # where Lightning keeps it for the whole process
    caplog.set_level(logging.INFO, logger="dettoolkit")
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@dataclass(frozen=True)
class Tiny:
    """A recipe and a data set so small that a run takes about a second.

    Attributes:
        recipe: the recipe's file, tiny.yaml; it names no data set.
        data: COCO data set of 8 training and 5 validation images; not to be changed.
    """

    recipe: Path
    data: Path

    def load(self, out: Path, *overrides: str) -> Any:
        """Read the recipe with the data set, `out` for its runs, and overrides."""
        from dettoolkit.config import load_recipe

        return load_recipe(str(self.recipe), [f"data.root={self.data}", f"trainer.out={out}", *overrides])

    def train(self, out: Path, *overrides: str, resume: Path | None = None) -> tuple[Path, Any]:
        """Train, in `out` or continuing a run, and return the run's folder and score."""
        from dettoolkit.training import commands

        resolved = self.load(out, *overrides)
        return commands.train("tiny", resolved.recipe, config_yaml=resolved.to_yaml(), resume=resume)

    @staticmethod
    def write(root: Path, *, train: int = 8, val: int = 5) -> Path:
        """Write a data set like `data`, to be changed."""
        (root / "annotations").mkdir(parents=True)
        for split, count in (("train", train), ("val", val)):
            (root / split).mkdir()
            content = {"images": [], "annotations": [], "categories": []}
            content["categories"] = [{"id": id_, "name": name} for id_, name in TINY_CLASSES.items()]
            for number in range(1, count + 1):
                _write_image(root / split, number, content)
            (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
        return root


def _write_image(folder: Path, number: int, content: dict[str, list[Any]]) -> None:
    """Write an image of 48 x 64 with a box in its upper half and a bar in its lower one."""
    rng = np.random.default_rng(number + 1000 * len(folder.name))
    image = np.full((48, 64, 3), 90, np.uint8)
    content["images"].append({"id": 10 * number, "file_name": f"{number}.png", "height": 48, "width": 64})
    for category, (w, h), top, color in ((3, (18, 18), 0, (30, 40, 220)), (7, (40, 9), 24, (230, 200, 20))):
        x, y = int(rng.integers(0, 64 - w)), top + int(rng.integers(0, 6))
        cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), color, -1)
        content["annotations"].append(
            {"id": len(content["annotations"]) + 1, "image_id": 10 * number, "category_id": category}
            | {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
        )
    cv2.imwrite(str(folder / f"{number}.png"), image)


@dataclass(frozen=True)
class TinySegmentation(Tiny):
    """As Tiny, with a segmenter and Cityscapes' 19 classes, of which the data have four.

    Attributes:
        recipe: the recipe's file, tiny.yaml; it names no data set.
        data: Cityscapes' folders with 8 training images of 48 x 64 and 5 validation images, every other of
            45 x 61; with instance files; not to be changed.
    """

    @staticmethod
    def write(root: Path, *, train: int = 8, val: int = 5) -> Path:
        """Write a data set like `data`, to be changed."""
        for split, city, count in (("train", "aachen", train), ("val", "lindau", val)):
            for number in range(1, count + 1):
                odd = split == "val" and number % 2 == 0
                _write_pair(root, f"{split}/{city}/{city}_{number:06d}_000019", (45, 61) if odd else (48, 64))
        return root


def _write_pair(root: Path, name: str, hw: tuple[int, int]) -> None:
    """Write an image of sky above a road with two cars and a person, and its labels; void is at the left."""
    rng = np.random.default_rng(list(name.encode()))
    height, width = hw
    instances = np.full(hw, 23, np.uint16)  # what is no object has its label id
    instances[height // 2 :] = 7
    for instance, (h, w) in ((26000, (12, 18)), (26001, (9, 14)), (24000, (20, 10))):
        top, left = height // 2 - h + int(rng.integers(4, 12)), int(rng.integers(6, width - w))
        instances[top : top + h, left : left + w] = instance
    instances[:, :4] = 0
    labels = np.where(instances < 1000, instances, instances // 1000).astype(np.uint8)
    colors = np.zeros((256, 3), np.uint8)
    colors[[0, 7, 23, 24, 26]] = [(90, 90, 90), (90, 40, 90), (200, 150, 60), (40, 20, 220), (140, 30, 0)]
    image = colors[labels] + rng.integers(0, 20, (*hw, 3), np.uint8)
    for folder, ending, pixels in (
        ("leftImg8bit", "leftImg8bit", image),
        ("gtFine", "gtFine_labelIds", labels),
        ("gtFine", "gtFine_instanceIds", instances),
    ):
        path = root / folder / f"{name}_{ending}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels)


@dataclass(frozen=True)
class TinyClassification(Tiny):
    """As Tiny, with a classifier.

    Attributes:
        recipe: the recipe's file, tiny.yaml; it names no data set.
        data: folders of the classes bar, box and disc, with 4 training images of 48 x 64 each, and 3, 3 and
            1 validation images; `many` has 16 training images of each; not to be changed.
    """

    @staticmethod
    def write(root: Path, *, train: int = 4, val: int = 3) -> Path:
        """Write a data set like `data`, to be changed."""
        for split, count in (("train", train), ("many", 4 * train), ("val", val)):
            for label, kind in enumerate(("bar", "box", "disc")):
                for number in range(1, (1 if (split, kind) == ("val", "disc") else count) + 1):
                    _write_shape(root / split / kind / f"{number}.png", kind, [len(split), label, number])
        return root


def _write_shape(path: Path, kind: str, seed: list[int]) -> None:
    """Write an image of 48 x 64 with one shape."""
    rng = np.random.default_rng(seed)
    image = np.full((48, 64, 3), 90, np.uint8) + rng.integers(0, 20, (48, 64, 3), np.uint8)
    x, y = int(rng.integers(10, 22)), int(rng.integers(2, 18))
    if kind == "disc":
        cv2.circle(image, (x + 14, y + 14), 13, (60, 220, 60), -1)
    else:
        high, color = (8, (230, 200, 20)) if kind == "bar" else (26, (30, 40, 220))
        cv2.rectangle(image, (x, y), (x + 28, y + high), color, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


Once = Callable[[str, Callable[[Path], Path]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Return a function that makes something in a folder, once for all of pytest-xdist's processes."""

    def once(name: str, make: Callable[[Path], Path]) -> Path:
        base = tmp_path_factory.getbasetemp()
        folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
        made = folder.with_suffix(".made")
        with FileLock(folder.with_suffix(".lock")):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                folder.mkdir()
                made.write_text(str(make(folder)))
        return Path(made.read_text())

    return once


def _written(kind: type[Tiny], recipe: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "tiny.yaml").write_text(recipe)
        return kind.write(folder / "data")

    return make


@pytest.fixture(scope="session")
def tiny(once: Once) -> Tiny:
    """Return a tiny recipe with its data set."""
    data = once("tiny", _written(Tiny, TINY_RECIPE))
    return Tiny(data.parent / "tiny.yaml", data)


@pytest.fixture(scope="session")
def tiny_run(tiny: Tiny, once: Once) -> Path:
    """Return the folder of a finished run of 2 epochs with 2 steps each; not to be changed."""
    ema = "trainer.ema={decay: 0.5, warmup_steps: 1}"
    return once("tiny_run", lambda out: tiny.train(out, ema, "trainer.loggers.tensorboard=true")[0])


@pytest.fixture(scope="session")
def tiny_learnt_run(tiny: Tiny, once: Once) -> Path:
    """Return the folder of a run of 60 epochs with a step each: it finds boxes; not to be changed."""
    return once("tiny_learnt_run", lambda out: tiny.train(out, *LEARN)[0])


@pytest.fixture(scope="session")
def tiny_segmentation(once: Once) -> TinySegmentation:
    """Return a tiny segmentation recipe with its data set."""
    data = once("tiny_segmentation", _written(TinySegmentation, TINY_SEGMENTATION_RECIPE))
    return TinySegmentation(data.parent / "tiny.yaml", data)


@pytest.fixture(scope="session")
def tiny_segmentation_run(tiny_segmentation: TinySegmentation, once: Once) -> Path:
    """Return the folder of a finished run of 60 epochs with a step each: it has learnt; not to be changed."""
    return once("tiny_segmentation_run", lambda out: tiny_segmentation.train(out, *LEARN)[0])


@pytest.fixture(scope="session")
def tiny_classification(once: Once) -> TinyClassification:
    """Return a tiny classification recipe with its data set."""
    data = once("tiny_classification", _written(TinyClassification, TINY_CLASSIFICATION_RECIPE))
    return TinyClassification(data.parent / "tiny.yaml", data)


@pytest.fixture(scope="session")
def tiny_classification_run(tiny_classification: TinyClassification, once: Once) -> Path:
    """Return the folder of a finished run of 20 epochs of 3 steps: it has learnt; not to be changed."""
    return once("tiny_classification_run", lambda out: tiny_classification.train(out, *LEARN_CLASSES)[0])


@pytest.fixture(scope="session")
def tiny_joint(once: Once) -> TinySegmentation:
    """Return a tiny joint recipe with a data set whose images have boxes and label maps."""
    data = once("tiny_joint", _written(TinySegmentation, TINY_JOINT_RECIPE))
    return TinySegmentation(data.parent / "tiny.yaml", data)


@pytest.fixture(scope="session")
def tiny_joint_run(tiny_joint: TinySegmentation, once: Once) -> Path:
    """Return the folder of a finished run of 60 epochs with a step each: it has learnt; not to be changed."""
    return once("tiny_joint_run", lambda out: tiny_joint.train(out, *LEARN)[0])
