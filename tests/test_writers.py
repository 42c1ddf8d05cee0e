"""Files of results: figures, videos, label maps, cut-outs, and the tables made of records."""

import csv
import dataclasses
import json
import resource
import signal
from functools import partial

import cv2
import numpy as np
import pytest
from fake_predictor import IDS, NAMES, FakePredictor, write_images, write_video
from PIL import Image
from pycocotools import mask as coder
from pycocotools.coco import COCO

from dettoolkit.drawing.grids import save_figure
from dettoolkit.inference.jobs import table_files as tables
from dettoolkit.inference.jobs.sources import Sources, open_found
from dettoolkit.inference.jobs.writers import Files, Writer, crop_name
from dettoolkit.tasks import spec_named

DETECTION, SEGMENTATION = spec_named("detection"), spec_named("segmentation")
CATEGORIES = dict(zip(IDS, NAMES, strict=True))


def predicted(folder, task="detection", **options):
    """Yield the items of a folder with their results."""
    predictor = FakePredictor(task)
    for found in Sources([str(folder)]):
        for item in open_found(found, **options):
            yield item, predictor.predict_batch([item.read()])[0]


def write(writer, pairs):
    for item, prediction in pairs:
        writer.write(item, prediction)
    writer.close()


def files(folder):
    return sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "in", ["0.png", "1.jpg", "a/2.bmp", "a/3.png"])


def test_pictures_keep_names_and_folders(images, tmp_path):
    write(Writer(Files(tmp_path), ["figures"]), predicted(images))
    assert files(tmp_path / "figures") == ["0.png", "1.jpg", "a/2.bmp.jpg", "a/3.png"]
    assert np.array_equal(cv2.imread(str(tmp_path / "figures/0.png")), cv2.imread(str(images / "0.png")))
    shown = cv2.imread(str(tmp_path / "figures/a/3.png"))
    assert shown.shape == (20, 24, 3)
    assert not np.array_equal(shown, cv2.imread(str(images / "a/3.png")))


@pytest.mark.parametrize(("every", "frames"), [(1, 9), (4, 3)])
def test_a_video_becomes_a_video_of_the_same_length(tmp_path, every, frames):
    folder = write_video(tmp_path / "in/a/clip.mp4", 9, fps=12.0).parents[1]
    write_video(folder / "b/other.avi.mp4", 2)
    write(Writer(Files(tmp_path), ["figures"], every=every), predicted(folder, every=every))
    assert files(tmp_path / "figures") == ["a/clip.mp4", "b/other.avi.mp4"]
    capture = cv2.VideoCapture(str(tmp_path / "figures/a/clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == frames
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.0 / every)


def test_label_maps_have_the_data_sets_ids(images, tmp_path):
    pairs = list(predicted(images, "segmentation"))
    write(Writer(Files(tmp_path), ["masks"]), pairs)
    assert files(tmp_path / "masks") == ["0.png", "1.png", "a/2.png", "a/3.png"]
    for (item, prediction), name in zip(pairs, ("0", "1", "a/2", "a/3"), strict=True):
        assert item.name.startswith(name)
        with Image.open(tmp_path / f"masks/{name}.png") as png:
            assert np.array_equal(np.asarray(png), np.array(IDS)[prediction.labels])  # 300: of 16 bits


def test_objects_are_cut_out(images, tmp_path):
    write(Writer(Files(tmp_path), ["crops"]), predicted(images))
    assert files(tmp_path / "crops") == [
        "bar/a/2.bmp_2.jpg",
        "bar/a/3.png_2.jpg",
        "box/1.jpg_1.jpg",
        "box/a/2.bmp_1.jpg",
        "box/a/3.png_1.jpg",
        "box/a/3.png_3.jpg",
    ]
    assert cv2.imread(str(tmp_path / "crops/box/1.jpg_1.jpg")).shape == (10, 8, 3)  # 1.25..9 by 2..12


@pytest.mark.parametrize("kind", ["figures", "masks", "crops"])
def test_nothing_is_overwritten_but_by_the_same_image(images, tmp_path, kind):
    task = "segmentation" if kind == "masks" else "detection"
    make = partial(Writer, save=[kind])
    pairs = list(predicted(images, task))
    write(make(Files(tmp_path / "out")), pairs)
    before = files(tmp_path / "out")
    write(make(Files(tmp_path / "out")), pairs)  # of a process that was killed: the same bytes
    assert files(tmp_path / "out") == before
    (first, *_) = (tmp_path / "out").rglob("*3*.*")
    first.write_bytes(b"made by hand")
    if kind == "crops":
        with pytest.raises(FileExistsError, match="already exists but does not belong to this job: move"):
            write(make(Files(tmp_path / "out")), pairs)
        assert files(tmp_path / "out") == before
    else:
        write(make(Files(tmp_path / "out")), pairs)
        assert len(files(tmp_path / "out")) == len(before) + 1
    assert first.read_bytes() == b"made by hand"
    begun = [item.name for item, _ in pairs]
    write(make(Files(tmp_path / "again", unfinished=begun)), pairs)
    for path in (tmp_path / "again").rglob("*3*.*"):
        path.write_bytes(b"of other batches")
    write(make(Files(tmp_path / "again", unfinished=begun)), pairs)
    assert files(tmp_path / "again") == before
    assert not [path for path in (tmp_path / "again").rglob("*3*.*") if path.stat().st_size < 50]


CLASSES = [
    ".",
    "..",
    "../x",
    "a/b",
    "a_b",
    "a%2Fb",
    "",
    "%",
    "\0",
    ".git",
    "c:\\d",
    "\ud800",
    "straße",
    "n" * 300,
]


def test_crops_stay_in_their_folder_whatever_a_class_is_called():
    names = [crop_name("x/1.png", each, 1).full for each in [*CLASSES, "traffic light"]]
    assert names[-1] == "crops/traffic light/x/1.png_1.jpg"
    assert names[CLASSES.index("straße")] == "crops/straße/x/1.png_1.jpg"
    assert names[1] == "crops/%2E./x/1.png_1.jpg"
    assert len(set(names)) == len(names)
    for name in names:
        crops, folder, *rest = name.split("/")
        assert (crops, rest) == ("crops", ["x", "1.png_1.jpg"])
        assert folder
        assert not folder.startswith(".")
        assert len(folder.encode()) <= 255
        assert "\0" not in name


def test_a_class_of_dots_is_cut_out_below_crops(images, tmp_path):
    pairs = [
        (item, dataclasses.replace(prediction, class_names=("..", ".", "none")))
        for item, prediction in predicted(images)
    ]
    write(Writer(Files(tmp_path / "out/job"), ["crops"]), pairs)
    assert all(name.startswith("job/crops/%2E") for name in files(tmp_path / "out"))


def test_each_kind_is_of_its_task(images, tmp_path):
    for kind, task in (("masks", "detection"), ("masks", "classification"), ("crops", "segmentation")):
        with pytest.raises(ValueError, match=f"a model for {task}"):
            write(Writer(Files(tmp_path), [kind]), predicted(images, task))


def records(images, task="detection"):
    return [
        {"name": item.name, "index": index, **prediction.record(masks=True)}
        for index, (item, prediction) in enumerate(predicted(images, task))
    ] + [{"name": "bad.png", "index": 9, "error": "file is empty"}]


def test_csv(images, tmp_path):
    tables.write_csv(tmp_path / "results.csv", records(images), DETECTION)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["class"]) for row in rows] == [
        ("1.jpg", "box"),
        ("a/2.bmp", "box"),
        ("a/2.bmp", "bar"),
        ("a/3.png", "box"),
        ("a/3.png", "bar"),
        ("a/3.png", "box"),
    ]
    assert rows[2] == {
        "name": "a/2.bmp",
        "class": "bar",
        "class_id": "7",
        "score": str(float(np.float32(0.3))),
        "left": "2.25",
        "top": "3.0",
        "right": "10.0",
        "bottom": "13.0",
    }
    tables.write_csv(tmp_path / "classes.csv", records(images, "segmentation"), SEGMENTATION)
    with (tmp_path / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"name": "0.png", "class": "box", "class_id": "3", "pixels": "240", "fraction": "0.5"}
    task = "classification"
    tables.write_csv(tmp_path / "best.csv", records(images, task), spec_named(task))
    with (tmp_path / "best.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows[:6]] == ["box", "bar", "none", "none", "box", "bar"]
    assert rows[3] == {"name": "1.jpg", "rank": "1", "class": "none", "class_id": "300", "score": "0.5"}


def test_csv_has_no_formulas(tmp_path):
    texts = ["=1+1", "+1", "-1.jpg", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "a=1.jpg", "'=1", ""]
    box = {"class_id": -3, "score": 0.5, "box_xyxy": [-1.5, 0.0, 1.0, 2.0]}
    found = [{"name": text, "index": 0, "objects": [{"name": text, **box}]} for text in texts]
    tables.write_csv(tmp_path / "results.csv", found, DETECTION)
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    for text, row in zip(texts, rows, strict=True):
        shown = text if text in ("a=1.jpg", "'=1", "") else f"'{text}"
        assert row == [shown, shown, "-3", "0.5", "-1.5", "0.0", "1.0", "2.0"]  # numbers stay numbers


def test_coco_is_what_pycocotools_reads(images, tmp_path, capsys):
    assert tables.write_coco(tmp_path / "coco.json", records(images), DETECTION, CATEGORIES) == 0
    truth = COCO(str(tmp_path / "coco_images.json"))
    results = truth.loadRes(str(tmp_path / "coco.json"))
    assert [image["file_name"] for image in truth.dataset["images"]] == [
        "0.png",
        "1.jpg",
        "a/2.bmp",
        "a/3.png",
    ]
    assert [len(results.getAnnIds(imgIds=[id_])) for id_ in (1, 2, 3, 4)] == [0, 1, 2, 3]
    assert results.anns[1]["bbox"] == [1.25, 2.0, 7.75, 10.0]
    assert [category["id"] for category in truth.dataset["categories"]] == list(IDS)
    capsys.readouterr()


def test_coco_masks_of_a_segmenter(images, tmp_path):
    pairs = list(predicted(images, "segmentation"))
    tables.write_coco(tmp_path / "coco.json", records(images, "segmentation"), SEGMENTATION, CATEGORIES)
    results = json.loads((tmp_path / "coco.json").read_text())
    assert len(results) == 8
    for result in results:
        labels = pairs[result["image_id"] - 1][1].labels
        mask = coder.decode(result["segmentation"]).astype(bool)
        assert np.array_equal(mask, labels == IDS.index(result["category_id"]))


def test_coco_with_the_ids_of_an_annotation_file(images, tmp_path):
    listed = [
        {**record, "image_id": id_}
        for record, id_ in zip(records(images), (10, None, 30, 40, 50), strict=True)
    ]
    assert tables.write_coco(tmp_path / "coco.json", listed, DETECTION, CATEGORIES) == 1
    results = json.loads((tmp_path / "coco.json").read_text())
    assert [result["image_id"] for result in results] == [30, 30, 40, 40, 40]


def test_tables_of_nothing(tmp_path):
    tables.write_csv(tmp_path / "results.csv", [], SEGMENTATION)
    assert (tmp_path / "results.csv").read_text() == "name,class,class_id,pixels,fraction\n"
    tables.write_coco(
        tmp_path / "coco.json", [{"name": "x", "index": 0, "error": "bad"}], DETECTION, CATEGORIES
    )
    assert json.loads((tmp_path / "coco.json").read_text()) == []
    assert json.loads((tmp_path / "coco_images.json").read_text())["images"] == []


def test_an_error_leaves_neither_a_part_nor_a_table(tmp_path):
    def broken():
        yield {"name": "x", "index": 0, "error": "bad"}
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="on fire"):
        tables.write_coco(tmp_path / "coco.json", broken(), DETECTION, CATEGORIES)
    assert files(tmp_path) == []


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_parquet(images, tmp_path, task, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    monkeypatch.setattr(tables, "ROWS", 2)  # several row groups, the last with an unreadable image only
    tables.write_parquet(tmp_path / "results.parquet", records(images, task), spec_named(task))
    rows = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row["name"] for row in rows] == ["0.png", "1.jpg", "a/2.bmp", "a/3.png", "bad.png"]
    assert (rows[4]["error"], rows[4]["class_names"], rows[4]["height"]) == ("file is empty", [], None)
    if task == "detection":
        assert rows[0]["boxes_xyxy"] == []
        assert rows[2]["class_ids"] == [3, 7]
        assert rows[2]["boxes_xyxy"][1] == [2.25, 3.0, 10.0, 13.0]
    elif task == "classification":
        assert rows[1]["class_names"] == ["none", "box", "bar"]
        assert rows[1]["class_ids"] == [300, 3, 7]
        assert rows[1]["scores"] == [0.5, 0.375, 0.125]
    else:
        mask = coder.decode({"size": [20, 24], "counts": rows[0]["rle"][0]})
        assert mask[:, :12].all()
        assert rows[0]["pixels"] == [240, 240]


def test_parquet_without_pyarrow_names_the_extra(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(tables, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r"'pyarrow'.*pip install 'dettoolkit\[parquet\]'"):
        tables.import_arrow()


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_disk_that_takes_only_a_part_of_a_picture_is_an_error(tmp_path, ending):
    """Pillow writes the last block of a file with one call and does not look how much of it was taken."""
    path, noise = tmp_path / f"a{ending}", np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    save_figure(tmp_path / f"whole{ending}", noise)
    size = (tmp_path / f"whole{ending}").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_figure(path, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
