"""Large images are kept once, as small as training uses them."""

from __future__ import annotations

import os
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dettoolkit.datasets import shrunk_images
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.shrunk_images import ShrunkImages
from dettoolkit.tasks import spec_of


def photo(path: Path, hw: tuple[int, int] = (600, 800), *, shift: int = 0) -> Path:
    rows, columns = np.mgrid[: hw[0], : hw[1]]
    image = np.stack([rows * 200 // hw[0], columns * 200 // hw[1], np.full(hw, 40 + shift)], -1)
    assert cv2.imwrite(str(path), image.astype(np.uint8)[..., ::-1])
    return path


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"))


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png"])
def test_a_large_image_is_shrunk_once(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, images = photo(tmp_path / name), ShrunkImages(tmp_path / "kept", least_hw=(150, 160))
    first = images.read(path, max_megapixels=1.0)
    assert (first.hw, first.image.shape, first.scale_xy) == ((600, 800), (150, 200, 3), (0.25, 0.25))
    means = read_image(path).astype(np.float64).reshape(150, 4, 200, 4, 3).mean((1, 3))
    assert np.abs(first.image - means).mean() < 1
    (file,) = kept(tmp_path / "kept")
    assert file.stat().st_size < path.stat().st_size

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("decoded again")

    monkeypatch.setattr(shrunk_images, "decode", never)
    again = images.read(path, max_megapixels=1.0)
    np.testing.assert_array_equal(again.image, first.image)
    assert again[1:] == first[1:]


def test_what_is_hardly_larger_is_read_as_ever(tmp_path: Path) -> None:
    path, images = photo(tmp_path / "photo.jpg"), ShrunkImages(tmp_path / "kept", least_hw=(500, 500))
    found = images.read(path, max_megapixels=1.0)
    np.testing.assert_array_equal(found.image, read_image(path))
    assert (found.hw, found.scale_xy) == ((600, 800), (1, 1))
    assert kept(tmp_path / "kept") == []


def test_a_changed_image_and_another_size_are_kept_anew(tmp_path: Path) -> None:
    path, folder = photo(tmp_path / "photo.jpg"), tmp_path / "kept"
    images = ShrunkImages(folder, least_hw=(150, 160))
    images.read(path, max_megapixels=1.0)
    stamp = path.stat()
    photo(path, shift=60)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as a copy that keeps times
    assert images.read(path, max_megapixels=1.0).image[..., 2].mean() == pytest.approx(100, abs=2)
    ShrunkImages(folder, least_hw=(100, 100)).read(path, max_megapixels=1.0)
    assert len(kept(folder)) == 3
    path.rename(tmp_path / "moved.jpg")
    images.read(tmp_path / "moved.jpg", max_megapixels=1.0)
    assert len(kept(folder)) == 3


def test_what_is_damaged_is_made_again(tmp_path: Path) -> None:
    path, images = photo(tmp_path / "photo.jpg"), ShrunkImages(tmp_path / "kept", least_hw=(150, 160))
    first = images.read(path, max_megapixels=1.0)
    (file,) = kept(tmp_path / "kept")
    for bad in (b"", b"no image", cv2.imencode(".jpg", np.zeros((9, 9, 3), np.uint8))[1].tobytes()):
        file.write_bytes(bad)
        np.testing.assert_array_equal(images.read(path, max_megapixels=1.0).image, first.image)


def test_bad_images_are_refused_as_ever(tmp_path: Path) -> None:
    images = ShrunkImages(tmp_path / "kept", least_hw=(150, 160))
    with pytest.raises(BadImageError, match="does not exist"):
        images.read(tmp_path / "photo.jpg", max_megapixels=1.0)
    photo(tmp_path / "photo.jpg")
    with pytest.raises(BadImageError, match=r"0\.5 megapixels"):
        images.read(tmp_path / "photo.jpg", max_megapixels=0.1)


def test_a_full_disk_ends_the_keeping_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, images = photo(tmp_path / "photo.jpg"), ShrunkImages(tmp_path / "kept", least_hw=(150, 160))
    images.check_space(np.array([[600, 800]]))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for _ in range(2):
        assert images.read(path, max_megapixels=1.0).image.shape == (150, 200, 3)
    assert caplog.text.count("No space left on device): training goes on") == 1
    assert kept(tmp_path / "kept") == []


def test_the_space_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shrunk_images.shutil, "disk_usage", lambda _: usage(10, 0, 100_000))
    images = ShrunkImages(tmp_path / "kept", least_hw=(150, 160))
    small = 150 * 200 * shrunk_images.BYTES_PER_PIXEL
    images.check_space(np.array([[600, 800]] * int(100_000 // small) + [[160, 160]] * 99 + [[0, 0]] * 99))
    with pytest.raises(
        ValueError, match=r"needs about 0\.0 GB, but its disk has 0\.0 GB free: choose a folder"
    ):
        images.check_space(np.array([[600, 800]] * (int(100_000 // small) + 1)))
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(ValueError, match="cannot be made"):
        ShrunkImages(blocked / "kept", least_hw=(150, 160)).check_space(np.array([[600, 800]]))


def _read(arguments: tuple[Path, Path]) -> Any:
    return ShrunkImages(arguments[1], least_hw=(150, 160)).read(arguments[0], max_megapixels=1.0).image


def test_several_processes_fill_it_at_once(tmp_path: Path) -> None:
    path = photo(tmp_path / "photo.jpg")
    (tmp_path / "kept").mkdir()
    with ProcessPoolExecutor(4) as pool:
        found = list(pool.map(_read, [(path, tmp_path / "kept")] * 12))
    assert all(np.array_equal(image, found[0]) for image in found)
    assert len(kept(tmp_path / "kept")) == 1


def test_a_recipe_keeps_its_training_images(tiny: Any, tmp_path: Path) -> None:
    """The network's input is 64x64 at least there, and images of 48x64 are no larger than its windows."""
    recipe = tiny.load(tmp_path, f"data.cache={tmp_path / 'kept'}").recipe
    run = spec_of(recipe).training_run("tiny", recipe, pretrained=False)
    assert run.train.cache.folder == tmp_path / "kept"
    assert run.val.cache is None
    recipe = tiny.load(tmp_path, f"data.cache={tiny.data}/kept").recipe
    with pytest.raises(ValueError, match=r"data\.cache=.* is inside data\.root, which is never changed"):
        spec_of(recipe).training_run("tiny", recipe, pretrained=False)
    assert not (tiny.data / "kept").exists()


def test_a_joint_recipe_refuses_it_where_label_maps_need_whole_images(tiny_joint: Any) -> None:
    with pytest.raises(ValueError, match=r"detection\.cache is for two data sets"):
        tiny_joint.load(Path("runs"), "data.detection.cache=kept")
