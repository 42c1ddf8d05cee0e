"""Images in a folder for each class: which files are found, what becomes of odd ones, augmentation."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionFolder
from torchvision.transforms import v2

from dettoolkit.classification.run import build_dataset, training_transform
from dettoolkit.datasets.classification_augment import EvalTransform, TrainTransform, torchvision_changes
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.data_root import check_root
from dettoolkit.datasets.image_folder import ImageFolder, ImageFolderFiles, collate, read_names
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.datasets.samples import to_tensor


def load(root: Path, images: str = "train", names: str | None = None) -> ImageFolderFiles:
    return ImageFolderFiles.load(root, images=images, names=names)


def photo(seed: int = 0, hw: tuple[int, int] = (90, 130)) -> Any:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 13, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, hw[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.fixture
def data(tiny_classification: Any, tmp_path: Path) -> Path:
    """Return a data set to be spoilt."""
    root: Path = tiny_classification.write(tmp_path / "data")
    return root


# Which files


def test_files_and_classes_are_torchvisions(data: Path) -> None:
    (data / "train" / "box" / "deeper").mkdir()
    for name in ("b.JPEG", "a.jpg", "ü.png"):
        cv2.imwrite(str(data / "train" / "box" / "deeper" / name), photo())
    ours = load(data)
    theirs = TorchvisionFolder(str(data / "train"))
    assert ours.class_names == theirs.classes == ["bar", "box", "disc"]
    paths = [str(ours.image_path(index)) for index in range(len(ours))]
    found = sorted(zip(paths, ours.labels.tolist(), strict=True))
    assert found == sorted(theirs.samples)
    assert len(ours) == 15
    assert ours.problems.counts == {}
    again = pickle.loads(pickle.dumps(ours))
    assert [str(again.image_path(index)) for index in range(15)] == paths


def test_what_is_no_image_of_a_class_is_told_and_left_out(data: Path) -> None:
    (data / "train" / "empty").mkdir()
    (data / "train" / ".hidden").mkdir()
    (data / "train" / "box" / "notes.txt").write_text("x")
    (data / "train" / "box" / ".DS_Store").write_text("x")
    (data / "train" / "README").write_text("x")
    cv2.imwrite(str(data / "train" / "loose.png"), photo())
    files = load(data)
    assert len(files) == 12
    assert files.class_names == ["bar", "box", "disc", "empty"]
    assert files.problems.counts == {
        "image outside class folders": 1,
        "not an image": 1,
        "class without images": 1,
    }
    told = files.problems.summary()
    for text in (
        f"image outside class folders: 1 (skipped)\n    {data}/train/loose.png",
        f"not an image: 1 (skipped)\n    {data}/train/box/notes.txt",
        f"class without images: 1 (kept; not trained or scored)\n    {data}/train/empty",
    ):
        assert text in told


def test_missing_and_empty_folders_say_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"train does not exist: correct data\.root or data\.\*\.imag"
    ):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"one folder of images per class, but has nothing$"):
        load(tmp_path)
    (tmp_path / "train" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"has 1 files and no folder\. ImageNet's validation images"):
        load(tmp_path)
    (tmp_path / "train" / "a").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has 1 folders of classes, but no image \(\.jpg, \.png, "):
        load(tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        check_root(tmp_path, expected=["train", "val"], layout="classes")
    assert f"  {tmp_path}/train\n  {tmp_path}/val   (missing)\nExisting folders: other, train\n" in str(
        caught.value
    )
    assert "ImageNet has 1,281,167 training" in str(caught.value)
    check_root(tmp_path, expected=["train"], layout="classes")


def test_classes_are_called_as_a_table_says(data: Path) -> None:
    (data / "names.txt").write_text(
        "box crane, a bird\n\nbar\tcrane\ndisc compact disc, CD\n", encoding="utf-8"
    )
    assert load(data, names="names.txt").class_names == ["crane (bar)", "crane (box)", "compact disc"]
    (data / "names.txt").write_text("disc compact disc\nother thing\n", encoding="utf-8")
    assert load(data, names="names.txt").class_names == ["bar", "box", "compact disc"]
    for text, told in (
        ("box crane\nbox hoist\n", "names.txt:2: 'box' has two names: write one line per class"),
        ("box\n", "names.txt:1: 'box' has no name after it: write one line per class"),
    ):
        (data / "names.txt").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=told):
            read_names(data / "names.txt")
    with pytest.raises(
        FileNotFoundError, match=r"no file .*/x\.txt with the names of classes: correct data\.na"
    ):
        load(data, names="x.txt")


def test_classes_are_numbered_as_a_network_has_them(data: Path) -> None:
    val = load(data, "val")
    assert val.numbered_as(["bar", "box", "disc"], whose="weights") is val
    other = val.numbered_as(["disc", "cone", "box", "bar"], whose="weights")
    assert other.class_names == ["disc", "cone", "box", "bar"]
    assert other.labels.tolist() == [3, 3, 3, 2, 2, 2, 0]
    with pytest.raises(
        ValueError, match=r"^weights has 2 classes \(bar, cone\), but .*/val has .*only in the second: box"
    ):
        val.numbered_as(["bar", "cone"], whose="weights")


# Samples


def dataset(files: ImageFolderFiles, **changes: Any) -> ImageFolder:
    transform = EvalTransform(input_hw=(32, 40), resize=48, antialias=True)
    settings: dict[str, Any] = {
        "transform": transform,
        "on_bad_image": "error",
        "max_bad_images": 1,
        "max_megapixels": 1.0,
        "seed": 3,
    }
    return ImageFolder(files=files, **settings | changes)


def test_samples_make_batches(data: Path) -> None:
    val = dataset(load(data, "val"))
    batch = collate([val[index] for index in range(len(val))])
    assert batch["images"].shape == (7, 3, 32, 40)
    assert batch["images"].dtype == torch.uint8
    assert batch["class_labels"].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert batch["image_ids"].tolist() == list(range(7))
    assert batch["original_hw"].tolist() == [[48, 64]] * 7
    assert batch["files"][6] == f"{data}/val/disc/1.png"
    assert batch["bad_images"] == batch["problems"] == []
    with pytest.raises(ValueError, match="collate needs at least one sample"):
        collate([])


def test_unreadable_images_stop_or_are_skipped(data: Path) -> None:
    for path in (data / "val" / "box").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    val = dataset(load(data, "val"))
    reason = f"{data}/val/box/1.png: file is truncated or damaged (60 bytes, no end-of-image marker)"
    with pytest.raises(BadImageError) as caught:
        val[3]
    assert str(caught.value).startswith(
        f"{reason}. Repair or remove it, or skip such images with data.on_bad"
    )
    val = dataset(load(data, "val"), on_bad_image="skip", max_bad_images=2)
    batch = collate([val[3], val[6]])
    assert batch["bad_images"] == [reason]
    assert batch["class_labels"].tolist() == [2]
    empty = collate([val[3], val[4]])
    assert empty["images"].shape == (0, 3, 32, 40)
    assert empty["original_hw"].shape == (0, 2)
    with pytest.raises(BadImageError, match=r"3 images cannot be read, more than data.max_bad_images=2"):
        val[5]


# Augmentation

AUGMENTS = (
    "{type: inception}",
    "{type: torchvision, policy: randaugment, num_ops: 3, erasing: 0.5}",
    "{type: torchvision, policy: autoaugment}",
)


def augmentation(tiny: Any, augment: str, *overrides: str) -> Any:
    recipe = tiny.load(tiny.data, f"data.augment={augment}", *overrides).recipe
    return training_transform(recipe.data)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_a_sample_depends_on_seed_epoch_and_index_only(tiny_classification: Any, augment: str) -> None:
    def make(seed: int) -> ImageFolder:
        override = (f"data.augment={augment}", f"trainer.seed={seed}")
        recipe = tiny_classification.load(tiny_classification.data, *override).recipe
        return build_dataset(recipe, load(tiny_classification.data), split="train")

    one, keys = make(5), [SampleKey(index, epoch) for index in (3, 0, 7) for epoch in (1, 0)]
    torch.manual_seed(1)
    first = [one[key]["image"] for key in keys]  # type: ignore[index]
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))  # the run's own generator was not touched
    torch.manual_seed(2)
    other = pickle.loads(pickle.dumps(one))  # as a worker gets it
    again = [other[key]["image"] for key in reversed(keys)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for i, a in enumerate(first) for b in first[:i])
    assert not torch.equal(make(6)[keys[0]]["image"], first[0])  # type: ignore[index]
    assert all(each.shape == (3, 64, 64) and each.dtype == torch.uint8 for each in first)
    assert all(each.is_contiguous() for each in first)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_the_device_generators_stay_as_they_are(
    tiny_classification: Any, augment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the device's generator was set")

    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    augmentation(tiny_classification, augment)(photo(), seed=3)


def test_windows_have_the_share_and_the_aspect_that_were_asked_for() -> None:
    # A picture whose colors say where a pixel was: red is the column, green the row.
    rows, columns = np.mgrid[0:240, 0:250]
    picture = np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)
    transform = TrainTransform(
        input_hw=(64, 64), area=(0.1, 0.5), aspect=(0.75, 1.33), antialias=False, flip=True, changes=[]
    )
    fractions, aspects, flipped = [], [], 0
    for seed in range(300):
        red, green, _ = transform(picture, seed).astype(float).transpose(2, 0, 1)
        step = (red[:, -1] - red[:, 0]).mean() / 63 * 64
        width, height = abs(step), (green[-1] - green[0]).mean() / 63 * 64
        flipped += step < 0
        fractions.append(width * height / (240 * 250))
        aspects.append(width / height)
    assert 0.09 < min(fractions) < 0.13
    assert 0.45 < max(fractions) < 0.52
    assert 0.72 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.37
    assert 110 < flipped < 190


def test_inception_changes_color_and_only_where_asked(tiny_classification: Any) -> None:
    gray = np.full((80, 80, 3), 128, np.uint8)
    plain = augmentation(tiny_classification, "{type: inception, color: false}")
    color = augmentation(tiny_classification, "{type: inception}")
    assert (plain(gray, 0) == np.full((64, 64, 3), 128, np.uint8)).all()
    levels = [int(color(gray, seed)[0, 0, 0]) for seed in range(200)]
    assert 110 <= min(levels) < 115  # 7/8 of 128, and what rounding takes
    assert 141 < max(levels) <= 144
    assert all(len(np.unique(color(gray, seed))) == 1 for seed in range(5))


def test_erasing_fills_with_the_mean_color_as_often_as_asked() -> None:
    changes = torchvision_changes(policy="none", num_ops=1, magnitude=1, erasing=0.25, mean=(0.2, 0.4, 0.6))
    transform = TrainTransform(
        input_hw=(64, 64), area=(1, 1), aspect=(1, 1), antialias=False, flip=False, changes=changes
    )
    white = np.full((64, 64, 3), 255, np.uint8)
    erased = [transform(white, seed) for seed in range(400)]
    touched = [each for each in erased if (each != 255).any()]
    assert 70 < len(touched) < 130
    for each in touched:
        where = each[..., 0] != 255
        assert np.unique(each[where], axis=0).tolist() == [[51, 102, 153]]
        assert 0.02 <= where.mean() <= 0.35  # torchvision's fractions


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("hw", [(90, 130), (130, 90), (64, 64), (300, 500)])
def test_scored_images_are_torchvisions(antialias: bool, hw: tuple[int, int]) -> None:
    image = photo(hw=hw)
    ours = EvalTransform(input_hw=(64, 64), resize=73, antialias=antialias)(image, seed=0)
    theirs = v2.Compose([v2.Resize(73, antialias=antialias), v2.CenterCrop(64)])
    assert torch.equal(to_tensor(ours), theirs(torch.from_numpy(image).permute(2, 0, 1)))
    if antialias:  # Pillow's, which torchvision's published scores were measured with
        pillow = v2.functional.pil_to_tensor(theirs(Image.fromarray(image)))
        assert (to_tensor(ours).int() - pillow.int()).abs().max() <= 1


def test_without_augmentation_training_images_are_cut_as_scored_ones(tiny_classification: Any) -> None:
    transform = augmentation(tiny_classification, "null", "data.eval_resize=80")
    wanted = EvalTransform(input_hw=(64, 64), resize=80, antialias=True)
    np.testing.assert_array_equal(transform(photo(), 1), wanted(photo(), 2))


def test_other_than_eight_bit_color_is_refused() -> None:
    transform = EvalTransform(input_hw=(64, 64), resize=64, antialias=True)
    with pytest.raises(
        ValueError, match=r"image must be uint8 \(H, W, 3\), got float64 \(8, 8, 3\): decode it"
    ):
        transform(np.zeros((8, 8, 3)), 0)  # type: ignore[arg-type]
