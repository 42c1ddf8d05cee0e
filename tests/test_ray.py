"""Prediction by Ray Data: the class alone, and a local Ray with two workers."""

from pathlib import Path

import numpy as np
import pytest

from dettoolkit.cli.predicting import predict
from dettoolkit.inference.jobs.journal import read_records

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'dettoolkit[ray]'")

from dettoolkit.ray import BatchPredictor


@pytest.fixture
def images(tiny):
    """Return paths of images, the last of which does not exist."""
    return [str(tiny.data / "val" / f"{number}.png") for number in range(1, 6)] + ["nowhere/6.png"]


@pytest.fixture
def wanted(tiny, tiny_run, tmp_path):
    """Return what `dettoolkit predict` finds, by the file's name."""
    given = [str(tiny_run), str(tiny.data / "val"), "--threshold", "0.01", "--save", "json"]
    assert predict([*given, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    return {record["name"]: record for record in read_records(tmp_path / "out/results.jsonl")}


def assert_alike(rows, wanted):
    assert len(rows) == len(wanted) + 1
    for row in rows:
        if row["path"].startswith("nowhere"):
            assert row["error"].endswith("file does not exist")
            assert row["scores"] == []
            continue
        record = wanted[row["path"].rpartition("/")[2]]
        assert (row["height"], row["width"], row["error"]) == (48, 64, None)
        assert row["class_names"] == [each["name"] for each in record["objects"]]
        assert row["class_ids"] == [each["class_id"] for each in record["objects"]]
        assert np.allclose(row["scores"], [each["score"] for each in record["objects"]], atol=1e-5)
        boxes = np.array([each["box_xyxy"] for each in record["objects"]]).reshape(-1, 4)
        assert np.allclose(np.array(row["boxes_xyxy"]).reshape(-1, 4), boxes, atol=1e-2)


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_batch_of_paths(images, wanted, tiny_run, at_once):
    predictor = BatchPredictor(str(tiny_run), threshold=0.01, device="cpu", at_once=at_once)
    table = predictor({"path": np.array(images, object), "day": np.arange(6)})
    assert table["day"].to_pylist() == [0, 1, 2, 3, 4, 5]
    assert_alike(table.to_pylist(), wanted)


def test_bytes_and_pixels(images, wanted, tiny_run):
    predictor = BatchPredictor(str(tiny_run), threshold=0.01, device="cpu")
    data = np.array([Path(path).read_bytes() for path in images[:5]] + [b""], object)
    by_bytes = predictor({"bytes": data, "path": np.array(images, object)})
    assert by_bytes["error"].to_pylist()[4:] == [None, "file is empty"]
    pixels = np.stack([np.full((48, 64, 3), 90, np.uint8)] * 2)
    table = predictor({"image": pixels})
    assert table["height"].to_pylist() == [48, 48]
    assert table["scores"][0] == table["scores"][1]
    empty = predictor({"path": np.array([], object)})
    assert empty.num_rows == 0
    assert empty.schema.names == by_bytes.schema.names
    with pytest.raises(ValueError, match="a batch has the columns photo: expected one of bytes, image, path"):
        predictor({"photo": data})


def test_a_segmenters_masks_come_as_run_lengths(tiny_segmentation, tiny_segmentation_run):
    from pycocotools import mask as coder

    predictor = BatchPredictor(str(tiny_segmentation_run), device="cpu")
    (path,) = (tiny_segmentation.data / "leftImg8bit/val").rglob("lindau_000001_*.png")
    (row,) = predictor({"path": np.array([str(path)], object)}).to_pylist()
    masks = [coder.decode({"size": [row["height"], row["width"]], "counts": each}) for each in row["rle"]]
    assert np.array_equal(sum(masks), np.ones((48, 64)))
    assert [int(mask.sum()) for mask in masks] == row["pixels"]


def test_a_classifiers_best_classes(tiny_classification, tiny_classification_run):
    predictor = BatchPredictor(str(tiny_classification_run), device="cpu")
    paths = sorted(map(str, (tiny_classification.data / "val").rglob("*.png")))[:2]
    rows = predictor({"path": np.array([*paths, "nowhere/6.png"], object)}).to_pylist()
    count = min(5, len(predictor.predictor.class_names))
    assert [len(row["class_names"]) for row in rows] == [count, count, 0]
    assert rows[0]["scores"] == sorted(rows[0]["scores"], reverse=True)
    assert rows[0]["class_names"][0] == predictor.predictor(paths[0]).names[0]


@pytest.mark.timeout(600)
def test_with_a_local_ray(images, wanted, tiny_run, tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'dettoolkit[ray]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        found = ray.data.from_items([{"path": path} for path in images], override_num_blocks=3).map_batches(
            BatchPredictor,
            fn_constructor_kwargs={"model": str(tiny_run), "threshold": 0.01, "device": "cpu"},
            compute=ray.data.ActorPoolStrategy(size=2),
            num_cpus=0.5,  # some are left for reading
            batch_size=2,
        )
        found.write_parquet(str(tmp_path / "found"))
        assert_alike(ray.data.read_parquet(str(tmp_path / "found")).take_all(), wanted)
    finally:
        ray.shutdown()
