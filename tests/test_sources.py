"""Sources of prediction: what is found, in which order, under which names; what is told of the rest."""

import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_predictor import write_images, write_video
from PIL import Image

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.inference import buckets
from dettoolkit.inference.jobs.image_ids import ImageIds
from dettoolkit.inference.jobs.sources import Found, Item, Sources, open_found


def names(*given, **options):
    return [found.name for found in Sources([str(each) for each in given], **options)]


def items(*given):
    return [item for found in Sources([str(each) for each in given]) for item in open_found(found)]


def test_a_folder_with_all_below_it_in_peoples_order(tmp_path):
    write_images(tmp_path, ["10.jpg", "2.png", "b/1.JPG", "a/img10.bmp", "a/img9.tif", ".hidden/1.jpg"])
    for other in ("notes.md", "._2.png", "a/labels.json"):
        (tmp_path / other).write_text("x")
    (tmp_path / "empty").mkdir()
    assert names(tmp_path) == ["2.png", "10.jpg", "a/img9.tif", "a/img10.bmp", "b/1.JPG"]


def test_names_are_below_what_all_sources_share(tmp_path, monkeypatch):
    write_images(tmp_path, ["x/1.png", "y/1.png", "y/deep/2.png"])
    assert names(tmp_path / "x", tmp_path / "y") == ["x/1.png", "y/1.png", "y/deep/2.png"]
    assert names(tmp_path / "y/1.png") == ["1.png"]
    assert names(tmp_path / "x/1.png", tmp_path / "y") == ["x/1.png", "y/1.png", "y/deep/2.png"]
    assert names(tmp_path / "*/1.png") == ["x/1.png", "y/1.png"]
    assert names(tmp_path / "**/*.png") == ["x/1.png", "y/1.png", "y/deep/2.png"]
    monkeypatch.chdir(tmp_path)
    assert names("x", "y/../y/1.png") == ["x/1.png", "y/1.png"]
    assert names("y") == ["1.png", "deep/2.png"]


def test_a_list(tmp_path):
    write_images(tmp_path / "photos", ["1.png", "2.png"])
    away = write_images(tmp_path / "elsewhere", ["3.png"]) / "3.png"
    text = f"# the good ones\nphotos/2.png\n\n  photos/1.png  \n{away}\nphotos/missing.png\n"
    (tmp_path / "photos.txt").write_text(text)
    found = items(tmp_path / "photos.txt")
    assert [item.name for item in found] == [
        "photos/2.png",
        "photos/1.png",
        "elsewhere/3.png",
        "photos/missing.png",
    ]
    assert found[2].read().shape == (20, 24, 3)
    with pytest.raises(BadImageError, match=r"photos/missing\.png: file does not exist"):
        found[3].read()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "list.txt").write_text(str(away))
    # What is not below the list's folder never gets a name that leads out of a folder of results.
    assert names(tmp_path / "sub" / "list.txt") == [away.as_posix().lstrip("/")]


def test_results_among_the_images_are_not_sources(tmp_path):
    write_images(tmp_path, ["1.png", "out/figures/1.png", "out2/1.png"])
    assert names(tmp_path, skip=tmp_path / "out") == ["1.png", "out2/1.png"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links here")
def test_links_are_followed_but_not_round_and_round(tmp_path):
    write_images(tmp_path, ["a/1.png", "elsewhere/2.png"])
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "a") == ["1.png", "other/2.png"]


def test_nothing_is_opened_while_listing(tmp_path, monkeypatch):
    write_images(tmp_path, [f"{number}.png" for number in range(5)])
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    found = iter(Sources([str(tmp_path)]))
    assert next(found).name == "0.png"
    assert [item.name for each in found for item in open_found(each)] == [f"{n}.png" for n in range(1, 5)]


def test_pictures_are_turned_as_their_exif_says(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.fromarray(pixels).save(tmp_path / "phone.png", exif=exif)
    (item,) = items(tmp_path)
    assert item.read().shape == (16, 8, 3)
    assert item.read()[:4].min() == 255  # what was at the left is above


@pytest.mark.parametrize(
    ("make", "given", "error", "text"),
    [
        (None, "nowhere", FileNotFoundError, "nowhere does not exist: use an image, a video, a folder"),
        (None, "*.jpg", FileNotFoundError, r"no image or video matches .*\*\.jpg: \*\* matches subfolders"),
        (
            "folder",
            "folder",
            ValueError,
            "folder contains no images or videos .files ending in",
        ),
        ("list", "list.txt", ValueError, "list.txt is empty: it needs one path of an image"),
    ],
)
def test_what_is_not_there_is_told_at_once(tmp_path, make, given, error, text):
    if make == "folder":
        write_images(tmp_path, ["folder/.hidden.png"])
    if make == "list":
        (tmp_path / "list.txt").write_text("\n# none\n")
    with pytest.raises(error, match=text):
        Sources([str(tmp_path / given)])


def test_cameras_and_streams(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = list(Sources(["0", "webcam", "webcam:2", "rtsp://host/live"]))
    assert [(each.name, each.where) for each in found] == [
        ("camera0", 0),
        ("camera0", 0),
        ("camera2", 2),
        ("rtsp_host_live", "rtsp://host/live"),
    ]
    assert Sources(["webcam"]).live
    write_images(tmp_path, ["7/1.png"])
    assert names("7") == ["1.png"]  # a folder that is there is no camera
    assert not Sources(["7"]).live
    (item,) = open_found(Found("camera9", 99, "video"))
    with pytest.raises(BadImageError, match="99: cannot be opened: there is no camera 99, or it is in use"):
        item.read()


def test_frames_of_a_video(tmp_path):
    write_video(tmp_path / "a/clip.mp4", 7)
    write_images(tmp_path, ["a/1.png"])
    found = items(tmp_path)
    assert [item.name for item in found] == ["a/1.png", *(f"a/clip.mp4/{n:06d}" for n in range(7))]
    assert found[3].video == "a/clip.mp4"
    assert found[3].frame.seconds == pytest.approx(0.2)
    assert found[3].path == tmp_path / "a/clip.mp4"
    assert abs(found[3].read().astype(int) - 20).max() <= 4


def test_a_damaged_video_is_one_unreadable_item(tmp_path):
    whole = write_video(tmp_path / "clip.mp4", 9).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (item,) = items(tmp_path / "cut.mp4")
    assert (item.name, item.video) == ("cut.mp4", "cut.mp4")
    with pytest.raises(BadImageError, match=r"cut\.mp4: cannot be opened: not a video"):
        item.read()


def test_addresses_through_fsspec(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    good = cv2.imencode(".png", np.full((4, 6, 3), 9, np.uint8))[1].tobytes()
    for name, data in (("b.png", good), ("a/c.jpg", good[:30]), ("readme.md", b"")):
        store.pipe_file(f"/bucket/photos/{name}", data)
    found = items("memory://bucket/photos")
    assert [(item.name, item.path) for item in found] == [("a/c.jpg", None), ("b.png", None)]
    assert found[1].read().shape == (4, 6, 3)
    with pytest.raises(BadImageError, match=r"memory://.*c\.jpg: file is truncated"):
        found[0].read()
    assert names("memory://bucket/photos/b.png") == ["b.png"]
    write_images(tmp_path, ["b.png"])
    assert names("memory://bucket/photos", tmp_path) == [
        "bucket/photos/a/c.jpg",
        "bucket/photos/b.png",
        "b.png",
    ]
    with pytest.raises(FileNotFoundError, match="memory://bucket/other contains no images"):
        names("memory://bucket/other")
    with pytest.raises(ValueError, match=r"foo://x cannot be read: Protocol not known"):
        names("foo://x")


class Site(BaseHTTPRequestHandler):
    """Answer by the number that a path begins with; hang up on all others."""

    def do_GET(self):
        if self.path[1:4].isdecimal():
            self.send_error(int(self.path[1:4]))

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    """Serve on the loopback and give the address."""
    pytest.importorskip("aiohttp", reason="fsspec reads http by aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("404.jpg", r"404\.jpg cannot be downloaded: .*404.*Not Found"),
        ("403/", r"403/ cannot be downloaded: .*403.*Forbidden"),
        ("500.jpg", r"500\.jpg cannot be downloaded: .*500"),
        ("photo.jpg", r"photo\.jpg cannot be downloaded: .*[Dd]isconnected"),
    ],
)
def test_an_address_that_gives_nothing_says_why(site, path, text):
    with pytest.raises(OSError, match=text):
        names(f"{site}/{path}")
    with pytest.raises(BadImageError, match=re.escape(f"{site}/{path}: ")):
        buckets.read(f"{site}/{path}")


def test_a_refused_connection_says_so():
    pytest.importorskip("aiohttp", reason="fsspec reads http by aiohttp")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/photos/1.jpg"
        with pytest.raises(OSError, match=rf"{url} cannot be downloaded: Cannot connect to host"):
            names(url)


def test_an_empty_source_is_not_the_folder_where_one_is(tmp_path, monkeypatch):
    write_images(tmp_path, ["1.png"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the source is empty: use an image"):
        Sources([""])
    assert names(".") == ["1.png"]


def test_image_ids_by_name(tmp_path):
    listed = [("val/1.png", 5), ("a/2.png", 6), ("b/2.png", 7), ("3.png", 8)]
    images = [{"id": id_, "file_name": name, "height": 20, "width": 24} for name, id_ in listed]
    path = tmp_path / "instances.json"
    path.write_text(f'{{"images": {images}}}'.replace("'", '"'))
    ids = ImageIds(path)
    assert [ids.find(name) for name in ("val/1.png", "1.png", "other/1.png", "3.png")] == [5, 5, 5, 8]
    assert [ids.find(name) for name in ("a/2.png", "b/2.png", "2.png", "9.png")] == [6, 7, None, None]
    for content in (
        "[]",
        '{"images": [{"file_name": "1.png"}]}',
        '{"images": [{"file_name": "1.png", "id": "7"}]}',
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match="is not a COCO annotation file"):
            ImageIds(path)


def test_an_image_is_read_as_its_annotator_saw_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(tmp_path / "1.png", exif=exif)
    (item,) = items(tmp_path)
    for hw in ((8, 16), (16, 8)):
        image = {"id": 1, "file_name": "1.png", "height": hw[0], "width": hw[1]}
        (tmp_path / "images.json").write_text(f'{{"images": [{image}]}}'.replace("'", '"'))
        assert ImageIds(tmp_path / "images.json").expect(item).read().shape == (*hw, 3)


def test_an_item_needs_no_file():
    item = Item("x", None, lambda: np.zeros((2, 2, 3), np.uint8))
    assert item.read().shape == (2, 2, 3)


def test_an_address_of_a_file_here_is_refused(tmp_path):
    """fsspec would follow links round and round."""
    write_images(tmp_path, ["1.png"])
    with pytest.raises(ValueError, match=rf"file://{tmp_path} is a local file: use its path, {tmp_path}"):
        Sources([f"file://{tmp_path}"])
