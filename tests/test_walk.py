"""One listing of folders for all commands: links followed once, never round; what is left out is told."""

import os
import random
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fake_predictor import write_images
from PIL import Image

from dettoolkit.datasets.image_folder import ImageFolderFiles
from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.datasets.regular_files import Walk, natural
from dettoolkit.datasets.segmentation_files import SegmentationFiles
from dettoolkit.demo.builder import choose_samples
from dettoolkit.export.comparison import own_images
from dettoolkit.inference.inputs import sources_of
from dettoolkit.inference.jobs.sources import Sources

PNG = (".png",)


def below(folder, *, endings=PNG, skip=None):
    walk = Walk(folder, endings=endings, skip=skip)
    return [Path(path).relative_to(folder).as_posix() for path in walk], walk


def left_out(walk):
    return {Path(path).name: problem.kind for path, problem in walk.left_out.items()}


def test_a_link_elsewhere_is_followed_once(tmp_path):
    write_images(tmp_path, ["top/a/1.png", "else/2.png", "else/deep/3.png", "one/4.png", "one/.5.png"])
    (tmp_path / "top/b").symlink_to(tmp_path / "else")
    (tmp_path / "top/c").symlink_to(tmp_path / "else")  # a second time
    (tmp_path / "top/d").symlink_to(tmp_path / "else/deep")  # part of it
    (tmp_path / "top/e.png").symlink_to(tmp_path / "one/4.png")
    (tmp_path / "top/f.png").symlink_to(tmp_path / "one/4.png")  # a second time
    (tmp_path / "top/g.png").symlink_to(tmp_path / "one/.5.png")  # a store's names are often hidden
    found, walk = below(tmp_path / "top")
    assert found == ["a/1.png", "b/2.png", "b/deep/3.png", "e.png", "g.png"]
    assert left_out(walk) == dict.fromkeys(("c", "d", "f.png"), "link to something already listed")
    assert walk.left_out[str(tmp_path / "top/c")].text == f"{tmp_path}/top/c -> {tmp_path}/else"


def test_what_a_later_link_contains_is_not_listed_again(tmp_path):
    write_images(tmp_path, ["top/1.png", "else/2.png", "else/deep/3.png"])
    (tmp_path / "top/a").symlink_to(tmp_path / "else/deep")
    (tmp_path / "top/b.png").symlink_to(tmp_path / "else/2.png")
    (tmp_path / "top/c").symlink_to(tmp_path / "else")
    (tmp_path / "else/up").symlink_to(tmp_path)  # a folder above all of them
    assert below(tmp_path / "top")[0] == ["1.png", "a/3.png", "b.png"]


def test_links_up_round_and_to_nothing(tmp_path):
    write_images(tmp_path, ["top/a/1.png", "top/b/2.png"])
    (tmp_path / "top/a/up").symlink_to("..")
    (tmp_path / "top/a/here").symlink_to(".")
    (tmp_path / "top/a/root").symlink_to("/")
    (tmp_path / "top/a/twin").symlink_to("../b")  # comes before b itself
    (tmp_path / "top/a/2.png").symlink_to("../b/2.png")
    (tmp_path / "top/b/self.png").symlink_to("self.png")
    (tmp_path / "top/b/gone.png").symlink_to("nowhere")
    found, walk = below(tmp_path / "top")
    assert found == ["a/1.png", "b/2.png"]
    assert left_out(walk) == {
        **dict.fromkeys(("up", "here", "root"), "link to a folder above it"),
        **dict.fromkeys(("twin", "2.png"), "link to something already listed"),
        **dict.fromkeys(("self.png", "gone.png"), "broken link"),
    }
    assert "self.png: Too many levels" in walk.left_out[f"{tmp_path}/top/b/self.png"].text


def test_a_store_inside_the_folder(tmp_path):
    """DVC and git-annex keep files below a hidden folder and link to them."""
    write_images(tmp_path, [".store/ab/1.png", "pool/2.png"])
    (tmp_path / ".store/ab/1.png").rename(tmp_path / ".store/ab/d41d8cd9")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.png").symlink_to("../.store/ab/d41d8cd9")
    (tmp_path / "cat/2.png").symlink_to("../pool/2.png")
    assert below(tmp_path)[0] == ["cat/1.png", "pool/2.png"]
    assert below(tmp_path / "cat")[0] == ["1.png", "2.png"]


def test_pipes_sockets_and_closed_folders(tmp_path):
    write_images(tmp_path, ["a/1.png", "closed/2.png"])
    os.mkfifo(tmp_path / "a/pipe.png")
    (tmp_path / "a/null.png").symlink_to("/dev/null")
    (tmp_path / "closed").chmod(0)
    try:
        found, walk = below(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)
    expected = dict.fromkeys(("pipe.png", "null.png"), "not a regular file")
    if os.geteuid() == 0:  # root opens everything
        assert found == ["a/1.png", "closed/2.png"]
    else:
        expected["closed"] = "folder cannot be opened"
    assert left_out(walk) == expected


def test_folders_deeper_than_python_recurses(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):  # one letter each: a path of 3000
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("1.png", os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)
    found = len(list(Walk(tmp_path, endings=PNG)))
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest's own way of removing it recurses
    assert found == 1


def test_numbers_are_sorted_by_value():
    names = [
        "a",
        "a-1",
        "a1",
        "a1b",
        "a 1",
        "a01",
        "a2",
        "a10",
        "a9.png",
        "ab",
        "1",
        "01",
        "010",
        "9",
        "b/2",
        "b/10",
    ]

    def as_parts(name):  # the definition
        import re

        parts = re.split(r"(\d+)", name)
        return [(at % 2 == 0, int(part) if at % 2 else 0, part) for at, part in enumerate(parts)]

    shuffled = names.copy()
    random.Random(0).shuffle(shuffled)
    assert sorted(shuffled, key=natural) == sorted(names, key=as_parts)


def test_a_large_folder_costs_its_names(tmp_path):
    for number in range(20_000):
        os.close(os.open(tmp_path / f"IMG_2024_{number:07d}_{number % 977}.png", os.O_CREAT))
    tracemalloc.start()
    assert sum(1 for _ in Walk(tmp_path, endings=PNG)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000 * 400  # names and their keys


# The commands


@pytest.fixture
def looped(tmp_path):
    """Return a folder of 8 images of two classes, and 4 labels, with loops in them."""
    root = tmp_path / "data"
    write_images(root, [f"{name}/{n}.png" for name in ("cats", "dogs") for n in range(4)])
    (root / "cats/more").symlink_to("../dogs")
    (root / "cats/up").symlink_to("..")
    (root / "dogs/again").symlink_to(".")
    (root / "cats/self.png").symlink_to("self.png")
    return root


EIGHT = [f"{name}/{n}.png" for name in ("cats", "dogs") for n in range(4)]


def test_predict_lists_each_image_once(looped, caplog):
    sources = Sources([str(looped)])
    assert [found.name for found in sources] == EIGHT
    assert sources.problems.counts == {
        "broken link": 1,
        "link to a folder above it": 2,
        "link to something already listed": 1,
    }
    list(sources)
    assert sum(sources.problems.counts.values()) == 4  # told once, however often the folder is read
    assert [path.relative_to(looped).as_posix() for path in sources_of(looped)] == EIGHT
    assert "cats/more" in caplog.text


@pytest.mark.parametrize("pattern", ["**/*.png", "*/**/*.png", "c*/**/*.png", "**/more/*.png", "**"])
def test_a_pattern_goes_into_folders_once(looped, pattern):
    """glob follows every link, and two of them in one folder make it go on for ever."""
    (looped / "dogs/also").symlink_to("..")
    expected = {"c*/**/*.png": EIGHT[:4], "**/more/*.png": []}.get(pattern, EIGHT)
    if pattern == "c*/**/*.png":  # dogs are not below the pattern's folders, so their link is followed
        expected = [*EIGHT[:4], *(f"cats/more/{n}.png" for n in range(4))]
    if not expected:
        with pytest.raises(FileNotFoundError, match="no image or video matches"):
            Sources([str(looped / pattern)])
        return
    found = [found.where.relative_to(looped).as_posix() for found in Sources([str(looped / pattern)])]
    assert found == expected
    assert [path.relative_to(looped).as_posix() for path in sources_of(str(looped / pattern))] == expected


def test_patterns_match_as_glob_does(tmp_path, monkeypatch):
    import glob

    write_images(tmp_path, ["1.png", "a/2.png", "a/b/3.png", "a/b/c/4.png", "b/5.png", "a/.h/6.png"])
    monkeypatch.chdir(tmp_path)
    for pattern in (
        "**/*.png",
        "a/**/*.png",
        "**/b/*.png",
        "**/b/**/*.png",
        "*/*.png",
        "**/[34].png",
        "./**/?.png",
    ):
        theirs = sorted(os.path.normpath(each) for each in glob.glob(pattern, recursive=True))
        assert sorted(str(each) for each in sources_of(pattern)) == theirs, pattern


def test_training_lists_each_image_once(looped):
    files = ImageFolderFiles.load(looped.parent, images="data", names=None)
    assert files.class_names == ["cats", "dogs"]
    assert files.labels.tolist() == [0] * 4 + [1] * 4
    assert [files.image_path(index).relative_to(looped).as_posix() for index in range(8)] == EIGHT
    assert "link to something already listed: 1 (not followed" in files.problems.summary()
    assert files.problems.counts["link to a folder above it"] == 2


def test_a_class_that_is_a_link(looped):
    write_images(looped.parent, ["elsewhere/1.png", "elsewhere/b/2.png"])
    (looped / "birds").symlink_to("../elsewhere")
    (looped / "felines").symlink_to("cats")  # the same class by another name
    files = ImageFolderFiles.load(looped.parent, images="data", names=None)
    assert files.class_names == ["birds", "cats", "dogs"]
    assert np.bincount(files.labels).tolist() == [2, 4, 4]
    assert files.problems.counts["link to something already listed"] == 2


def test_labels_are_listed_once(tmp_path):
    write_images(tmp_path, [f"images/{n}.png" for n in range(4)])
    (tmp_path / "labels").mkdir()
    for number in range(4):
        Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / f"labels/{number}.png")
    for folder in ("images", "labels"):
        (tmp_path / folder / "again").symlink_to(".")
        (tmp_path / folder / "up").symlink_to("..")
    (tmp_path / "labels/gone.png").symlink_to("nowhere.png")
    files = SegmentationFiles.load(
        tmp_path,
        images="images",
        labels="labels",
        classes=LabelClasses.from_table([("a", [0], None)], ignore=[]),
        layout="folders",
    )
    assert len(files) == 4
    assert files.problems.counts == {"broken link": 1, "link to a folder above it": 4}


def test_demo_and_export_list_each_image_once(looped):
    assert len(choose_samples(looped, 100)) == 8
    assert len(own_images(looped)) == 8
