"""The score of a predictor is what `dettoolkit evaluate` finds for the same checkpoint."""

import json
import math

import pytest

from dettoolkit import load
from dettoolkit.config import load_recipe
from dettoolkit.export.verify import score, validation_run
from dettoolkit.training.run_folder import stored_recipe


def recipe_of(run, *overrides):
    with stored_recipe(run) as config:
        return load_recipe(str(config), overrides).recipe


def evaluated(run):
    return json.loads((run / "evaluation.json").read_text())["numbers"]


@pytest.fixture
def model(request):
    run = request.getfixturevalue(request.param)
    return run, load(run, device="cpu")


@pytest.mark.parametrize(
    "model", ["tiny_run", "tiny_segmentation_run", "tiny_classification_run"], indirect=True
)
def test_the_score_is_the_evaluations(model):
    run, predictor = model
    data = validation_run(recipe_of(run), predictor.manifest, what=str(run))
    name, numbers = score(predictor, data)
    assert name == {"detection": "AP", "segmentation": "mIoU", "classification": "top-1"}[predictor.task]
    assert list(numbers) == {"AP": ["AP", "APs", "APm", "APl"]}.get(name, [name])
    wanted = {each: evaluated(run)[each] for each in numbers}
    wanted = {each: math.nan if value is None else value for each, value in wanted.items()}
    assert numbers == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    assert len(data.image_files()) == len(data.val)


@pytest.mark.parametrize("model", ["tiny_segmentation_run"], indirect=True)
def test_labels_of_another_size_than_their_image_are_scored(model, tmp_path, tiny_segmentation):
    import cv2

    run, predictor = model
    root = tiny_segmentation.write(tmp_path / "data")
    for path in (root / "leftImg8bit" / "val").rglob("*.png"):
        image = cv2.imread(str(path))
        cv2.imwrite(str(path), cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST))
    data = validation_run(recipe_of(run, f"data.root={root}"), predictor.manifest, what=str(run))
    name, numbers = score(predictor, data)
    assert 0 < numbers[name] <= 1


@pytest.mark.parametrize("model", ["tiny_run"], indirect=True)
def test_unreadable_images_are_refused_or_passed_over_as_the_recipe_says(model, tmp_path, tiny):
    run, predictor = model
    root = tiny.write(tmp_path / "data")
    (root / "val" / "2.png").write_bytes(b"broken")
    data = validation_run(recipe_of(run, f"data.root={root}"), predictor.manifest, what=str(run))
    with pytest.raises(ValueError, match=r"2\.png"):
        score(predictor, data)
    recipe = recipe_of(run, f"data.root={root}", "data.on_bad_image=skip")
    skipping = validation_run(recipe, predictor.manifest, what=str(run))
    assert score(predictor, skipping)[0] == "AP"


@pytest.mark.parametrize("model", ["tiny_run"], indirect=True)
def test_data_of_other_classes_is_refused(model, tmp_path, tiny):
    run, predictor = model
    root = tiny.write(tmp_path / "data")
    file = root / "annotations" / "val.json"
    file.write_text(file.read_text().replace('"name": "bar"', '"name": "rod"'))
    with pytest.raises(ValueError, match="rod"):
        validation_run(recipe_of(run, f"data.root={root}"), predictor.manifest, what=str(run))
