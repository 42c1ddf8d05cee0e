"""The COCO download against a server on the loopback interface, with zips of a few hundred kilobytes."""

import dataclasses
import hashlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

import dettoolkit.download
import dettoolkit.transfer
from dettoolkit.download import COCO_2017, Archive, download_coco, main
from dettoolkit.transfer import DownloadError, fetch

FILES = {
    "annotations": ("instances_train2017.json", "instances_val2017.json", "captions_val2017.json"),
    "val2017": ("000000000139.jpg", "000000000285.jpg"),
    "train2017": ("000000000009.jpg", "000000000025.jpg", "000000000030.jpg"),
}


def content(folder: str, name: str) -> bytes:
    """Return 60 kB that no zip makes smaller, the same at every call."""
    return hashlib.shake_128(f"{folder}/{name}".encode()).digest(60_000)


def zip_of(folder: str) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as opened:
        opened.writestr(zipfile.ZipInfo(f"{folder}/"), b"")
        for name in FILES[folder]:
            opened.writestr(zipfile.ZipInfo(f"{folder}/{name}"), content(folder, name))
    return memory.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `files`; can ignore Range, answer with an error, slow down, or hang up after so many bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.statuses: list[int] = []  # answered first, one request each
        self.hang_up_after: list[int] = []  # bytes, one request each
        self.content_type = "application/zip"
        self.pause_s = 0.0  # between blocks
        self.requests: list[tuple[str, str | None]] = []  # path, Range
        self.served = 0  # bytes

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.requests.append((self.path, asked))
        data = self.server.files.get(self.path)
        status = self.server.statuses.pop(0) if self.server.statuses else 404 if data is None else 200
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if status != 200 or data is None or (start and start >= len(data)):
            self.send_error(status if status != 200 else 416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        if self.server.hang_up_after:
            body = body[: self.server.hang_up_after.pop(0)]
        for offset in range(0, len(body), 10_000):
            block = body[offset : offset + 10_000]
            try:
                self.wfile.write(block)
            except OSError:
                return
            self.server.served += len(block)
            time.sleep(self.server.pause_s)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    running.files = {f"/{archive.path}": zip_of(archive.folder) for archive in COCO_2017}
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Wait for nothing, and note for how long it would have been."""
    noted: list[float] = []
    monkeypatch.setattr(dettoolkit.transfer, "time", SimpleNamespace(sleep=noted.append))
    return noted


def tiny(archive: Archive) -> Archive:
    """Return the archive's row with what is true of our zip."""
    data = zip_of(archive.folder)
    return dataclasses.replace(
        archive,
        md5=hashlib.md5(data).hexdigest(),
        zip_bytes=len(data),
        unpacked_bytes=60_000 * len(FILES[archive.folder]),
        files=sum(Path(name).match(archive.pattern) for name in FILES[archive.folder]),
    )


TINY = tuple(tiny(archive) for archive in COCO_2017)
VAL = next(archive for archive in TINY if archive.folder == "val2017")
VAL_SIZE = VAL.zip_bytes


def val2017(root: Path, server: Server) -> None:
    download_coco(root, splits=["val2017"], base_url=server.url, archives=TINY)


def assert_complete(root: Path, *folders: str) -> None:
    found = {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
    assert found == {
        f"{folder}/{name}": content(folder, name) for folder in folders for name in FILES[folder]
    }
    assert sorted(path.name for path in root.iterdir()) == sorted(folders)


def test_the_table_names_every_split_once_and_its_addresses_are_the_published_ones():
    assert [archive.folder for archive in COCO_2017] == ["annotations", "val2017", "train2017"]
    addresses = {f"{dettoolkit.download.BASE_URL}/{archive.path}" for archive in COCO_2017}
    assert addresses == {
        "http://images.cocodataset.org/zips/train2017.zip",
        "http://images.cocodataset.org/zips/val2017.zip",
        "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    }
    assert all(re.fullmatch("[0-9a-f]{32}", archive.md5) for archive in COCO_2017)


def test_everything_is_fetched_and_laid_out_and_a_second_run_asks_for_nothing(
    tmp_path, server, monkeypatch, capsys
):
    monkeypatch.setattr(dettoolkit.download, "COCO_2017", TINY)
    root = tmp_path / "some where" / "coco"
    assert main([str(root), "--base-url", server.url + "/"]) == 0
    assert_complete(root, *FILES)
    assert server.served == sum(archive.zip_bytes for archive in TINY)
    said = capsys.readouterr().out
    assert f"tools/train.py configs/ssdlite_mnv3_large.yaml {shlex.quote(f'data.root={root}')}" in said

    server.requests.clear()
    assert main([str(root), "--base-url", server.url]) == 0
    assert server.requests == []
    assert capsys.readouterr().out.count("already complete") == 3


def test_some_splits_only_and_the_zips_kept(tmp_path, server, monkeypatch, capsys):
    monkeypatch.setattr(dettoolkit.download, "COCO_2017", TINY)
    command = [str(tmp_path), "--splits", "val2017", "annotations", "--keep-zips", "--base-url", server.url]
    assert main(command) == 0
    assert (tmp_path / "val2017.zip").read_bytes() == zip_of("val2017")
    assert not (tmp_path / "train2017").exists()
    assert "Still missing for training: train2017" in capsys.readouterr().out

    shutil.rmtree(tmp_path / "val2017")
    server.requests.clear()
    assert main(command) == 0, "a zip with the right checksum is used again"
    assert server.requests == []
    assert (tmp_path / "val2017" / "000000000139.jpg").is_file()


def test_a_transfer_that_breaks_off_twice_goes_on_and_serves_every_byte_once(tmp_path, server, waits):
    server.hang_up_after = [50_000, 30_000]
    val2017(tmp_path, server)
    assert_complete(tmp_path, "val2017")
    assert [asked for _, asked in server.requests] == [None, "bytes=50000-", "bytes=80000-"]
    assert server.served == VAL_SIZE
    assert waits == [1, 1], "a transfer that brought something waits as after a first failure"


def test_a_server_without_range_starts_over(tmp_path, server, waits):
    server.ranges = False
    server.hang_up_after = [50_000]
    val2017(tmp_path, server)
    assert_complete(tmp_path, "val2017")
    assert server.served == 50_000 + VAL_SIZE


def test_passing_troubles_are_tried_again_after_growing_waits(tmp_path, server, waits):
    server.statuses = [503, 429, 500]
    val2017(tmp_path, server)
    assert_complete(tmp_path, "val2017")
    assert waits == [2, 4, 8]


def test_a_server_that_stays_away_ends_the_tries_and_what_has_come_is_kept(tmp_path, server, waits):
    server.hang_up_after = [50_000] + [0] * 99
    with pytest.raises(DownloadError, match=r"interrupted at 50,000 of .* 8 retries failed") as caught:
        val2017(tmp_path, server)
    assert "run the same command again" in str(caught.value)
    assert (tmp_path / "val2017.zip.part").stat().st_size == 50_000
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]

    server.hang_up_after = []
    val2017(tmp_path, server)
    assert_complete(tmp_path, "val2017")
    assert server.served == VAL_SIZE


def test_no_server_at_all(tmp_path, waits, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    gone = Server()
    gone.server_close()
    with pytest.raises(DownloadError, match=r"no connection \(.*refused"):
        fetch(gone.url, tmp_path / "file")


def test_404_ends_at_once_with_the_address_and_a_way_out(tmp_path, server, waits, capsys):
    assert main([str(tmp_path), "--base-url", f"{server.url}/wrong", "--splits", "annotations"]) == 1
    error = capsys.readouterr().err
    assert f"{server.url}/wrong/annotations/annotations_trainval2017.zip: the server responded 404" in error
    assert "--base-url" in error
    assert waits == []


def test_a_wrong_checksum_puts_the_file_aside_and_the_transfer_may_be_repeated(tmp_path, server):
    good = server.files[f"/{VAL.path}"]
    damaged = good[:1000] + bytes([good[1000] ^ 1]) + good[1001:]
    server.files[f"/{VAL.path}"] = damaged
    wrong = hashlib.md5(damaged).hexdigest()
    message = rf"val2017\.zip: wrong checksum: .* {VAL.md5}, got {wrong}.*zip\.bad.*Run the same command"
    with pytest.raises(DownloadError, match=message):
        val2017(tmp_path, server)
    assert [path.name for path in tmp_path.iterdir()] == ["val2017.zip.bad"]

    server.files[f"/{VAL.path}"] = good
    val2017(tmp_path, server)
    (tmp_path / "val2017.zip.bad").unlink()
    assert_complete(tmp_path, "val2017")


def test_a_zip_that_was_put_there_with_a_wrong_checksum_is_put_aside_too(tmp_path, server):
    (tmp_path / "val2017.zip").write_bytes(b"half a zip")
    with pytest.raises(DownloadError, match=r"val2017\.zip: wrong checksum"):
        val2017(tmp_path, server)
    assert server.requests == []
    assert (tmp_path / "val2017.zip.bad").read_bytes() == b"half a zip"


def test_a_transfer_stopped_between_the_last_byte_and_the_check_is_only_checked(tmp_path, server):
    (tmp_path / "val2017.zip.part").write_bytes(server.files[f"/{VAL.path}"])
    val2017(tmp_path, server)
    assert_complete(tmp_path, "val2017")
    assert server.served == 0


def test_answers_that_are_no_continuation_do_not_replace_what_has_come(tmp_path, server):
    part = tmp_path / "val2017.zip.part"
    part.write_bytes(server.files[f"/{VAL.path}"][:70_000])
    server.content_type = "text/html"
    with pytest.raises(DownloadError, match=r"a web page instead of a file"):
        val2017(tmp_path, server)
    server.content_type = "application/zip"
    server.ranges = False
    server.files[f"/{VAL.path}"] = b"short"
    with pytest.raises(
        DownloadError, match=r"the server has 5 bytes, and 70,000 are in .*part: not the same"
    ):
        val2017(tmp_path, server)
    assert part.stat().st_size == 70_000


def test_too_little_disk_space_is_said_before_anything_is_fetched(tmp_path, server, monkeypatch):
    free = 0

    def usage(path: object) -> tuple[int, int, int]:
        return shutil._ntuple_diskusage(10**12, 10**12 - free, free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    free = 10_000_000_000
    message = r"not enough disk space at .*train2017\.zip needs 41\.4 GB, .* 10\.0 GB are free.*--splits"
    with pytest.raises(DownloadError, match=message):
        download_coco(tmp_path, base_url=server.url)
    assert server.requests == []

    need = VAL_SIZE + VAL.unpacked_bytes
    free = need - 1
    with pytest.raises(DownloadError, match=r"not enough disk space"):
        val2017(tmp_path, server)
    (tmp_path / "val2017.zip.part").write_bytes(server.files[f"/{VAL.path}"][:1])  # one byte less to fetch
    val2017(tmp_path, server)
    assert_complete(tmp_path, "val2017")


@pytest.mark.parametrize("keep_zips", [False, True])
def test_the_space_of_a_zip_counts_until_it_is_deleted(tmp_path, server, monkeypatch, keep_zips):
    archives = [dataclasses.replace(VAL, folder="a"), dataclasses.replace(VAL, folder="b", path="b.zip")]
    free = 2 * VAL.unpacked_bytes + (2 if keep_zips else 1) * VAL_SIZE - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free))
    with pytest.raises(DownloadError, match=r"not enough disk space"):
        download_coco(tmp_path, base_url=server.url, keep_zips=keep_zips, archives=archives)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free + 1))
    server.files = {}
    with pytest.raises(DownloadError, match=r"404"):
        download_coco(tmp_path, base_url=server.url, keep_zips=keep_zips, archives=archives)


def test_a_folder_that_is_there_in_part_is_never_overwritten(tmp_path, server):
    (tmp_path / "val2017").mkdir()
    mine = tmp_path / "val2017" / "000000000139.jpg"
    mine.write_bytes(b"mine")
    with pytest.raises(
        DownloadError, match=r"val2017 already exists with 1 of 2 files \*\.jpg\. It is not overwritten"
    ):
        val2017(tmp_path, server)
    assert mine.read_bytes() == b"mine"
    assert server.requests == []


def test_an_empty_folder_is_filled(tmp_path, server):
    (tmp_path / "val2017").mkdir()
    val2017(tmp_path, server)
    assert_complete(tmp_path, "val2017")


def test_an_unpacking_goes_on_and_repairs_the_file_it_was_stopped_in(tmp_path, server):
    unpacking = tmp_path / ".unpacking-val2017" / "val2017"
    unpacking.mkdir(parents=True)
    whole, damaged = (unpacking / name for name in FILES["val2017"])
    whole.write_bytes(content("val2017", whole.name))
    os.utime(whole, (1, 1))
    damaged.write_bytes(bytes(60_000))  # the right size, as after a power cut
    val2017(tmp_path, server)
    assert_complete(tmp_path, "val2017")
    assert (tmp_path / "val2017" / whole.name).stat().st_mtime == 1, "a whole file is not written again"


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "val2017/../../evil.jpg", "/evil.jpg", "val2017/..\\evil.jpg", "x/a"]
)
def test_a_zip_that_reaches_outside_its_folder_unpacks_nothing(tmp_path, server, name):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as opened:
        opened.writestr("val2017/000000000139.jpg", b"good")
        opened.writestr(name, b"evil")
    server.files[f"/{VAL.path}"] = memory.getvalue()
    archive = dataclasses.replace(VAL, md5=hashlib.md5(memory.getvalue()).hexdigest())
    root = tmp_path / "root"
    with pytest.raises(DownloadError, match=r"outside val2017/; nothing was unpacked"):
        download_coco(root, base_url=server.url, archives=[archive])
    assert [path.name for path in tmp_path.rglob("*")] == ["root", "val2017.zip"]


def test_a_zip_with_too_few_files_or_none_at_all_is_refused(tmp_path, server):
    wanting = dataclasses.replace(VAL, files=3)
    with pytest.raises(DownloadError, match=r"contains 2 of 3 files val2017/\*\.jpg"):
        download_coco(tmp_path, base_url=server.url, archives=[wanting])
    assert not (tmp_path / "val2017").exists()
    server.files[f"/{VAL.path}"] = b"PK no zip"
    other = dataclasses.replace(VAL, folder="x", path=VAL.path, md5=hashlib.md5(b"PK no zip").hexdigest())
    (tmp_path / "val2017.zip").unlink()
    with pytest.raises(DownloadError, match=r"val2017\.zip: not a valid zip"):
        download_coco(tmp_path, base_url=server.url, archives=[other])


def test_wrong_arguments(tmp_path, server, capsys):
    with pytest.raises(ValueError, match=r"unknown splits \['val2014'\]; choose from"):
        download_coco(tmp_path, splits=["val2014"], base_url=server.url)
    assert main([str(tmp_path), "--base-url", "ftp://somewhere", "--splits", "annotations"]) == 1
    assert "must start with http:// or https://" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "file"), "--base-url", server.url]) == 1
    assert "file" in capsys.readouterr().err
    download_coco(tmp_path, splits=[], base_url=server.url)
    assert server.requests == []


def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(tmp_path, server):
    server.pause_s = 0.2
    root = tmp_path / "coco"
    code = (
        "import signal, sys, dettoolkit.download as d\n"
        # A shell's background jobs, and so tests run by one, start with Ctrl-C ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"d.COCO_2017 = tuple(d.Archive(**row) for row in {[dataclasses.asdict(VAL)]!r})\n"
        "sys.exit(d.main())"
    )
    command = [sys.executable, "-c", code, str(root), "--base-url", server.url]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = root / "val2017.zip.part"
    for _ in range(500):
        if part.exists() and server.served >= 30_000:
            break
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    _, error = first.communicate(timeout=20)
    assert first.returncode == 130, error
    assert "run the same command again" in error
    assert "Traceback" not in error
    size = part.stat().st_size
    assert 0 < size < VAL_SIZE

    server.pause_s = 0
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 0, second.stderr
    assert server.requests[-1][1] == f"bytes={size}-"
    assert_complete(root, "val2017")
