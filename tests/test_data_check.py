"""The doctor's quick part in a training: nothing is loaded twice, and the report shows it."""

import json

import pytest

from dettoolkit.cli import doctor
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.image_folder import ImageFolderFiles
from dettoolkit.datasets.segmentation_files import SegmentationFiles
from dettoolkit.doctor.examination import silent
from dettoolkit.doctor.examine import examine
from dettoolkit.tasks import spec_of
from dettoolkit.training.data_check import check_data

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize("data", ["tiny", "tiny_segmentation", "tiny_classification"])
def test_a_training_is_examined_as_it_is_loaded(data, request, tmp_path, monkeypatch):
    """Nothing is read a second time, and the findings are those of the command."""
    recipe = request.getfixturevalue(data).load(tmp_path).recipe
    spec = spec_of(recipe)
    run = spec.training_run("tiny", recipe, pretrained=False)
    alone = examine(recipe, spec.examine(recipe, deep=False, progress=silent), deep=False)
    for loader in (CocoAnnotations, SegmentationFiles, ImageFolderFiles):
        monkeypatch.delattr(loader, "load")
    assert check_data(run, None).findings == alone


def test_a_training_writes_what_the_doctor_finds_and_its_report_shows_it(tiny, tmp_path, caplog, capsys):
    run, _ = tiny.train(tmp_path)
    found = json.loads((run / "doctor.json").read_text())
    assert not found["every_image_read"]
    assert {"class-few", "batch-small"} & {each["id"] for each in found["findings"]}
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("doctor")]
    assert "warning" in line
    assert line.endswith(f"dettoolkit doctor {run / 'config.yaml'}")
    page = (run / "report.html").read_text()
    assert "Only names and headers were read." in page
    assert found["findings"][0]["id"] in page
    # The command replaces it by what all images show.
    assert doctor([str(run / "config.yaml"), "--json", str(run / "doctor.json")]) in (0, 2)
    assert json.loads((run / "doctor.json").read_text())["every_image_read"]
    capsys.readouterr()


def test_what_cannot_be_examined_ends_no_training(tiny, tmp_path, caplog, monkeypatch):
    def refuse(*_, **__):
        raise OSError(13, "Permission denied", "/there")

    monkeypatch.setattr("dettoolkit.training.data_check.diagnose", refuse)
    run, _ = tiny.train(tmp_path)
    assert not (run / "doctor.json").exists()
    assert (run / "report.html").is_file()
    assert "the data were not examined ([Errno 13] Permission denied: '/there')" in caplog.text
