"""Converting labels: exports written by hand from their formats' descriptions, and a real VOC set."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from dettoolkit.cli import main
from dettoolkit.config import load_recipe
from dettoolkit.converting.collection import Lost
from dettoolkit.converting.labelme import read_labelme
from dettoolkit.converting.voc import read_voc
from dettoolkit.converting.yolo import read_yolo
from dettoolkit.datasets.coco import CocoAnnotations


def picture(path, size=(40, 20), *, color=(9, 99, 199), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)


def written(out, split="train"):
    """Return what a converted set says, as training reads it: (file, class, box) of each object."""
    annotations = CocoAnnotations.load(
        out / "annotations" / f"instances_{split}.json", images=out / "images", label_map="contiguous"
    )
    names = [annotations.image_path(row).relative_to(out / "images").as_posix() for row in annotations.rows]
    labels = [annotations.class_names[label] for label in annotations.labels]
    return list(zip(names, labels, annotations.boxes_xywh.round(6).tolist(), strict=True)), annotations


def sums(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def yolo(tmp_path):
    root = tmp_path / "yolo"
    picture(root / "images/train/a/1.jpg")
    picture(root / "images/train/2.jpg")
    picture(root / "images/val/1.jpg")
    for name, text in {
        "train/a/1": "1 0.5 0.5 0.25 0.5\n0 0.1 0.2 0.2 0.2\n\n",
        "val/1": "0 0 0 0.5 0 0.5 0.5 0 0.5\n0 0.5 0.5\n",
    }.items():
        path = root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames: {0: car, 1: bus}\n"
    )
    return root


def test_yolo_boxes_polygons_and_images_without_labels(yolo, tmp_path, capsys):
    before = sums(yolo)
    assert main(["convert", "yolo", str(yolo), "--out", str(tmp_path / "out")]) == 0
    assert sums(yolo) == before
    found, annotations = written(tmp_path / "out")
    # center and size are fractions of 40 x 20
    assert found == [("train/a/1.jpg", "bus", [15, 5, 10, 10]), ("train/a/1.jpg", "car", [0, 2, 8, 4])]
    assert len(annotations.image_ids) == 2  # one has no text file, and is kept
    assert annotations.class_names == ["car", "bus"]
    found, _ = written(tmp_path / "out", "val")
    assert found == [("val/1.jpg", "car", [0, 0, 20, 10])]  # around the polygon
    content = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())
    assert content["annotations"][0]["segmentation"] == [[0, 0, 20, 0, 20, 10, 0, 10]]
    said = capsys.readouterr().out
    assert "neither a box nor a polygon, left out: 1" in said
    assert "labels/val/1.txt:2" in said


def test_a_converted_set_is_laid_over_a_recipe(yolo, tmp_path):
    main(["convert", "yolo", str(yolo / "data.yaml"), "--out", str(tmp_path / "out")])
    recipe = load_recipe("ssdlite_mnv3_large", [str(tmp_path / "out/data.yaml")]).recipe
    assert recipe.data.root == str(tmp_path / "out")
    assert recipe.data.val.annotations == "annotations/instances_val.json"


def test_yolo_boxes_are_of_the_image_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture(tmp_path / "images/1.jpg", (40, 20), exif=exif)
    (tmp_path / "classes.txt").write_text("car\n")
    (tmp_path / "images/1.txt").write_text("0 0.5 0.5 1 1\n")
    (image,) = read_yolo(tmp_path).splits["all"]
    assert image.hw == (40, 20)
    assert image.boxes[0].xywh == (0, 0, 20, 40)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2 0.5 0.5 1 1", "wanted a class from 0 to 1"),
        ("x 1 1 1 1", "wanted finite numbers"),
        ("0 nan 0 1 1", "wanted finite"),
    ],
)
def test_lines_that_are_not_yolos(yolo, line, said):
    (yolo / "labels/val/1.txt").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=rf"labels/val/1\.txt:2: {said}"):
        read_yolo(yolo)


def test_roboflows_paths_and_missing_ones(yolo):
    (yolo / "data.yaml").write_text("train: ../images/train\nnames: [car, bus]\n")
    assert [image.name for image in read_yolo(yolo).splits["train"]] == ["train/2.jpg", "train/a/1.jpg"]
    (yolo / "data.yaml").write_text("train: nowhere\nnames: [car, bus]\n")
    with pytest.raises(FileNotFoundError, match="names nowhere"):
        read_yolo(yolo)
    (yolo / "data.yaml").write_text("train: images/train\n")
    with pytest.raises(ValueError, match="no names"):
        read_yolo(yolo)
    (yolo / "data.yaml").write_text("train: images/train\nnames: [car\n")
    with pytest.raises(ValueError, match=r"data\.yaml:3: not valid YAML: .*, column 1 \("):
        read_yolo(yolo)
    (yolo / "data.yaml").write_text("names: [a\x00]\n")
    with pytest.raises(ValueError, match=r"data\.yaml is not valid YAML: it has characters"):
        read_yolo(yolo)
    (yolo / "data.yaml").write_text("names: {1: car, 2: bus}\n")
    with pytest.raises(ValueError, match="numbered 0, 1, 2"):
        read_yolo(yolo)


VOC = """<annotation><filename>{name}.jpg</filename><size><width>{w}</width><height>20</height></size>
{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


def voc(root, name, *objects, width=40, image=True):
    if image:
        picture(root / "JPEGImages" / f"{name}.jpg")
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    entries = "".join(OBJECT.format(*box, name=label, difficult=flag) for label, flag, box in objects)
    (root / "Annotations" / f"{name}.xml").write_text(VOC.format(name=name, w=width, objects=entries))


def test_voc_counts_pixels_from_one_and_keeps_what_is_difficult(tmp_path):
    voc(tmp_path, "1", ("dog", 0, (1, 1, 10, 20)), ("cat", 1, (40, 20, 40, 20)))
    voc(tmp_path, "2")
    found = read_voc(tmp_path)
    assert found.classes == ["cat", "dog"]
    first, second = found.splits["all"]
    assert [box.xywh for box in first.boxes] == [(0, 0, 10, 20), (39, 19, 1, 1)]
    assert [dict(box.extra) for box in first.boxes] == [{}, {"difficult": 1}]
    assert not second.boxes


def test_voc_files_of_tools_that_write_edges(tmp_path):
    voc(tmp_path, "1", ("dog", 0, (0, 1, 10, 20)))
    (image,) = read_voc(tmp_path).splits["all"]
    assert image.boxes[0].xywh == (0, 1, 10, 19)


def test_voc_lists_become_splits_and_nothing_vanishes_silently(tmp_path):
    for name in "1234":
        voc(tmp_path, name, ("dog", 0, (1, 1, 5, 5)), width=41 if name == "1" else 40)
    voc(tmp_path, "5", image=False)
    lists = {"train": "1\n2\n9\n", "val": "2\n3\n", "trainval": "1\n2\n3\n"}
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for name, text in lists.items():
        (tmp_path / "ImageSets/Main" / f"{name}.txt").write_text(text)
    found = read_voc(tmp_path)
    assert {split: [image.name for image in images] for split, images in found.splits.items()} == {
        "train": ["1.jpg", "2.jpg"],
        "val": ["3.jpg"],
    }
    said = "\n".join(found.lost.lines())
    for each in ("another size", "image missing", "without an annotation", "two lists", "in no list"):
        assert each in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<annotation>", "no annotation of Pascal VOC"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "declares entities"),
        ("<annotation><object><name>a</name></object></annotation>", "no bndbox"),
        (VOC.format(name="1", w="wide", objects=""), "<size> needs a number in <width>, got 'wide'"),
        (VOC.format(name="1", w=40.5, objects=""), "needs a whole number in <width>, got '40.5'"),
        (VOC.format(name="1", w=40, objects=OBJECT.format("a", 1, 2, 2, name="a", difficult=0)), "in <xmin>"),
        (VOC.format(name="1", w=40, objects=OBJECT.format("nan", 1, 2, 2, name="a", difficult=0)), "finite"),
    ],
)
def test_xml_that_is_not_vocs(tmp_path, text, said):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/1.xml").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_voc(tmp_path)


def test_a_real_voc_set_keeps_every_box_and_class(shared_data, tmp_path, capsys):
    assert main(["convert", "voc", str(shared_data / "bccd_voc"), "--out", str(tmp_path / "out")]) == 0
    assert "not carried over" not in capsys.readouterr().out
    counts, boxes = {}, 0
    for split in ("train", "val", "test"):
        found, annotations = written(tmp_path / "out", split)
        boxes += len(found)
        counts[split] = len(annotations.image_ids)
        assert annotations.class_names == ["Platelets", "RBC", "WBC"]
        assert not annotations.problems.counts
    assert counts == {"train": 205, "val": 87, "test": 72}
    assert boxes == 4888


def labelme(root, name, *shapes, size=(40, 20), **fields):
    picture(root / f"{name}.jpg")
    entries = [
        {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}}
        for label, kind, points in shapes
    ]
    content = {"version": "5.0.1", "shapes": entries, "imagePath": f"{name}.jpg", "imageData": None}
    content |= {"imageWidth": size[0], "imageHeight": size[1], **fields}
    (root / f"{name}.json").write_text(json.dumps(content))


def test_labelmes_shapes_become_boxes(tmp_path):
    labelme(
        tmp_path,
        "1",
        ("dog", "rectangle", [[10, 12], [2, 3]]),  # drawn from its lower right corner
        ("cat", "polygon", [[0, 0], [8, 0], [4, 6]]),
        ("cat", "circle", [[20, 10], [23, 14]]),
        ("dog", "point", [[1, 1]]),
        ("dog", "linestrip", [[1, 1], [5, 5]]),
    )
    found = read_labelme(tmp_path)
    (image,) = found.splits["all"]
    assert [box.xywh for box in image.boxes] == [(2, 3, 8, 9), (0, 0, 8, 6), (15, 5, 10, 10)]
    assert image.boxes[1].extra["segmentation"] == [[0, 0, 8, 0, 4, 6]]
    assert found.lost.counts == {
        "point, which has no area, left out": 1,
        "linestrip, which has no area, left out": 1,
    }


def test_files_that_are_not_labelmes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \.json"):
        read_labelme(tmp_path)
    labelme(tmp_path, "1", imagePath="../secret.jpg")
    with pytest.raises(ValueError, match="outside"):
        read_labelme(tmp_path)
    (tmp_path / "1.json").write_text("{}")
    with pytest.raises(ValueError, match="no file of labelme's"):
        read_labelme(tmp_path)


def coco(path, images, annotations, categories=((1, "dog"), (2, "cat"))):
    content = {
        "images": [{"id": id_, "file_name": name, "width": 40, "height": 20} for id_, name in images],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": [1, 1, 5, 5],
                "area": 25,
                **more,
            }
            for number, (image, category, more) in enumerate(annotations)
        ],
        "categories": [{"id": id_, "name": name} for id_, name in categories],
    }
    path.write_text(json.dumps(content))


def content_of(out, split):
    return json.loads((out / "annotations" / f"instances_{split}.json").read_text())


def test_coco_split_keeps_classes_in_proportion_and_images_whole(tmp_path):
    images = [(number, f"video{number // 10}/{number:03}.jpg") for number in range(200)]
    boxes = [(number, 1, {}) for number in range(200)] + [(number, 2, {}) for number in range(0, 200, 10)]
    coco(tmp_path / "all.json", images, boxes)
    assert main(["convert", "coco-split", str(tmp_path / "all.json"), "--out", str(tmp_path / "out")]) == 0
    parts = [
        json.loads((tmp_path / f"out/annotations/instances_{each}.json").read_text())
        for each in ("train", "val")
    ]
    ids = [{image["id"] for image in part["images"]} for part in parts]
    assert ids[0] | ids[1] == set(range(200))
    assert not ids[0] & ids[1]
    assert len(ids[1]) == 40
    rare = [sum(each["category_id"] == 2 for each in part["annotations"]) for part in parts]
    assert rare == [16, 4]
    assert all(
        each["image_id"] in own for part, own in zip(parts, ids, strict=True) for each in part["annotations"]
    )


@pytest.mark.parametrize("group", ["folder", r"^(video\d+)"])
def test_coco_split_tears_no_group(tmp_path, group):
    images = [(number, f"video{number // 10}/{number:03}.jpg") for number in range(100)]
    coco(tmp_path / "all.json", images, [(number, 1, {}) for number in range(100)])
    main(
        [
            "convert",
            "coco-split",
            str(tmp_path / "all.json"),
            "--out",
            str(tmp_path / "out"),
            "--group",
            group,
        ]
    )
    content = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())
    videos = {image["file_name"].split("/")[0] for image in content["images"]}
    assert len(videos) == 2
    assert len(content["images"]) == 20


def test_what_cannot_be_cut(tmp_path, capsys):
    coco(tmp_path / "all.json", [(1, "a/1.jpg"), (2, "a/2.jpg")], [])
    command = ["convert", "coco-split", str(tmp_path / "all.json"), "--out", str(tmp_path / "out")]
    assert main([*command, "--group", "folder"]) == 2
    assert "1 groups of images cannot be cut" in capsys.readouterr().err
    assert main([*command, "--group", "video"]) == 2
    assert "--group video matches nothing in a/1.jpg" in capsys.readouterr().err
    assert main([*command, "--group", "("]) == 2
    assert "--group ( is no regular expression" in capsys.readouterr().err
    assert main([*command, "--fraction", "1.5"]) == 2
    assert not (tmp_path / "out").exists()


def label_maps(out):
    paths = sorted((out / "labels").rglob("*.png"))
    return {path.stem: np.asarray(Image.open(path)) for path in paths}


def test_labelmes_polygons_become_label_maps(tmp_path):
    for name in "12":
        labelme(
            tmp_path / "photos",
            name,
            ("road", "rectangle", [[0, 10], [40, 20]]),
            ("car", "polygon", [[10, 12], [20, 12], [20, 16], [10, 16]]),
        )
    command = ["convert", "polygons", str(tmp_path / "photos"), "--out"]
    assert main([*command, str(tmp_path / "out"), "--fraction", "0.5"]) == 0
    maps = label_maps(tmp_path / "out")
    assert set(maps) == {"1", "2"}
    # background, car, road: 40 x 10 of road, of which the car covers 10 x 4
    assert np.bincount(maps["1"].ravel()).tolist() == [400, 40, 360]
    recipe = load_recipe("lraspp_mnv3_large", [str(tmp_path / "out/data.yaml")]).recipe
    assert [entry.name for entry in recipe.data.classes] == ["background", "car", "road"]
    assert main([*command, str(tmp_path / "void"), "--fraction", "0.5", "--unlabeled", "ignore"]) == 0
    assert np.unique(label_maps(tmp_path / "void")["1"]).tolist() == [0, 1, 255]


def test_cocos_polygons_and_rle_become_label_maps(tmp_path):
    square = [[0, 0, 10, 0, 10, 10, 0, 10]]
    rle = {"size": [20, 40], "counts": [0, 20 * 40]}  # the whole image
    coco(
        tmp_path / "all.json",
        [(1, "1.jpg"), (2, "2.jpg")],
        [(1, 1, {"segmentation": square}), (1, 2, {"segmentation": rle, "iscrowd": 1}), (2, 1, {})],
    )
    for name in "12":
        picture(tmp_path / f"{name}.jpg")
    assert (
        main(
            [
                "convert",
                "polygons",
                str(tmp_path / "all.json"),
                "--out",
                str(tmp_path / "out"),
                "--fraction",
                "0.5",
            ]
        )
        == 0
    )
    maps = label_maps(tmp_path / "out")
    assert np.bincount(maps["1"].ravel()).tolist() == [0, 100, 700]  # the smaller object on top
    assert not maps["2"].any()


def test_colors_become_label_maps(tmp_path, capsys):
    colors = np.zeros((20, 40, 3), np.uint8)
    colors[:, :10], colors[:, 10:20], colors[0, 39] = (64, 0, 128), (64, 0, 192), (1, 2, 3)
    for name in "12":
        picture(tmp_path / f"images/{name}.jpg")
        picture(tmp_path / f"masks/{name}_L.png")
        Image.fromarray(colors).save(tmp_path / f"masks/{name}_L.png")
    picture(tmp_path / "images/3.jpg")
    (tmp_path / "colors.txt").write_text("64 0 128\tcar\n0 0 0 void road\n64 0 192 car\n")
    command = ["convert", "colors", str(tmp_path / "masks"), "--images", str(tmp_path / "images")]
    command += ["--out", str(tmp_path / "out"), "--fraction", "0.5"]
    assert main(command) == 2
    assert main([*command, "--colors", str(tmp_path / "colors.txt")]) == 0
    maps = label_maps(tmp_path / "out")
    assert maps["1"][5, [0, 15, 25]].tolist() == [0, 0, 1]
    assert maps["1"][0, 39] == 255
    said = capsys.readouterr().out
    assert "color that the list does not have, ignored: 2" in said
    assert "1 2 3, 1 pixels" in said
    assert "image without a color PNG, left out: 1" in said
    (tmp_path / "colors.txt").write_text("64 0 300 car\n")
    assert main([*command, "--colors", str(tmp_path / "colors.txt"), "--out", str(tmp_path / "more")]) == 2


def test_nothing_is_overwritten_and_nothing_is_made_of_nothing(yolo, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    assert main(["convert", "yolo", str(yolo), "--out", str(tmp_path / "out")]) == 2
    assert "is not overwritten" in capsys.readouterr().err
    assert main(["convert", "yolo", str(tmp_path / "nowhere"), "--out", str(tmp_path / "new")]) == 2
    assert "does not exist" in capsys.readouterr().err
    for path in yolo.rglob("*.jpg"):
        path.write_bytes(b"")
    assert main(["convert", "yolo", str(yolo), "--out", str(tmp_path / "new")]) == 2
    assert "nothing is written" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_cut_of_other_sources(tmp_path):
    for name in "12345":
        labelme(
            tmp_path / "src",
            name,
            ("dog", "rectangle", [[1, 1], [5, 5]]),
        )
    command = [
        "convert",
        "labelme",
        str(tmp_path / "src"),
        "--out",
        str(tmp_path / "out"),
        "--fraction",
        "0.2",
    ]
    assert main(command) == 0
    assert len(written(tmp_path / "out")[1].image_ids) == 4
    assert len(written(tmp_path / "out", "val")[1].image_ids) == 1


def test_many_losses_are_counted_and_the_first_listed():
    lost = Lost()
    for number in range(30):
        lost.add("gone", str(number))
    lines = list(lost.lines())
    assert lines[0] == "gone: 30"
    assert lines[-1] == "  ... and 10 more"
    assert len(lines) == 22


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# no json", "is no COCO json"),
        ("[1, 2]", "is no COCO json"),
        ({"category_id": 9}, "annotation id 0: wanted polygons or RLE of a listed category"),
        ({"segmentation": [["a", "b"]]}, "annotation id 0: wanted polygons or RLE"),
        ({"segmentation": {"counts": 5}}, "annotation id 0: wanted polygons or RLE"),
    ],
)
def test_polygons_of_what_is_not_cocos(tmp_path, capsys, content, said):
    path = tmp_path / "all.json"
    if isinstance(content, str):
        path.write_text(content)
    else:
        picture(tmp_path / "1.jpg")
        more = {"segmentation": [[0, 0, 9, 0, 9, 9]], **content}
        coco(path, [(1, "1.jpg")], [(1, 1, more)])
    assert main(["convert", "polygons", str(path), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
