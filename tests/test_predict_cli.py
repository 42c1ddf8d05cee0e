"""`dettoolkit predict` with trained models: what comes out, and what a person is told."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import refused
from fake_predictor import write_video
from learning_margins import at_least
from PIL import Image

from dettoolkit.cli.predicting import predict
from dettoolkit.cli.progress import Tally
from dettoolkit.drawing.grids import save_figure


def files(folder):
    found = (path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    return sorted(found)


def run(*arguments):
    return predict([*map(str, arguments), "--device", "cpu"])


@pytest.fixture
def errors(capsys):
    """Run a command that is to be refused and give the sentences of its error."""

    def told(*arguments):
        capsys.readouterr()
        assert run(*arguments) == 2
        return refused(capsys)

    return told


def test_a_folder_by_a_detector(tiny, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(tiny_run, tiny.data / "val", "--threshold", 0.01) == 0
    (out,) = Path("runs/predictions").iterdir()
    figures = [f"figures/{number}.png" for number in range(1, 6)]
    assert files(out) == [*figures, "job.json", "results.jsonl", "summary.json"]
    assert cv2.imread(str(out / "figures/1.png")).shape == (48, 64, 3)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("1.png: ")
    assert told[5].startswith("5 images in ")
    assert told[-1] == f"results: {out}"


def test_coco_results_are_those_of_the_evaluation(tiny, tiny_run, tmp_path):
    annotations = tiny.data / "annotations/val.json"
    given = ["--annotations", annotations, "--threshold", 0, "--save", "coco,csv", "--out", tmp_path / "out"]
    assert run(tiny_run, tiny.data / "val", *given) == 0
    results = json.loads((tmp_path / "out/coco.json").read_text())
    wanted = json.loads((tiny_run / "predictions.json").read_text())

    def order(each):
        return each["image_id"], -each["score"], each["category_id"], each["bbox"]

    assert len(results) == len(wanted) > 0
    for ours, theirs in zip(sorted(results, key=order), sorted(wanted, key=order), strict=True):
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=1e-2)
    with (tmp_path / "out/results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(results)


@pytest.mark.learnt
def test_a_segmenter_writes_label_ids(tiny_segmentation, tiny_segmentation_run, tmp_path, capsys):
    images = tiny_segmentation.data / "leftImg8bit/val"
    assert run(tiny_segmentation_run, images, "--out", tmp_path / "out") == 0
    names = [f"lindau/lindau_{number:06d}_000019_leftImg8bit.png" for number in range(1, 6)]
    assert files(tmp_path / "out/masks") == names
    assert files(tmp_path / "out/figures") == names
    right, count = 0, 0
    for name in names:
        truth = tiny_segmentation.data / "gtFine/val" / name.replace("leftImg8bit", "gtFine_labelIds")
        labels, mask = (np.asarray(Image.open(path)) for path in (truth, tmp_path / "out/masks" / name))
        right, count = right + int((mask == labels)[labels > 0].sum()), count + int((labels > 0).sum())
    at_least("segmenter: pixels right, predicted", right / count, 0.6)
    assert "%" in capsys.readouterr().out


def test_a_video_and_a_folder_with_damage(tiny, tiny_run, tmp_path, capsys):
    folder = tmp_path / "in"
    write_video(folder / "clip.mp4", 4, hw=(48, 64))
    (folder / "a.jpg").write_bytes(b"\xff\xd8\xff")
    given = [tiny_run, folder, "--threshold", 0.01, "--out"]
    assert run(*given, tmp_path / "out") == 0
    assert files(tmp_path / "out/figures") == ["clip.mp4"]
    told = capsys.readouterr().out
    assert "1 could not be read:\n" in told
    assert f"{folder / 'a.jpg'}: file is truncated or damaged" in told
    assert run(*given, tmp_path / "strict", "--strict") == 1
    assert run(tiny_run, folder / "a.jpg", "--out", tmp_path / "none") == 1


def test_shards_and_merge(tiny, tiny_run, tmp_path, capsys):
    given = [tiny_run, tiny.data / "train", "--threshold", 0.01]
    assert run(*given, "--save", "json,coco", "--out", tmp_path / "whole") == 0
    for number in (1, 2):
        assert run(*given, "--resume", tmp_path / "out", "--shard", f"{number}/2", "--save", "json,coco") == 0
    told = capsys.readouterr()
    assert f"when both shards are done: dettoolkit predict --merge {tmp_path / 'out'}" in told.out
    assert "Starting in" in told.err
    assert predict(["--merge", str(tmp_path / "out")]) == 0
    name = "coco.json"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert f"written: {tmp_path / 'out' / name}" in capsys.readouterr().out
    assert predict(["--resume", str(tmp_path / "out"), "--shard", "2/2", "--device", "cpu"]) == 0
    assert "0 images" in capsys.readouterr().out


def test_a_classifiers_shards_and_what_it_has_not(
    tiny_classification, tiny_classification_run, tmp_path, errors, capsys
):
    given = [tiny_classification_run, tiny_classification.data / "val"]
    assert run(*given, "--save", "csv", "--out", tmp_path / "whole") == 0
    for number in (1, 2):
        assert run(*given, "--resume", tmp_path / "out", "--shard", f"{number}/2") == 0
    assert predict(["--merge", str(tmp_path / "out")]) == 0
    name = "results.csv"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(SystemExit):
        predict(["--merge", str(tmp_path / "out"), "--save", "coco"])
    assert "can be merged into csv, parquet" in capsys.readouterr().err
    for more, text in (
        (["--threshold", 0.5], "a classifier has no threshold: omit --threshold 0.5"),
        (["--classes", "disc"], "classification does not support --classes"),
        (
            ["--save", "masks"],
            "cannot save 'masks' for classification: choose from figures, json, csv",
        ),
    ):
        assert text in errors(*given, *more, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_schedulers_signal_says_how_to_resume(tiny, tiny_run, tmp_path):
    write_video(tmp_path / "in/long.mp4", 3000)
    out = tmp_path / "out"
    command = "import sys; from dettoolkit.cli.predicting import predict; sys.exit(predict())"
    given = [tiny_run, tmp_path / "in", "--resume", out, "--device", "cpu", "--threads", 1]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *map(str, given)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    while not ((out / "results.jsonl").exists() and (out / "results.jsonl").stat().st_size > 500):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in told
    assert f"continue with: dettoolkit predict --resume {out}\n" in told
    assert not (out / "summary.json").exists()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["{run}", "nowhere.jpg"], "nowhere.jpg does not exist: use an image"),
        (["nowhere.ckpt", "{image}"], "nowhere.ckpt"),
        (["nowhere.onnx", "{image}"], "nowhere.onnx does not exist"),
        (["{run}", "{image}", "--threshold", "50"], "--threshold 50.0: expected a score from 0 to 1"),
        (["{run}", "{image}", "--save", "figures,masks"], "cannot save 'masks' for detection: choose from"),
        (["{run}", "{image}", "--save", "png"], "cannot save 'png' for detection: choose from figures, json"),
        (["{run}", "{image}", "--classes", "dog"], "no class 'dog': the model has box, bar"),
        (["{run}", "{image}", "--annotations", "nowhere.json"], "nowhere.json: No such file"),
        (["{run}", "foo://bucket/x"], "foo://bucket/x cannot be read: Protocol not known: foo"),
        (["{run}", "webcam", "--resume", "x"], "a camera or stream cannot be resumed"),
        (["--merge", "nowhere"], "nowhere has no prediction job"),
        (["{run}", "{image}", "--threads", "100000"], "threads=100000: expected an integer from 1 to "),
        (["{run}", "{image}", "--workers", "100000"], "workers=100000: expected an integer from 1 to "),
    ],
)
def test_errors_are_sentences(tiny, tiny_run, tmp_path, monkeypatch, errors, given, text):
    monkeypatch.chdir(tmp_path)
    image = tiny.data / "val/1.png"
    assert text in errors(*(each.format(run=tiny_run, image=image) for each in given))
    assert not Path("runs").exists()  # nothing is begun that cannot be done
    assert not Path("x").exists()


def test_a_device_that_is_not_there(tiny, tiny_run, capsys):
    for device, text in (("cuda:99", "PyTorch finds "), ("gpu", "--device gpu: expected cpu, cuda")):
        assert predict([str(tiny_run), str(tiny.data / "val/1.png"), "--device", device]) == 2
        assert text in refused(capsys)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "a model and at least one source"),
        (["model.onnx"], "a model and at least one source"),
        (["--resume", "nowhere"], "nowhere has no job to resume: specify a model"),
        (["m", "s", "--shard", "4/3"], "4/3: expected I/N with I from 1 to N, such as 1/8"),
        (["m", "s", "--batch-size", "0"], "0: expected a number, 1 or more"),
        (["m", ""], "SOURCE: empty value: is a variable in your script unset?"),
        (["", "s"], "MODEL: empty value"),
        (["m", "s", "--out", ""], "--out: empty value"),
        (["m", "s", "--resume", ""], "--resume: empty value"),
        (["--merge", ""], "--merge: empty value"),
        (["m", "s", "--annotations", ""], "--annotations: empty value"),
        (["m", "s", "--classes", ""], "--classes: empty value"),
        (["m", "s", "--resume", "a", "--out", "b"], "--resume already specifies the folder"),
        (["m", "s", "--merge", "a"], "--merge DIR can be combined only"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_loaded(given, text, capsys):
    with pytest.raises(SystemExit):
        predict(given)
    assert text in capsys.readouterr().err


def test_a_full_disk_is_one_sentence_that_says_how_to_resume(tiny, tiny_run, tmp_path, monkeypatch, capsys):
    given = [tiny_run, tiny.data / "train", "--threshold", 0.01, "--save", "figures,crops,csv"]
    assert run(*given, "--out", tmp_path / "whole") == 0
    out, saved = tmp_path / "out", []

    def full(path, image):
        saved.append(path)
        if len(saved) == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save_figure(path, image)

    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr("dettoolkit.inference.jobs.writers.save_figure", full)
        assert run(*given, "--out", out) == 2
    told = refused(capsys)
    assert told == (
        f"error: {out}: No space left on device. Once that is fixed, continue with: "
        f"dettoolkit predict --resume {out}\n"
    )
    assert run("--resume", out) == 0
    for name in files(tmp_path / "whole"):
        if name != "summary.json":
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert files(out) == files(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr("dettoolkit.inference.jobs.table_files.csv.writer", no_space)
        assert run("--resume", out) == 2
        assert f"continue with: dettoolkit predict --resume {out}\n" in capsys.readouterr().err
        assert predict(["--merge", str(out)]) == 2
        assert f"continue with: dettoolkit predict --merge {out}\n" in capsys.readouterr().err


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are UTF-8 there")
def test_a_name_that_is_not_utf8_costs_nothing(tiny, tiny_run, tmp_path, monkeypatch):
    folder = tmp_path / os.fsdecode(b"photos\xff")
    folder.mkdir()
    for number, name in enumerate((b"1\xff.png", b"2.png", b"bad\xfe.jpg"), start=1):
        shutil.copy(tiny.data / f"val/{number}.png", folder / os.fsdecode(name))
    (folder / os.fsdecode(b"bad\xfe.jpg")).write_bytes(b"")
    out = tmp_path / os.fsdecode(b"out\xff")
    with (tmp_path / "told").open("w", encoding="utf-8") as told, monkeypatch.context() as patched:
        patched.setattr("sys.stdout", told)
        assert run(tiny_run, folder, "--threshold", 0.01, "--save", "figures,csv,coco", "--out", out) == 0
    told = (tmp_path / "told").read_text(encoding="utf-8")
    assert r"1\xff.png: " in told
    assert r"bad\xfe.jpg: file is empty" in told
    listed = json.loads((out / "coco_images.json").read_text(encoding="utf-8"))["images"]
    assert [image["file_name"] for image in listed] == [r"1\xff.png", "2.png"]
    assert r"1\xff.png,box" in (out / "results.csv").read_text(encoding="utf-8")
    assert (out / r"figures/1\xff.png").is_file()
    assert run("--resume", out) == 0


def test_another_job_in_the_folder_is_refused(tiny, tiny_run, tmp_path, errors):
    given = [tiny_run, tiny.data / "val", "--limit", 2]
    assert run(*given, "--out", tmp_path / "out") == 0
    assert "already has results: resume it with --resume" in errors(*given, "--out", tmp_path / "out")
    assert "limit is 3 here, 2 there" in errors(*given[:2], "--limit", 3, "--resume", tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    assert "contains files that belong to no prediction job" in errors(*given, "--out", tmp_path / "other")


def test_the_count_of_images_ends_with_the_job():
    """A thread that is inside OpenCV when Python ends takes the process down: exit status 134."""
    running = []

    def count(ended):
        running.append(ended.wait(timeout=60))
        return

    Tally(count, done=0).follow([])
    assert running == [True]
