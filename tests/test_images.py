"""What is refused before it is read or decoded: large images, what is no file, impossible names."""

import json
import os
import socket
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dettoolkit import cli, load
from dettoolkit.config.sections import Data
from dettoolkit.datasets.coco_json import read_columns
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.image_folder import read_names
from dettoolkit.datasets.images import MAX_MEGAPIXELS, MEGAPIXELS_LIMIT, header_hw, read_image
from dettoolkit.datasets.label_classes import LabelClasses, read_instances, read_labels, read_values
from dettoolkit.datasets.regular_files import open_regular, read_lines
from dettoolkit.inference.inputs import as_rgb, decode_file, read_upright
from dettoolkit.inference.jobs.image_ids import ImageIds
from dettoolkit.inference.jobs.sources import Sources, open_found


def bomb(hw=(40_000, 30_000)):
    """Return a PNG of a few bytes whose header has this size; what it would take shows only in decoding."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", hw[1], hw[0], 8, 0, 0, 0, 0)
    content = zlib.compress(bytes(100_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


TOO_LARGE = (
    r"image has 1200\.0 megapixels \(40000 x 30000, height x width\), more than the limit of 100 megapi"
)


def test_a_large_image_is_refused_by_its_header_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    path = tmp_path / "large.png"
    path.write_bytes(bomb())
    assert header_hw(path) == (40_000, 30_000)
    classes = LabelClasses.cityscapes()
    ids = tmp_path / "ids.json"
    ids.write_text('{"images": [{"id": 1, "file_name": "large.png", "width": 30000, "height": 40000}]}')
    (found,) = Sources([str(path)])
    (item,) = open_found(found)
    for read in (
        lambda: read_image(path),
        lambda: read_labels(path, classes),
        lambda: read_instances(path),
        lambda: read_upright(path),
        lambda: as_rgb(path),
        lambda: as_rgb(bomb()),
        lambda: decode_file(bomb()),
        item.read,
        ImageIds(ids).expect(item).read,
    ):
        with pytest.raises(BadImageError, match=TOO_LARGE):
            read()


def test_a_pillow_image_has_the_limit_too():
    with pytest.raises(BadImageError, match=r"limit of 0\.01 megapixels"):
        as_rgb(Image.new("L", (200, 100)), max_megapixels=0.01)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp", "tif", "gif"])
def test_the_limit_is_an_option(tmp_path, kind):
    path = tmp_path / f"image.{kind}"
    Image.fromarray(np.zeros((100, 200), np.uint8)).save(path)
    assert read_image(path, max_megapixels=0.02).shape == (100, 200, 3)
    with pytest.raises(BadImageError, match=r"has 0\.0 megapixels \(100 x 200.* of 0\.0199 megapixels"):
        read_image(path, max_megapixels=0.0199)


def test_palettes_and_long_files_have_the_limit_too(tmp_path):
    path = tmp_path / "labels.png"
    Image.fromarray(np.zeros((100, 200), np.uint8)).convert("P").save(path)
    assert read_values(path, max_megapixels=0.02).shape == (100, 200)
    with pytest.raises(BadImageError, match=r"limit of 0\.01 megapixels"):
        read_values(path, max_megapixels=0.01)
    with path.open("wb") as file:
        file.truncate(10**12)  # of nothing: it takes no room on the disk
    with pytest.raises(BadImageError, match=r"file has 1000000 MB, more than the limit of 100 megapixels"):
        read_image(path)


def test_defaults_and_bounds_are_said_once_and_agree():
    field = Data.model_fields["max_megapixels"]
    assert field.default == MAX_MEGAPIXELS
    assert f"le={MEGAPIXELS_LIMIT:g}" in str(field.metadata).replace("1000.0", "1000")


@pytest.mark.parametrize("kind", ["tiny", "tiny_segmentation", "tiny_classification"])
def test_training_reads_up_to_its_limit(kind, request, tmp_path, capsys):
    tiny = request.getfixturevalue(kind)
    given = [str(tiny.recipe), f"data.root={tiny.data}", f"trainer.out={tmp_path}", "--check"]
    assert cli.train([*given, "data.max_megapixels=0.004"]) == 0  # 48 x 64 are 0.003
    assert cli.train([*given, "data.max_megapixels=0.003"]) == 2
    told = capsys.readouterr().err
    assert str(tiny.data) in told
    assert "(48 x 64, height x width), more than the limit of 0.003 megapixels" in told
    assert cli.train([*given, "data.max_megapixels=0"]) == 2
    assert "data.max_megapixels: must be above 0" in capsys.readouterr().err


def test_a_large_image_is_skipped_where_bad_ones_are(tiny, tmp_path, capsys):
    root = tiny.write(tmp_path / "data", train=8)
    (root / "train/1.png").write_bytes(bomb())
    given = [str(tiny.recipe), f"data.root={root}", f"trainer.out={tmp_path}", "data.batch_size=8", "--check"]
    assert cli.train(given) == 2
    told = capsys.readouterr().err
    assert "train/1.png: image id 10: image has 1200.0 megapixels" in told
    assert "data.on_bad_image=skip" in told
    content = json.loads((root / "annotations/train.json").read_text())
    for image in content["images"]:
        image.pop("width")  # so that headers are read
    (root / "annotations/train.json").write_text(json.dumps(content))
    assert cli.train([*given, "data.on_bad_image=skip"]) == 0


def test_predict_has_the_limit(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save("1.png")
    given = [str(tiny_run), "1.png", "--device", "cpu", "--save", "json"]
    assert cli.predict([*given, "--out", "a", "--max-megapixels", "0.02"]) == 0
    assert cli.predict([*given, "--out", "b", "--max-megapixels", "0.01"]) == 1
    (line,) = Path("b/results.jsonl").read_text().splitlines()
    assert "more than the limit of 0.01 megapixels" in json.loads(line)["error"]
    assert json.loads(Path("b/job.json").read_text())["max_megapixels"] == 0.01
    assert cli.predict([*given, "--out", "c", "--max-megapixels", "nan"]) == 2
    assert "max_megapixels must be above 0 and at most 1000, got nan" in capsys.readouterr().err
    with pytest.raises(BadImageError, match=r"1\.png: image has .* limit of 0\.01 megapixels"):
        load(tiny_run, device="cpu", max_megapixels=0.01)("1.png")


# What is no file


@pytest.fixture
def odd(tmp_path):
    """Return paths that no reader may wait for, with the reason."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tmp_path)  # a socket's path has a hundred bytes at most
    listening.bind("socket.png")
    os.chdir(here)
    yield [tmp_path / name for name in ("pipe.png", "endless.png", "socket.png")]
    listening.close()


@pytest.mark.timeout(30)
def test_what_is_no_file_is_never_waited_for(odd):
    no_file = "is a pipe, a device or a socket, not a regular file"
    for path in odd:
        for read in (read_image, read_values, read_upright):
            with pytest.raises(BadImageError, match=f"cannot be opened: {no_file}"):
                read(path)
        assert header_hw(path) is None
        for read in (ImageIds, read_names, open_regular, lambda path: next(read_lines(path))):
            with pytest.raises(OSError, match=no_file) as caught:
                read(path)
            assert caught.value.filename == str(path)
        with pytest.raises(OSError, match=no_file):
            read_columns(path)
        (found,) = Sources([str(path)])
        (item,) = open_found(found)
        with pytest.raises(BadImageError, match=f"{path.name}: cannot be opened: {no_file}"):
            item.read()


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png", "x" * 300 + ".png"])
def test_names_that_no_file_can_have(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(BadImageError, match=r"cannot be opened: (invalid file name|File name too lon)"):
        read_image(path)
    assert header_hw(path) is None


def test_file_names_of_a_json_that_no_file_can_have(tiny, tmp_path, capsys, caplog):
    caplog.set_level("CRITICAL", logger="dettoolkit")  # pytest's report cannot hold half a character
    root = tiny.write(tmp_path / "data")
    content = json.loads((root / "annotations/train.json").read_text())
    for image, name in zip(content["images"], ("a\0b.png", "\ud800.png"), strict=False):
        image["file_name"] = name
        image.pop("width")
    (root / "annotations/train.json").write_text(json.dumps(content))
    given = [str(tiny.recipe), f"data.root={root}", f"trainer.out={tmp_path / 'runs'}"]
    assert cli.train([*given, "data.batch_size=8", "--check"]) == 2
    assert "image id 10: cannot be opened: invalid file name" in capsys.readouterr().err
    assert cli.train([*given, "data.on_bad_image=skip", "trainer.max_epochs=1"]) == 0
    (told,) = (tmp_path / "runs").glob("*/*/data_report.json")
    problems = json.loads(told.read_text())
    assert len(problems["unreadable images"]) == 2
    assert problems["train"]["counts"]["image size unknown"] == 2


# Texts


@pytest.mark.parametrize(
    ("text", "line"),
    [("photos/café.png\n".encode("latin-1"), 1), ("a/1.png\n\nphotos/é.png".encode("latin-1"), 3)],
)
def test_a_list_in_another_encoding(tmp_path, text, line):
    for name, read in (("list.txt", lambda path: list(Sources([str(path)]))), ("names.txt", read_names)):
        path = tmp_path / name
        path.write_bytes(text.replace(b"/", b" ") if read is read_names else text)
        with pytest.raises(
            ValueError, match=rf"{name}:{line}: is not UTF-8 text \(byte 0xe9 at .*iconv -f LATIN1"
        ):
            read(path)


def test_a_list_as_windows_writes_it(tmp_path):
    for name in ("a.png", "é.png"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    (tmp_path / "list.txt").write_bytes("\ufeffa.png\r\né.png\r\n".encode())
    assert [found.name for found in Sources([str(tmp_path / "list.txt")])] == ["a.png", "é.png"]
    (tmp_path / "list.txt").write_bytes("a.png\r\né.png\r\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"list\.txt:1: is not UTF-8 text \(byte 0xff"):
        Sources([str(tmp_path / "list.txt")])


# Damage


def test_which_damage_is_found_and_which_is_not(tmp_path):
    """What the guide says; libjpeg goes on after damage in the middle, and its warnings do not reach us."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    read = {}
    for kind in ("jpg", "png", "webp", "bmp", "tif"):
        path = tmp_path / f"image.{kind}"
        Image.fromarray(pixels).save(path)
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 64] = bytes(64)
        path.write_bytes(data)
        try:
            read[kind] = read_image(path).shape
        except BadImageError as error:
            read[kind] = str(error)
    assert "cannot be decoded" in read.pop("png")  # it has checksums
    assert set(read.values()) == {(100, 120, 3)}
