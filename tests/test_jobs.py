"""Jobs: stopped and resumed, divided into shards, they come to what one uninterrupted job comes to."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from fake_predictor import IDS, NAMES, FakePredictor, write_images, write_video

from dettoolkit.inference.jobs.job import Job, Shard, enter_folder, fingerprint, read_job
from dettoolkit.inference.jobs.journal import Journal, merge_records, read_records
from dettoolkit.inference.jobs.sources import Sources
from dettoolkit.inference.jobs.video import count_frames
from dettoolkit.inference.jobs.worker import Worker, write_tables

WHOLE = Shard(1, 1)


def job_of(*sources, task="detection", **changes):
    job = Job(
        model="m.onnx",
        fingerprint="1",
        task=task,
        class_names=NAMES,
        class_ids=IDS,
        sources=tuple(str(each) for each in sources),
        save=("json",),
        threshold=0.0 if task == "detection" else None,
        classes=None,
        every=1,
        limit=None,
        annotations=None,
        shards=1,
    )
    return replace(job, **changes)


def run(job, folder, shard=WHOLE, *, predictor=None, resume=False, batch_size=2):
    """Run a shard, to its end or to the predictor's breaking off."""
    predictor = predictor or FakePredictor(job.task)
    enter_folder(folder, job, shard, resume=resume)
    with Worker(job, folder, shard, batch_size=batch_size) as share, suppress(KeyboardInterrupt):
        list(share.predict(predictor, workers=2))
    return predictor


def content(folder):
    """Return every file's bytes, the time in the summaries left out."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    return {name: data for name, data in found.items() if not name.startswith("summary")}


@pytest.fixture
def images(tmp_path):
    folder = write_images(tmp_path / "in", [f"{n % 3}/{n}.png" for n in range(23)])
    (folder / "1" / "bad.png").write_bytes(b"")
    return folder


SAVE = {
    "detection": ("figures", "coco", "csv", "crops"),
    "segmentation": ("figures", "coco", "csv", "masks"),
    "classification": ("figures", "csv"),
}


@pytest.mark.parametrize("task", SAVE)
@pytest.mark.parametrize("stop", [0, 1, 7, 22])
def test_stopped_and_resumed_comes_to_the_same(images, tmp_path, task, stop):
    kinds = SAVE[task]
    job = job_of(images, task=task, save=kinds)
    for name, stops in (("whole", []), ("parts", [stop, 3])):
        for count in stops:
            run(job, tmp_path / name, predictor=FakePredictor(task, fail_after=count), resume=True)
        if stops:
            with (tmp_path / name / "results.jsonl").open("ab") as journal:
                journal.write(b'{"name": "0/0.png", "ind')  # a torn line of a process that was killed
        run(job, tmp_path / name, resume=True)
        write_tables(tmp_path / name, job, job.save)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    records = list(read_records(tmp_path / "whole" / "results.jsonl"))
    assert len(records) == 24
    assert [record["name"] for record in records if "error" in record] == ["1/bad.png"]


def test_what_is_done_is_not_predicted_again(images, tmp_path):
    job = job_of(images)
    run(job, tmp_path / "out", predictor=FakePredictor(fail_after=10))
    done = len(list(read_records(tmp_path / "out/results.jsonl")))
    assert 8 <= done <= 12
    rest = run(job, tmp_path / "out", resume=True)
    assert sum(rest.batches) == 24 - 1 - done  # one cannot be read
    assert run(job, tmp_path / "out", resume=True).batches == []
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["images"], summary["unreadable"]) == (24, 1)


def test_images_that_came_later_are_predicted_too(images, tmp_path):
    job = job_of(images)
    run(job, tmp_path / "out")
    write_images(images, ["0/00.png", "9/new.png"])
    assert sum(run(job, tmp_path / "out", resume=True).batches) == 2


def test_an_image_that_is_given_twice_is_predicted_once(images, tmp_path):
    job = job_of(images / "0", images / "0" / "3.png", images / "0" / "0.png", save=("figures",))
    assert sum(run(job, tmp_path / "out").batches) == 8


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_jobs import FakePredictor, job_of, run
class Slow(FakePredictor):
    def predict_batch(self, images, **options):
        time.sleep(0.05)
        return super().predict_batch(images, **options)
run(job_of(sys.argv[2], save=("figures", "json")), Path(sys.argv[3]), predictor=Slow(), batch_size=1)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_process_loses_nothing(images, tmp_path):
    killed = tmp_path / "killed"
    arguments = [str(Path(__file__).parent), str(images), str(killed)]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments])
    journal = killed / "results.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 5):
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = journal.read_bytes()
    assert 5 <= kept.count(b"\n") < 24
    job = job_of(images, save=("figures", "json"))
    run(job, killed, resume=True)
    assert journal.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    run(job, tmp_path / "whole")
    assert content(killed) == content(tmp_path / "whole")


TOGETHER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_jobs import Shard, enter_folder, job_of
job = job_of("in", shards=8)
for number in range(int(sys.argv[3])):
    folder, start = Path(sys.argv[2], str(number)), time.monotonic() + 0.005
    children = []
    for shard in range(1, 9):
        child = os.fork()
        if not child:
            while time.monotonic() < start:
                pass
            try:
                enter_folder(folder, job, Shard(shard, 8), resume=True)
                (folder / f"results-{shard}-of-8.jsonl").touch()
            except BaseException as error:
                print(f"round {number}: {error}")
                os._exit(1)
            os._exit(0)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit(1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is POSIX's")
def test_eight_shards_start_together(tmp_path):
    arguments = [str(Path(__file__).parent), str(tmp_path), "60"]
    process = subprocess.run([sys.executable, "-c", TOGETHER, *arguments], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    assert sorted(path.name for path in (tmp_path / "59").iterdir()) == [
        "job.json",
        *(f"results-{shard}-of-8.jsonl" for shard in range(1, 9)),
    ]


def test_what_another_shard_writes_at_the_same_moment_is_not_foreign(tmp_path, monkeypatch):
    job, folder = job_of("in"), tmp_path / "out"
    folder.mkdir()
    (folder / ".job.json.4711.part").write_text("{")  # of a process that is about to name it job.json
    enter_folder(folder, job, WHOLE, resume=True)
    (folder / "job.json").unlink()
    whole = os.listdir

    def late(path):  # shows what another came to last, and not what it had done before
        monkeypatch.setattr(os, "listdir", whole)
        enter_folder(folder, job, WHOLE, resume=True)
        return ["results.jsonl"]

    monkeypatch.setattr(os, "listdir", late)
    enter_folder(folder, job, WHOLE, resume=True)
    assert read_job(folder) == job


def test_shards_are_the_whole(images, tmp_path):
    kinds = ("csv", "coco")
    job = job_of(images, save=kinds)
    run(job, tmp_path / "whole")
    write_tables(tmp_path / "whole", job, kinds)
    divided = replace(job, shards=3)
    folder = tmp_path / "shards"
    for number in (2, 3):
        run(divided, folder, Shard(number, 3))
    with pytest.raises(FileNotFoundError, match=r"shard 1/3 not finished: .*--resume .*shards --shard 1/3"):
        write_tables(folder, divided, kinds)
    run(divided, folder, Shard(1, 3), predictor=FakePredictor(fail_after=2))
    with pytest.raises(FileNotFoundError, match="shard 1/3 not finished"):
        write_tables(folder, divided, kinds)
    run(divided, folder, Shard(1, 3), resume=True)
    write_tables(folder, divided, kinds)
    for name in ("results.csv", "coco.json", "coco_images.json"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    parts = [folder / f"results-{number}-of-3.jsonl" for number in (1, 2, 3)]
    assert list(merge_records(parts)) == list(read_records(tmp_path / "whole" / "results.jsonl"))
    assert all(len(list(read_records(part))) >= 3 for part in parts)


def test_a_shard_is_the_images_own_whatever_else_is_there():
    names = [f"folder/{number:012d}.jpg" for number in range(8000)]
    shards = [Shard(number, 8) for number in range(1, 9)]
    owners = [[shard.number for shard in shards if shard.has(name)] for name in names]
    assert all(len(each) == 1 for each in owners)
    sizes = Counter(owner for (owner,) in owners)
    assert max(sizes.values()) < 1.15 * min(sizes.values())
    assert [Shard(n, 8).has("a.jpg") for n in range(1, 9)].index(True) == 1  # it must never change
    for number, of in ((0, 3), (4, 3)):
        with pytest.raises(ValueError, match="expected i/n with i from 1 to n"):
            Shard(number, of)


def test_limit_counts_images_and_frames_before_shards(images, tmp_path):
    write_video(images / "0" / "clip.mp4", 9)
    job = job_of(images, limit=12, every=2)
    names = [item.name for _, item in job.items(Sources(job.sources), WHOLE, set())]
    assert len(names) == 11 + 5
    assert job.count(Sources(job.sources), WHOLE, Event()) == 16
    job = replace(job, limit=3)
    assert job.count(Sources(job.sources), WHOLE, Event()) == 3
    parts = [[item.name for _, item in job.items(Sources(job.sources), Shard(n, 2), set())] for n in (1, 2)]
    assert sorted(parts[0] + parts[1]) == sorted(names[:3])


class Together(FakePredictor):
    """Answer by how many images go through the network at once, as rounding does in the last digits."""

    def predict_batch(self, images, *, threshold=None):
        shift = np.float32(len(images) / 1024)
        results = super().predict_batch(images, threshold=threshold)
        return [replace(result, scores=result.scores + shift) for result in results]


@pytest.mark.parametrize("fail_after", range(1, 30, 3))
def test_a_resumed_job_has_the_batches_of_an_unbroken_one(images, tmp_path, fail_after):
    write_video(images / "1/2.mp4", 5)
    job = job_of(images, save=("figures", "json"))
    run(job, tmp_path / "whole", predictor=Together(), batch_size=3)
    for number, after in enumerate((fail_after, 2, 4)):
        run(job, tmp_path / "parts", predictor=Together(fail_after=after), batch_size=3, resume=number > 0)
    run(job, tmp_path / "parts", predictor=Together(), batch_size=3, resume=True)
    same = content(tmp_path / "whole")
    assert content(tmp_path / "parts") == same
    again = Together()
    run(job, tmp_path / "parts", predictor=again, batch_size=3, resume=True)
    assert content(tmp_path / "parts") == same
    assert again.batches == []


def test_a_video_is_made_as_a_whole(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_video(tmp_path / "in" / name, 6)
    job = job_of(tmp_path / "in", save=("figures",))
    run(job, tmp_path / "parts", predictor=FakePredictor(fail_after=9), batch_size=1)  # in the second
    assert len(list(read_records(tmp_path / "parts/results.jsonl"))) == 9
    run(job, tmp_path / "parts", resume=True)
    run(job, tmp_path / "whole")
    assert [count_frames(tmp_path / "parts/figures" / name) for name in ("a.mp4", "b.mp4", "c.mp4")] == [
        6
    ] * 3
    same = "results.jsonl"
    assert (tmp_path / "parts" / same).read_bytes() == (tmp_path / "whole" / same).read_bytes()


def test_a_video_is_finished_before_what_follows_it_has_a_record(tmp_path):
    write_images(tmp_path / "in", ["b.png", "c.png"])
    write_video(tmp_path / "in/1.mp4", 4)
    (tmp_path / "in/2.jpg").write_bytes(b"")
    job = job_of(tmp_path / "in", save=("figures",))
    enter_folder(tmp_path / "out", job, WHOLE, resume=False)
    with Worker(job, tmp_path / "out", WHOLE) as share:
        for outcome in share.predict(FakePredictor(), workers=1):
            if outcome.item.name == "2.jpg":
                break
        assert count_frames(tmp_path / "out/figures/1.mp4") == 4  # as a process killed here would leave it


# Names of files


def files(folder):
    """List all files below a folder, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_images_that_differ_by_their_ending_keep_it(tmp_path, stop):
    listed = ["a.bmp", "a.bmp.jpg", "a.jpg", "a.jpg.png", "a.png", "b.jpg", "sub/a.jpg"]
    write_images(tmp_path / "in", listed)
    job = job_of(tmp_path / "in", task="segmentation", save=("figures", "masks"))
    run(job, tmp_path / "out", predictor=FakePredictor("segmentation", fail_after=stop))
    run(job, tmp_path / "out", resume=True)
    assert files(tmp_path / "out/masks") == [
        "a.bmp.jpg.png",
        "a.bmp.png",
        "a.jpg.png",
        "a.jpg.png.png",
        "a.png.png",
        "b.png",
        "sub/a.png",
    ]
    assert files(tmp_path / "out/figures") == [
        "a.bmp.jpg",
        "a.bmp.jpg.jpg",
        "a.jpg",
        "a.jpg.png",
        "a.png",
        "b.jpg",
        "sub/a.jpg",
    ]
    for name, mask in [("a.jpg", "a.jpg.png"), ("a.png", "a.png.png"), ("b.jpg", "b.png")]:
        alone = job_of(tmp_path / "in" / name, task="segmentation", save=("masks",))
        run(alone, tmp_path / "alone" / name)
        (made,) = (tmp_path / "alone" / name / "masks").iterdir()
        assert made.read_bytes() == (tmp_path / "out/masks" / mask).read_bytes()


def test_shards_agree_on_names(tmp_path):
    write_images(tmp_path / "in", [f"{number}.{ending}" for number in range(9) for ending in ("jpg", "png")])
    job = job_of(tmp_path / "in", task="segmentation", save=("masks",), shards=3)
    for number in (1, 2, 3):
        run(job, tmp_path / "out", Shard(number, 3))
    assert len(files(tmp_path / "out/masks")) == 18


def test_images_that_came_or_went_in_between_overwrite_nothing(tmp_path):
    folder = write_images(tmp_path / "in", ["a.jpg", "b.jpg", "c.jpg"])
    job = job_of(folder, task="segmentation", save=("masks",))
    run(job, tmp_path / "out", predictor=FakePredictor("segmentation", fail_after=2), batch_size=1)
    before = content(tmp_path / "out")
    (folder / "a.jpg").unlink()
    write_images(folder, ["b.png", "a.png"])  # other colors than those of a.jpg and b.jpg
    (tmp_path / "out/masks/c.png").write_bytes(b"made by hand")
    run(job, tmp_path / "out", resume=True)
    assert files(tmp_path / "out/masks") == ["a.png", "a.png.png", "b.png", "b.png.png", "c.jpg.png", "c.png"]
    for name in ("a.png", "b.png"):
        assert (tmp_path / "out/masks" / name).read_bytes() == before[f"masks/{name}"]
    assert (tmp_path / "out/masks/c.png").read_bytes() == b"made by hand"


def test_a_file_that_is_not_the_jobs_is_left_and_told(images, tmp_path):
    job, out = job_of(images, save=("crops",)), tmp_path / "out"
    run(job, out, predictor=FakePredictor(fail_after=4), batch_size=1)
    mine = out / "crops/box/0/15.png_1.jpg"
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_bytes(b"made by hand")
    with pytest.raises(FileExistsError, match=r"box/0/15\.png_1\.jpg already exists.*: move it away"):
        run(job, out, resume=True)
    assert mine.read_bytes() == b"made by hand"
    mine.unlink()
    run(job, out, resume=True)
    run(job, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_files_without_a_record_are_written_again_after_a_power_cut(images, tmp_path):
    job, out = job_of(images, save=("figures", "crops")), tmp_path / "out"
    run(job, out)
    run(job, tmp_path / "whole")
    journal = out / "results.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:4]))
    (out / "figures/2/5.png").write_bytes(b"")  # a name that reached the disk before the content
    run(job, out, resume=True)
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are UTF-8 there")
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_names_that_are_not_utf8_and_names_near_255_bytes(tmp_path, task):
    long = ["x" * 251 + ".jpg", "x" * 251 + ".bmp", "é" * 125 + "y.png", "z" * 250 + "/1.bmp"]
    folder = write_images(tmp_path / "in", ["q.png", *long, "sub/w.jpg"])
    (folder / "q.png").rename(folder / os.fsdecode(b"q\xff.png"))
    (folder / "sub").rename(folder / os.fsdecode(b"s\xe9"))
    (folder / os.fsdecode(b"bad\xff.jpg")).write_bytes(b"")
    shutil.copy(write_video(tmp_path / "clip.mp4", 3), folder / os.fsdecode(b"clip\xff.mp4"))
    shutil.copy(tmp_path / "clip.mp4", folder / ("v" * 251 + ".mp4"))
    kinds = SAVE[task]
    job, out = job_of(folder, task=task, save=kinds), tmp_path / "out"
    run(job, out, predictor=FakePredictor(task, fail_after=3))
    run(job, out, resume=True)
    assert read_job(out) == job
    write_tables(out, job, kinds)
    records = {record["name"]: record for record in read_records(out / "results.jsonl")}
    assert len(records) == 11
    assert {r"q\xff.png", r"s\xe9/w.jpg", *long} < set(records)
    for name, text in ((r"bad\xff.jpg", "file is empty"), (r"clip\xff.mp4", "its name is not UTF-8")):
        assert f"{folder}/{name}: {text}" in records[name]["error"]
    written = files(out)
    for path in written:
        assert all(len(part.encode()) <= 255 for part in path.split("/"))  # and encodes at all
    assert sum(path.startswith("figures/") for path in written) == 7
    assert sum(path.startswith("masks/") for path in written) == (9 if task == "segmentation" else 0)
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        assert {row["name"] for row in csv.DictReader(file)} <= set(records)


# A full disk


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["journal", "picture", "summary"])
def test_after_a_full_disk_the_job_is_resumed(images, tmp_path, monkeypatch, where):
    job, out = job_of(images, save=("figures", "json")), tmp_path / "out"
    enter_folder(out, job, WHOLE, resume=False)

    def begin(patched):
        with Worker(job, out, WHOLE) as share:
            for number, _ in enumerate(share.predict(FakePredictor(), workers=1)):
                if number == 5 and where == "journal":
                    patched.setattr(share._journal, "_file", FullFile(share._journal._file))
                elif number == 5 and where == "picture":
                    patched.setattr("dettoolkit.results.save_figure", full)
                elif number == 22 and where == "summary":
                    patched.setattr("os.replace", full)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        begin(patched)
    assert not (out / "summary.json").exists()
    run(job, out, resume=True)
    run(job, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


class FullFile:
    """A file on a full disk: what is written stays in the buffer, and closing tries once more."""

    def __init__(self, file):
        self.file = file

    def write(self, data):
        self.file.write(data[: len(data) // 2])

    def flush(self):
        full()

    def close(self):
        self.file.close()
        full()


def test_a_video_on_a_full_disk_is_no_video(tmp_path, monkeypatch):
    write_video(tmp_path / "in/a.mp4", 4)
    job = job_of(tmp_path / "in", save=("figures",))
    monkeypatch.setattr("dettoolkit.inference.jobs.video.count_frames", lambda path: 2)
    with pytest.raises(OSError, match=r"incomplete \(2 of 4 frames\): is the disk full.*/a\.mp4"):
        run(job, tmp_path / "out")
    assert not (tmp_path / "out/figures/a.mp4").exists()
    assert not (tmp_path / "out/summary.json").exists()


def test_stop_ends_what_has_no_end(images, tmp_path):
    job = job_of(images, save=("csv",))
    enter_folder(tmp_path / "out", job, WHOLE, resume=False)
    with Worker(job, tmp_path / "out", WHOLE) as share:
        outcomes = share.predict(FakePredictor(), workers=1)
        next(outcomes)
        share.stop()
        rest = list(outcomes)
    assert len(rest) < 6
    assert json.loads((tmp_path / "out/summary.json").read_text())["images"] == 1 + len(rest) == share.done


def test_two_processes_do_not_share_a_file(tmp_path):
    with Journal(tmp_path / "results.jsonl", batch_size=1) as journal:
        journal.write({"name": "1.png", "index": 0})
        with pytest.raises(BlockingIOError, match=r"another process is writing .*results\.jsonl: wait"):
            Journal(tmp_path / "results.jsonl", batch_size=1)
    with Journal(tmp_path / "results.jsonl", batch_size=1) as journal:
        assert journal.done == {"1.png"}


@pytest.mark.parametrize("torn", [b"", b"{", b'{"name": "2.png", "index": 1}', b"\0" * 40, b"\n"])
def test_a_torn_end_is_cut_off(tmp_path, torn):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"name": "1.png", "index": 0}\n' + torn)
    assert [record["name"] for record in read_records(path)] == ["1.png"]
    with Journal(path, batch_size=1) as journal:
        assert journal.done == {"1.png"}
        journal.write({"name": "2.png", "index": 1})
    assert [record["name"] for record in read_records(path)] == ["1.png", "2.png"]


def test_damage_in_the_middle_is_told_and_nothing_is_cut(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"name": "1.png", "index": 0}\n{broken\n{"name": "3.png", "index": 2}\n')
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"results\.jsonl, line 2 is not a valid record"):
        Journal(path, batch_size=1)
    assert path.read_bytes() == before


def test_a_folder_is_one_jobs(images, tmp_path):
    job, out = job_of(images), tmp_path / "out"
    run(job, out)
    assert read_job(out) == job
    with pytest.raises(FileExistsError, match=r"already has results.*--resume .*out"):
        run(job, out)
    with pytest.raises(
        ValueError, match=r"a different job: threshold is 0\.5 here, 0\.0 there\. Use a new folder"
    ):
        run(replace(job, threshold=0.5), out, resume=True)
    with pytest.raises(ValueError, match="a different job: fingerprint is '2' here, '1' there"):
        run(replace(job, fingerprint="2", model="moved.onnx"), out, resume=True)
    run(replace(job, model="moved.onnx"), out, resume=True)
    with pytest.raises(FileExistsError, match="contains files that belong to no prediction job"):
        run(job, images)
    (out / "job.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match="is not a prediction job of this version"):
        read_job(out)
    assert read_job(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"save": ("figures", "gif")}, "cannot save 'gif' for .*figures, json, csv, parquet, crops, coco"),
        ({"save": ("masks",)}, "cannot save 'masks' for detection"),
        ({"save": ("crops",), "task": "segmentation"}, "'crops' for segmentation.*parquet, masks, coco"),
        *(
            ({"save": (kind,), "task": "classification"}, f"'{kind}' for classification.*json, csv, parquet$")
            for kind in ("masks", "crops", "coco")
        ),
        ({"classes": ("box", "dog")}, "no class 'dog': the model has box, bar, none"),
        ({"classes": ("box",), "task": "segmentation"}, "segmentation does not support --classes"),
    ],
)
def test_a_job_that_cannot_be_is_refused_before_it_begins(changes, text):
    with pytest.raises(ValueError, match=text):
        job_of("x", **changes)


def test_only_some_classes(images, tmp_path):
    run(job_of(images, classes=("bar",)), tmp_path / "out")
    found = [
        each for record in read_records(tmp_path / "out/results.jsonl") for each in record.get("objects", ())
    ]
    assert found
    assert {each["name"] for each in found} == {"bar"}


def test_batches_are_full_though_some_images_cannot_be_read(images, tmp_path):
    assert run(job_of(images), tmp_path / "out", batch_size=5).batches == [5, 5, 5, 5, 3]


def test_nothing_readable(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.jpg").write_bytes(b"x")
    job = job_of(tmp_path / "in", save=("figures", "coco"))
    assert run(job, tmp_path / "out").batches == []
    write_tables(tmp_path / "out", job, job.save)
    assert json.loads((tmp_path / "out/coco.json").read_text()) == []


def test_a_segmenters_tables_need_masks_in_its_records(images, tmp_path):
    job = job_of(images, task="segmentation", save=("figures",))
    run(job, tmp_path / "out")
    write_tables(tmp_path / "out", job, ["csv"])
    with pytest.raises(
        ValueError, match=r"has no masks in its results\.jsonl: predict again with --save coco"
    ):
        write_tables(tmp_path / "out", job, ["coco"])


def test_fingerprint_is_of_what_the_file_holds(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"1")
    (tmp_path / "b.onnx").write_bytes(b"1")
    (tmp_path / "c.xml").write_bytes(b"1")
    (tmp_path / "c.bin").write_bytes(b"2")  # OpenVINO's weights
    prints = [fingerprint(tmp_path / name) for name in ("a.onnx", "b.onnx", "c.xml")]
    assert prints[0] == prints[1] != prints[2]
