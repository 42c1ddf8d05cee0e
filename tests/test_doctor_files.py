"""The doctor's checks of files: each finds what is planted, and nothing in clean data."""

import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dettoolkit.config import load_recipe
from dettoolkit.doctor.duplicates import check_duplicates, check_shared
from dettoolkit.doctor.examination import Examination, ListedImage
from dettoolkit.doctor.examine import SAMPLE, examine
from dettoolkit.doctor.looks import look_at_header, look_at_pixels

HW = (96, 128)
FITTING = ["finetune.yaml", "data.workers=1"]  # these data, and any machine
RECIPE = load_recipe("ssdlite_mnv3_large", FITTING).recipe


def scene(seed: int, hw: tuple[int, int] = HW) -> np.ndarray:
    """Return a picture with large and small shapes, as photographs have them."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (5, 6, 3), np.uint8), hw[::-1], interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.integers(0, 64, (24, 32, 3), np.uint8), hw[::-1])
    return np.clip(coarse.astype(int) * 3 // 4 + fine, 0, 255).astype(np.uint8)


class Data:
    """A data set of generated pictures in two folders, and what lists it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.listed = {}
        for split, count, first in (("train", 40, 0), ("val", 20, 1000)):
            (root / split).mkdir(parents=True)
            names = [f"{split}_{number:03d}.jpg" for number in range(count)]
            for number, name in enumerate(names):
                Image.fromarray(scene(first + number)).save(root / split / name, quality=95)
            self.listed[split] = [
                ListedImage(root / split / name, first + number, HW) for number, name in enumerate(names)
            ]

    def examine(self, *, deep=True, recipe=RECIPE, **task):
        task = {"trained_on": 400, "folders": [self.root / "train", self.root / "val"], **task}
        return examine(recipe, Examination(images=self.listed, **task), deep=deep)

    def found(self, **arguments):
        return {finding.id: finding for finding in self.examine(**arguments)}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return Data(tmp_path_factory.mktemp("doctor") / "data")


@pytest.fixture
def data(clean, tmp_path):
    """Return a copy to spoil."""
    copy = Data.__new__(Data)
    copy.root = tmp_path / "data"
    shutil.copytree(clean.root, copy.root)
    copy.listed = {
        split: [each._replace(path=copy.root / each.path.relative_to(clean.root)) for each in images]
        for split, images in clean.listed.items()
    }
    return copy


@pytest.mark.parametrize("deep", [True, False])
def test_clean_data_are_silent(clean, deep):
    assert clean.examine(deep=deep, input_hw=(96, 96), stretched=True) == []


def test_no_images_at_all(tmp_path):
    assert examine(RECIPE, Examination(images={"train": [], "val": []}, trained_on=400)) == []


def replace(data, row, write):
    """Rewrite train's image of a row, with its name."""
    path = data.listed["train"][row].path
    write(path)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def cmyk(path):
    Image.open(path).convert("CMYK").save(path)


def sixteen_bit(path):
    wide = np.dstack([scene(7)[..., 0].astype(np.uint16) * 256] * 3)
    assert cv2.imwrite(str(path.with_suffix(".png")), wide)
    path.with_suffix(".png").replace(path)


def sixteen_bit_gray(path):
    Image.fromarray(scene(7)[..., 0].astype(np.uint16) * 256).save(path.with_suffix(".png"))
    path.with_suffix(".png").replace(path)


def other_size(path):
    Image.fromarray(scene(7, (48, 64))).save(path)


def exif(orientation, hw=HW):
    def write(path):
        tags = Image.Exif()
        tags[0x0112] = orientation
        Image.fromarray(scene(7, hw)).save(path, exif=tags)

    return write


FAULTS = [
    ("file-missing", "error", Path.unlink),
    ("file-truncated", "error", cut),
    ("file-truncated", "error", lambda path: path.write_bytes(b"")),
    ("file-not-image", "error", lambda path: path.write_text("<html>not found</html>" * 9)),
    ("image-cmyk", "warning", cmyk),
    ("image-16-bit", "warning", sixteen_bit),
    ("image-16-bit", "warning", sixteen_bit_gray),
    ("image-size-differs", "error", other_size),
    ("image-size-differs", "error", exif(1, HW[::-1])),
    ("image-turned", "note", exif(6, HW[::-1])),
    ("image-turned", "note", exif(8, HW[::-1])),
    ("image-turn-unknown", "warning", exif(3)),
]


@pytest.mark.parametrize(("id_", "severity", "fault"), FAULTS)
def test_planted(data, id_, severity, fault):
    path = replace(data, 3, fault)
    (finding,) = data.examine()
    assert (finding.id, finding.severity, finding.split, finding.count) == (id_, severity, "train", 1)
    (example,) = finding.examples
    assert (example.file, example.image_id) == (str(path), 3)
    assert finding.text.startswith("1 image")
    assert finding.remedy


@pytest.mark.parametrize("fault", [cmyk, sixteen_bit, other_size, exif(6, HW[::-1]), exif(3), Path.unlink])
def test_headers_show_it_already(data, fault):
    replace(data, 3, fault)
    assert data.examine(deep=False) == data.examine(deep=True) != []


def test_a_lying_image_annotated_as_it_is_stored_is_in_order(data):
    replace(data, 3, exif(6))
    assert data.examine() == []


def test_a_lying_image_without_annotated_size(data):
    replace(data, 3, exif(6))
    data.listed["train"] = [each._replace(hw=None) for each in data.listed["train"]]
    (finding,) = data.examine()
    assert finding.id == "image-turn-unknown"


def test_sizes_that_no_annotation_gives(data):
    replace(data, 3, other_size)
    data.listed["train"] = [each._replace(hw=None) for each in data.listed["train"]]
    data.listed["val"] = [each._replace(hw=(0, 0)) for each in data.listed["val"]]
    assert data.examine() == []


def test_unreadable_files_are_warnings_where_the_recipe_skips_them(data):
    replace(data, 3, cut)
    skipping = load_recipe("ssdlite_mnv3_large", [*FITTING, "data.on_bad_image=skip"]).recipe
    assert data.found(recipe=skipping)["file-truncated"].severity == "warning"


def test_too_large_for_the_limit(data):
    data.listed["train"][3] = data.listed["train"][3]._replace(max_megapixels=0.01)
    assert data.found()["file-too-large"].examples[0].image_id == 3
    assert "data.max_megapixels" in data.found()["file-too-large"].remedy


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks for a privilege to make links")
def test_a_link_that_leads_nowhere(data):
    replace(data, 3, lambda path: (path.unlink(), path.symlink_to("gone.jpg")))
    (finding,) = data.examine()
    assert finding.id == "file-link-broken"
    assert finding.examples[0].text == "leads to gone.jpg"


def test_a_pipe_is_not_waited_for(data):
    replace(data, 3, lambda path: (path.unlink(), os.mkfifo(path)))
    assert set(data.found()) == {"file-not-readable"}


def test_cost_of_decoding(data, clean):
    large = {"input_hw": (24, 24), "stretched": False}  # 16 x 24 x 24 = 9,216 pixels, the images have 12,288
    train, val = clean.examine(**large)
    assert [(each.id, each.split, each.count) for each in (train, val)] == [
        ("image-large", "train", 40),
        ("image-large", "val", 20),
    ]
    assert "24x24" in train.text
    assert clean.examine(input_hw=(28, 28)) == []
    replace(data, 3, lambda path: Image.fromarray(scene(7, (960, 1280))).save(path))
    data.listed["train"][3] = data.listed["train"][3]._replace(hw=(960, 1280))
    assert data.examine(input_hw=(96, 96)) == []  # one of 40 costs nothing


def test_names_that_differ_in_case(data):
    image = data.listed["train"][3]
    image.path.rename(image.path.with_suffix(".JPG"))
    found = data.found()
    if os.path.exists(image.path):
        pytest.skip("this file system takes capitals for small letters")
    assert found["file-name-case"].severity == "error"
    assert found["file-name-case"].examples[0].text == "the file is called train_003.JPG"
    assert "file-missing" not in found


def test_two_names_that_are_one_elsewhere(data):
    image = data.listed["train"][3]
    other = image.path.with_suffix(".JPG")
    Image.fromarray(scene(7)).save(other, "JPEG")
    data.listed["train"].append(ListedImage(other, 77, HW))
    (finding,) = data.examine()
    assert finding.id == "file-names-alike"
    assert finding.examples[0].image_id == 77
    assert finding.examples[0].text == "beside train_003.jpg"


def test_unreferenced(data):
    (data.root / "train" / "notes.txt").write_text("no image")
    shutil.copy(data.root / "val" / "val_003.jpg", data.root / "train" / "left.jpg")
    (finding,) = data.examine(deep=False)
    assert (finding.id, finding.severity, finding.count) == ("file-unreferenced", "note", 1)
    assert finding.examples[0].file == str(data.root / "train" / "left.jpg")


def test_a_folder_that_both_splits_share(data):
    for image in data.listed["val"]:
        shutil.move(image.path, data.root / "train")
    data.listed["val"] = [
        each._replace(path=data.root / "train" / each.path.name) for each in data.listed["val"]
    ]
    assert data.examine(folders=[data.root / "train"]) == []


def test_listed_twice(data):
    data.listed["train"].append(data.listed["train"][3]._replace(image_id=77))
    (finding,) = data.examine()
    assert finding.id == "file-listed-twice"
    assert finding.examples[0].image_id == 77


def test_in_both_splits(data):
    data.listed["val"] += data.listed["train"][:5]
    (finding,) = data.examine()
    assert (finding.id, finding.count, finding.split) == ("file-in-both-splits", 5, None)
    assert len(finding.examples) == 3


def test_copies_inside_a_split(data):
    shutil.copy(data.listed["train"][5].path, data.listed["train"][3].path)
    (finding,) = data.examine()
    assert (finding.id, finding.severity, finding.count) == ("duplicate-in-split", "warning", 1)
    assert finding.examples[0].image_id == 5
    assert "train_003.jpg" in finding.examples[0].text
    assert data.examine(deep=False) == []


def test_copies_between_splits(data):
    for row in (3, 4):
        shutil.copy(data.listed["train"][row].path, data.listed["val"][row].path)
    (finding,) = data.examine()
    assert (finding.id, finding.severity, finding.count) == ("duplicate-between-splits", "warning", 2)


def brighter(image):
    return np.clip(image.astype(int) * 9 // 10 + 25, 0, 255).astype(np.uint8)


def shifted(image):
    return np.roll(image, 1, axis=1)


def smaller(image):
    return cv2.resize(image, (96, 72), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("change", [brighter, shifted, smaller, lambda image: image])
def test_almost_the_same_between_splits(data, change):
    image = change(scene(3))
    Image.fromarray(image).save(data.listed["val"][2].path, quality=60)
    data.listed["val"][2] = data.listed["val"][2]._replace(hw=image.shape[:2])
    (finding,) = data.examine()
    assert (finding.id, finding.severity, finding.count) == ("near-duplicate-between-splits", "warning", 1)
    assert finding.examples[0].image_id == 1002
    assert "train_003.jpg" in finding.examples[0].text


def test_blank_pages_are_no_near_duplicates(data):
    for number, image in enumerate((data.listed["train"][3], data.listed["val"][2])):
        page = np.full((*HW, 3), 250 - number, np.uint8)
        page[number] = 200
        Image.fromarray(page).save(image.path)
    assert data.examine() == []


@pytest.mark.parametrize("count", [1, 65])
def test_more_rows_than_are_compared_at_a_time(tmp_path, count):
    train = [(ListedImage(Path(f"t{n}"), n), look_of(scene(n), tmp_path)) for n in range(count)]
    val = [(ListedImage(Path(f"v{n}"), n), look_of(shifted(scene(n)), tmp_path)) for n in range(0, count, 2)]
    val += [(ListedImage(Path(f"w{n}"), n), look_of(scene(500 + n), tmp_path)) for n in range(70)]
    (finding,) = check_shared(train, val, workers=2)
    assert finding.count == len(range(0, count, 2))
    assert check_duplicates("train", train) == []


def look_of(image, folder):
    Image.fromarray(image).save(folder / "image.png")
    return look_at_pixels(folder / "image.png", 100.0)


def test_dhash_by_hand(tmp_path):
    """A ramp that rises to the right is all ones, one that falls all zeros."""
    ramp = np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None], 80, axis=0)
    for image, bits in ((ramp, 2**64 - 1), (ramp[:, ::-1], 0)):
        Image.fromarray(image).save(tmp_path / "ramp.png")
        assert look_at_pixels(tmp_path / "ramp.png", 100.0).difference == bits


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp", "gif"])
def test_other_formats_are_in_order(tmp_path, kind):
    path = tmp_path / f"image.{kind}"
    Image.fromarray(scene(1)).save(path)
    for look in (look_at_header(path, 100.0), look_at_pixels(path, 100.0)):
        assert (look.trouble, look.kind, look.orientation, look.hw) == (None, "", 1, HW)


def test_headers_of_some_images_only(data, tmp_path):
    rows = 2 * SAMPLE
    data.listed["train"] = [
        ListedImage(tmp_path / "many" / f"{number}.jpg", number, HW) for number in range(rows)
    ]
    (tmp_path / "many").mkdir()
    content = data.listed["val"][0].path.read_bytes()
    for image in data.listed["train"]:
        image.path.write_bytes(content)
    data.listed["train"] = [each._replace(hw=(1, 1)) for each in data.listed["train"]]
    data.listed["train"].append(ListedImage(tmp_path / "many" / "gone.jpg", 77, HW))
    found = data.found(deep=False, folders=[])
    assert found["image-size-differs"].text.startswith(
        f"{SAMPLE - 1:,} images of the {SAMPLE:,} looked at have"
    )
    assert found["file-missing"].count == 1  # names are compared for all


def test_nothing_is_written(data):
    replace(data, 3, cut)
    before = {path: path.stat().st_mtime_ns for path in sorted(data.root.rglob("*"))}
    data.examine()
    assert before == {path: path.stat().st_mtime_ns for path in sorted(data.root.rglob("*"))}
