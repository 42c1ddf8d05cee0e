"""The doctor: findings, checks of a recipe against its data, text, JSON, page, and the command."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from test_doctor_files import RECIPE, Data

from dettoolkit.cli import doctor, train
from dettoolkit.config import load_recipe
from dettoolkit.doctor import findings
from dettoolkit.doctor.diagnosis import Diagnosis, example_image
from dettoolkit.doctor.examine import refused
from dettoolkit.doctor.findings import EXAMPLES, Amount, Example, Finding, by_severity, counted, found
from dettoolkit.doctor.recipe_checks import (
    check_aspect,
    check_length,
    check_rate,
    check_workers,
    length_of,
    meant_length,
)

# What a finding is


def test_a_finding_keeps_the_count_and_the_first_examples():
    calls = []

    def example(case):
        calls.append(case)
        return Example(annotation_id=case)

    (finding,) = found(
        "box-clipped",
        "warning",
        range(1000, 13_000),
        example,
        split="val",
        text="{n} box{n:|es} {n:reaches|reach} outside",
        remedy="Nothing.",
    )
    assert (finding.count, finding.text) == (12_000, "12,000 boxes reach outside")
    assert [each.annotation_id for each in finding.examples] == calls == [1000, 1001, 1002]
    assert json.loads(json.dumps(finding.to_json())) == {
        "id": "box-clipped",
        "severity": "warning",
        "split": "val",
        "count": 12_000,
        "text": "12,000 boxes reach outside",
        "remedy": "Nothing.",
        "examples": [
            {
                "file": None,
                "image_id": None,
                "annotation_id": number,
                "text": "",
                "boxes_xyxy": [],
                "hw": None,
                "beside": None,
            }
            for number in calls
        ],
    }


@pytest.mark.parametrize("cases", [[], (), np.empty((0, 4)), range(0)])
def test_no_case_is_no_finding(cases):
    assert found("some-check", "error", cases, lambda _: Example(), text="{n}", remedy="") == []


def test_rows_of_an_array_are_cases():
    boxes = np.arange(20.0).reshape(5, 4)
    (finding,) = found(
        "some-check",
        "note",
        boxes,
        lambda box: Example(boxes_xyxy=(tuple(box.tolist()),)),
        text="{n} box{n:|es}",
        remedy="",
    )
    assert finding.count == 5
    assert finding.examples[1].boxes_xyxy == ((4.0, 5.0, 6.0, 7.0),)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 boxes are"), (1, "1 box is"), (2, "2 boxes are"), (1234, "1,234 boxes are")]
)
def test_amounts_agree_with_their_words(number, text):
    assert "{n} box{n:|es} {n:is|are}".format(n=Amount(number)) == text


def test_counted():
    assert [counted(each, "step") for each in (0, 1, 400_000)] == ["0 steps", "1 step", "400,000 steps"]


def finding(severity, id_="some-check"):
    return Finding(id=id_, severity=severity, split=None, count=1, text="text", remedy="Do it.", examples=())


def test_the_worst_come_first_otherwise_in_order():
    order = [("note", "a"), ("error", "b"), ("warning", "c"), ("error", "d"), ("note", "e")]
    sorted_ = by_severity([finding(*each) for each in order])
    assert "".join(each.id for each in sorted_) == "bdcae"
    assert set(findings.SEVERITIES) == set(get_args(findings.Severity))


def test_lines_of_examples():
    assert Example(file="a.jpg", image_id=3, annotation_id=0, text="wide").line() == (
        "a.jpg (image id 3, annotation id 0): wide"
    )
    assert Example(file="a.jpg").line() == "a.jpg"
    assert Example(text="class cat").line() == "class cat"
    assert Example(annotation_id=7).line() == "(annotation id 7)"


# A recipe against its data

FINETUNE = ("finetune.yaml", "trainer.accelerator=cpu")


def recipe_of(*extras, name="ssdlite_mnv3_large"):
    return load_recipe(name, extras).recipe


def ids(found_):
    return [(each.id, each.severity) for each in found_]


def length_findings(images, *extras, files=("finetune.yaml",)):
    recipe = recipe_of("trainer.accelerator=cpu", *files, *extras)
    meant = meant_length(load_recipe("ssdlite_mnv3_large", ["trainer.accelerator=cpu", *files]))
    return list(check_length(length_of(recipe, images), meant, recipe=recipe, images=images))


def test_length_by_hand():
    length = length_of(recipe_of(*FINETUNE), 677)  # 677 // 16 = 42 steps in each of 50 epochs
    assert (length.step_images, length.epoch_steps, length.steps, length.epochs) == (16, 42, 2100, 50)
    wide = length_of(recipe_of(*FINETUNE, "trainer.devices=2", "trainer.accumulate=4"), 677)
    assert (wide.step_images, wide.epoch_steps, wide.steps) == (128, 6, 300)  # 21 batches of each process
    steps = length_of(recipe_of("trainer.accelerator=cpu"), 118_287)
    assert (steps.steps, steps.epoch_steps) == (400_000, 1848)
    assert steps.epochs == pytest.approx(216.45, abs=0.01)
    assert length_of(recipe_of(*FINETUNE), 0).epoch_steps == 1


@pytest.mark.parametrize("images", [120, 677, 1000, 9000])
def test_a_fitting_length_is_silent(images):
    assert length_findings(images) == []


def test_the_shipped_recipe_on_its_own_data_is_silent():
    assert length_findings(118_287, files=()) == []


def test_a_schedule_for_coco_on_a_small_set_is_long():
    (found_,) = length_findings(677, files=())
    assert ids([found_]) == [("schedule-long", "warning")]
    assert "show each of the 677 images 40,000 times" in found_.text
    assert "216 times" in found_.text
    assert "finetune" in found_.remedy


def test_an_overlay_for_small_sets_on_a_large_one_is_long():
    (found_,) = length_findings(118_287)
    assert ids([found_]) == [("schedule-long", "warning")]
    assert "trainer.max_epochs=4 " in found_.remedy  # 31,000 of 7,392 steps each


@pytest.mark.parametrize(("images", "extras"), [(60, ()), (677, ("trainer.max_epochs=7",))])
def test_a_short_schedule(images, extras):
    (found_,) = length_findings(images, "optim.schedule.warmup_steps=0", *extras)
    assert ids([found_]) == [("schedule-short", "warning")]
    assert "less than a tenth of the 3,100" in found_.text


def test_few_steps_where_nothing_is_known_of_the_length():
    recipe = recipe_of(*FINETUNE, "trainer.max_epochs=2", "optim.schedule.warmup_steps=0")
    (found_,) = check_length(length_of(recipe, 677), None, recipe=recipe, images=677)
    assert found_.id == "schedule-short"
    assert found_.text == "The run has 84 steps of 16 images only"


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (1049, []),
        (1051, [("warmup-long", "warning")]),
        (2100, [("warmup-long", "error")]),
    ],
)
def test_warm_up(warmup, expected):
    assert ids(length_findings(677, f"optim.schedule.warmup_steps={warmup}")) == expected


@pytest.mark.parametrize(("images", "expected"), [(15, [("batch-larger-than-data", "error")]), (16, [])])
def test_a_batch_larger_than_the_data(images, expected):
    quiet = ("optim.schedule.warmup_steps=0", "trainer.max_epochs=1000")
    found_ = length_findings(images, *quiet)
    assert [each for each in ids(found_) if each[0] != "schedule-long"] == expected
    if expected:
        assert "data.batch_size=15 " in found_[0].remedy


def test_a_length_of_ones_own_is_compared_with_nothing(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("trainer: {max_epochs: 3000, max_steps: null}\n")
    assert meant_length(load_recipe("ssdlite_mnv3_large", [str(own)])) is None
    own.write_text("trainer:\n  max_epochs: 3000\n  max_steps: null\n  length_images: 20\n")
    assert meant_length(load_recipe("ssdlite_mnv3_large", [str(own)])).epochs == 3000


def test_every_shipped_length_says_for_how_many_images():
    folder = Path(__file__).parents[1] / "configs"
    unknown = {"lraspp_mnv3_large_torchvision"}  # for a part of COCO that torchvision chooses while it loads
    for path in sorted(folder.glob("*.yaml")):
        assert (meant_length(load_recipe(str(path))) is None) == (path.stem in unknown)
    for overlay in folder.glob("overlays/*.yaml"):
        if re.search(r"max_epochs: \d", overlay.read_text()):
            assert "length_images: " in overlay.read_text()


def rate_findings(*extras, files=FINETUNE):
    recipe = recipe_of(*files, *extras)
    return list(check_rate(length_of(recipe, 677), recipe_of(*files), recipe=recipe))


@pytest.mark.parametrize("batch", [2, 4, 16, 128])
def test_a_rate_that_is_scaled_a_little(batch):
    assert rate_findings(f"data.batch_size={batch}") == []


def test_a_rate_that_is_scaled_far():
    (found_,) = rate_findings("data.batch_size=64", "trainer.accumulate=4")
    assert ids([found_]) == [("rate-scaled-far", "warning")]
    assert "is meant for 16 images per step; this run has 256, so that it takes 0.032" in found_.text
    (found_,) = rate_findings("data.batch_size=32", files=("trainer.accelerator=cpu",))
    assert found_.id == "rate-scaled-far"  # of 512


@pytest.mark.parametrize(
    ("extras", "expected"),
    [
        (["data.batch_size=64"], [("rate-not-scaled", "warning")]),
        (["data.batch_size=4"], [("rate-not-scaled", "warning")]),
        (["data.batch_size=32"], []),
        (["data.batch_size=64", "optim.lr=0.004"], []),
    ],
)
def test_a_rate_that_does_not_follow_the_batch(extras, expected):
    found_ = rate_findings(*extras, files=(*FINETUNE, "optim.lr_batch_size=null"))
    assert ids(found_) == expected
    assert not expected or "optim.lr_batch_size=16," in found_[0].remedy


@pytest.mark.parametrize(
    ("workers", "cores", "expected"),
    [
        (4, 4, []),
        (4, 16, []),
        (5, 4, [("workers-above-cores", "note")]),
        (0, 4, [("workers-none", "note")]),
        (0, 1, []),
    ],
)
def test_workers(workers, cores, expected):
    recipe = recipe_of(*FINETUNE, f"data.workers={workers}")
    assert ids(check_workers(recipe, cores=cores)) == expected


def test_workers_of_several_devices_on_several_nodes():
    recipe = recipe_of(*FINETUNE, "data.workers=4", "trainer.devices=2", "trainer.num_nodes=3")
    (found_,) = check_workers(recipe, cores=4)
    assert found_.text == "8 loader processes share 4 cores"
    assert "data.workers=2:" in found_.remedy


@pytest.mark.parametrize(
    ("image_hw", "input_hw", "better"),
    [
        ((480, 640), (320, 320), None),
        ((1080, 1920), (320, 320), "256x416"),
        ((1920, 1080), (320, 320), "416x256"),
        ((512, 512), (256, 512), "352x352"),
        ((1080, 1920), (288, 512), None),
        ((30, 3000), (320, 320), "32x3200"),
    ],
)
def test_aspect(image_hw, input_hw, better):
    found_ = list(check_aspect(np.array([image_hw] * 5), input_hw))
    assert ids(found_) == ([] if better is None else [("input-aspect", "note")])
    assert better is None or f"An input of {better} " in found_[0].remedy


def test_aspect_of_no_images():
    assert list(check_aspect(np.empty((0, 2), np.int64), (320, 320))) == []


# Text, JSON and page


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.full((300, 400, 3), 90, np.uint8)).save(path)
    return path


def diagnosis(*found_, deep=True):
    return Diagnosis(
        name="my_recipe", root="my_data", images={"train": 1, "val": 2}, deep=deep, findings=found_
    )


def test_text(image):
    cases = [Example(file=str(image), image_id=number, text="odd") for number in range(5)]
    (bad,) = found(
        "some-check", "error", cases, lambda each: each, text="{n} are odd", remedy="Look.", split="val"
    )
    assert list(diagnosis(bad, finding("note")).lines()) == [
        "error    some-check (val): 5 are odd",
        f"           {image} (image id 0): odd",
        f"           {image} (image id 1): odd",
        f"           {image} (image id 2): odd",
        "           ... and 2 more",
        "         -> Look.",
        "note     some-check: text",
        "         -> Do it.",
        "1 error, 1 note in 1 image of train and 2 images of val (every image was read)",
    ]
    assert EXAMPLES == 3


def test_text_of_nothing():
    assert list(diagnosis(deep=False).lines()) == [
        "nothing found in 1 image of train and 2 images of val (only names and headers were read)"
    ]


def test_text_of_data_that_cannot_be_loaded():
    assert list(refused("a", RECIPE, "gone").lines()) == [
        "error    data-refused: gone",
        "         -> Correct this first: nothing else was looked at.",
        "1 error",
    ]


def test_json():
    values = json.loads(diagnosis(finding("warning"), finding("note")).to_json())
    assert values["every_image_read"] is True
    assert values["counts"] == {"error": 0, "warning": 1, "note": 1}
    assert values["images"] == {"train": 1, "val": 2}
    assert [each["id"] for each in values["findings"]] == ["some-check"] * 2


def test_page(image):
    shown = [
        Example(file=str(image), image_id=1, annotation_id=7, boxes_xyxy=((10, 20, 300, 200),)),
        Example(file=str(image.with_name("gone.png")), image_id=2, text="<gone>"),
    ]
    (bad,) = found("some-check", "error", shown, lambda each: each, text="{n} odd", remedy="<b>Look.</b>")
    (about,) = found("class-empty", "note", ["cat"], lambda name: Example(text=name), text="{n}", remedy="")
    page = diagnosis(bad, about).page()
    assert page.count("data:image/jpeg;base64,") == 1
    assert "&lt;gone&gt;" in page
    assert "&lt;b&gt;Look.&lt;/b&gt;" in page
    assert "<script" not in page
    assert "annotation id 7" in page
    assert "Data check of my_recipe" in page


def test_page_of_nothing():
    page = diagnosis().page()
    assert "nothing found in 1 image of train" in page
    assert "Errors" not in page


def test_boxes_are_drawn_and_small_ones_enlarged(image):
    plain = example_image(Example(file=str(image)))
    assert plain.shape == (300, 400, 3)
    assert (plain == 90).all()
    large = example_image(Example(file=str(image), boxes_xyxy=((10, 20, 300, 200),)))
    assert large.shape == (300, 400, 3)
    assert (large != 90).any()
    small = example_image(Example(file=str(image), boxes_xyxy=((200, 100, 206, 104),)))
    assert max(small.shape[:2]) == 320  # of 32 pixels of the image
    assert 0 < (small != 90).mean() < 0.5


@pytest.mark.parametrize(
    "box",
    [
        (390, 290, 500, 400),
        (395, 295, 403, 302),
        (500, 500, 600, 600),
        (30, 30, 30, 30),
        (50, 50, 20, 20),
        (np.nan, 0, 1, 1),
        (0, 0, np.inf, 1),
        (-9, -9, -3, -3),
        (1e9, 1e9, 2e9, 2e9),
    ],
)
def test_boxes_that_are_no_boxes_can_be_shown(image, box):
    assert min(example_image(Example(file=str(image), boxes_xyxy=(box,))).shape) > 0


def test_an_image_is_shown_as_it_was_annotated(tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path, exif=tags)
    assert example_image(Example(file=str(path), hw=(40, 30))).shape == (40, 30, 3)
    assert example_image(Example(file=str(path), hw=(30, 40))).shape == (30, 40, 3)


def test_a_pair_is_shown_side_by_side(image, tmp_path):
    other = tmp_path / "other.png"
    Image.fromarray(np.full((150, 100, 3), 30, np.uint8)).save(other)
    shown = example_image(Example(file=str(image), beside=str(other)))
    assert shown.shape == (300, 400 + 6 + 200, 3)
    assert (shown[:, :400] == 90).all()
    assert (shown[:, 406:] == 30).all()
    alone = example_image(Example(file=str(image), beside=str(tmp_path / "gone.png")))
    assert alone.shape == (300, 400, 3)


# The command


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Return the root of a small COCO data set that is in order."""
    root = tmp_path_factory.mktemp("coco") / "data"
    data = Data(root)
    (root / "annotations").mkdir()
    for split, images in data.listed.items():
        (root / split).rename(root / f"{split}2017")
        entries = [
            {"id": each.image_id, "file_name": each.path.name, "height": each.hw[0], "width": each.hw[1]}
            for each in images
        ]
        boxes = [[8 + number, 10, 50, 60] for number, _ in enumerate(images)]
        objects = [
            {"id": row, "image_id": each.image_id, "category_id": 1 + row % 2, "bbox": box, "area": 3000}
            for row, (each, box) in enumerate(zip(images, boxes, strict=True))
        ]
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        (root / "annotations" / f"instances_{split}2017.json").write_text(
            json.dumps(
                {
                    "images": entries,
                    "annotations": [{**each, "iscrowd": 0} for each in objects],
                    "categories": categories,
                }
            )
        )
    return root


def command(root, *more):
    quiet = ["data.workers=1", "trainer.max_epochs=400", "trainer.accelerator=cpu"]
    return ["ssdlite_mnv3_large", "finetune.yaml", f"data.root={root}", *quiet, *map(str, more)]


def test_status_of_the_command(coco, capsys, tmp_path):
    assert doctor(command(coco)) == 0
    output = capsys.readouterr()
    assert "40 images of train and 20 images of val (every image was read)" in output.out
    assert output.err == ""
    assert doctor(command(coco, "--quick")) == 0
    assert "only names and headers" in capsys.readouterr().out


def test_status_of_warnings_and_errors(coco, capsys):
    long = command(coco, "optim.schedule.warmup_steps=790")
    assert doctor(long) == 0
    assert doctor([*long, "--strict"]) == 1
    assert "warning  warmup-long" in capsys.readouterr().out
    assert doctor(command(coco, "optim.schedule.warmup_steps=800")) == 2
    assert "error    warmup-long" in capsys.readouterr().out


def test_data_that_are_not_there(tmp_path, capsys):
    assert doctor(command(tmp_path / "nowhere", "--json", tmp_path / "found.json")) == 2
    assert "error    data-refused: no COCO data set at data.root=" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["findings"][0]["id"] == "data-refused"


def test_files_of_the_command(coco, tmp_path, capsys):
    files = ["--json", str(tmp_path / "found.json"), "--html", str(tmp_path / "found.html")]
    for _ in range(2):  # its own files are written again
        assert doctor(command(coco, *files)) == 0
    values = json.loads((tmp_path / "found.json").read_text())
    assert values["recipe"] == "ssdlite_mnv3_large"
    assert (tmp_path / "found.html").read_text().startswith("<!doctype html>")
    capsys.readouterr()


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_files_of_others_are_not_written_over(coco, tmp_path, capsys, option):
    own = tmp_path / "annotations.json"
    own.write_text('{"images": []}')
    assert doctor(command(coco, option, own)) == 2
    assert own.read_text() == '{"images": []}'
    assert "is there and not from this command" in capsys.readouterr().err
    assert doctor(command(coco, option, tmp_path / "no" / "such.json")) == 2
    assert "is no folder" in capsys.readouterr().err


def test_a_wrong_recipe(capsys):
    assert doctor(["ssdlite_mnv3_large", "optim.lr=-1"]) == 2
    assert "optim.lr" in capsys.readouterr().err


def test_nothing_is_written_and_no_weights_are_fetched(coco, capsys):
    before = {path: path.stat().st_mtime_ns for path in sorted(coco.rglob("*"))}
    assert doctor(command(coco, "model.backbone.weights=torchvision:DEFAULT")) == 0
    assert before == {path: path.stat().st_mtime_ns for path in sorted(coco.rglob("*"))}
    capsys.readouterr()


def test_annotations_are_read_before_torch_takes_its_memory(coco):
    """A json of COCO's size takes 0.6 GB while it is read, torch as much."""
    code = (
        "import sys; from dettoolkit.config import load_recipe; from dettoolkit.tasks import spec_of\n"
        "import dettoolkit.doctor.examine, dettoolkit.doctor.diagnosis\n"
        f"recipe = load_recipe('ssdlite_mnv3_large', ['data.root={coco}']).recipe\n"
        "spec_of(recipe).examine(recipe, deep=False, progress=None)\n"
        "assert 'torch' not in sys.modules\n"
        "import dettoolkit.detection.default_box_checks\n"
        "assert 'torchvision' not in sys.modules"  # which takes 0.2 GB more
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_check_of_a_training_shows_what_is_cheap_to_see(coco, capsys, tmp_path):
    own = ["model.backbone.weights=null", f"trainer.out={tmp_path}", "model.input_hw=[64, 64]"]
    assert train(command(coco, *own, "optim.schedule.warmup_steps=790", "--check")) == 0
    output = capsys.readouterr().out
    assert "doctor    warning: The learning rate rises for 790 steps of the run's 800 (warmup-long)" in output
    assert "only names and headers were read" in output
    assert "`dettoolkit doctor` instead of `train`" in output
    assert output.endswith("Dry run OK: nothing was trained\n")
