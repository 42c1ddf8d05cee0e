from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import functional

from dettoolkit.config.detection import FocalLoss
from dettoolkit.detection.box_coding import encode
from dettoolkit.detection.build import build_network
from dettoolkit.detection.detectors import losses_of, ssdlite
from dettoolkit.detection.matching import Assignment, Objects, match, targets_of
from dettoolkit.detection.postprocess import Detections, to_original
from dettoolkit.detection.run import build_task
from dettoolkit.detection.task import DetectionTask, detection_arrays
from dettoolkit.evaluation.arrays import GroundTruthArrays
from dettoolkit.preprocessing import normalize

CATEGORY_IDS = [3, 7]  # of labels 0 and 1
TRUTH = {
    "images": [{"id": 70, "height": 32, "width": 128}, {"id": 9, "height": 64, "width": 64}],
    "categories": [{"id": 3, "name": "box"}, {"id": 7, "name": "bar"}],
    "annotations": [
        {"id": 1, "image_id": 70, "category_id": 7, "bbox": [16.0, 4.0, 80.0, 20.0], "area": 1600.0},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [20.0, 8.0, 24.0, 30.0], "area": 720.0},
    ],
}
# The same objects at the input's size of 64 x 64: the first image is half as high there, and twice as narrow.
BOXES = torch.tensor([[[8.0, 8.0, 48.0, 48.0]], [[20.0, 8.0, 44.0, 38.0]]])
LABELS = torch.tensor([[1], [0]])


@pytest.fixture(scope="module")
def task(tiny: Any) -> DetectionTask:
    torch.manual_seed(0)
    recipe = tiny.load(tiny.data, "model.loss.box_weight=2.0", "evaluation.max_detections=5").recipe
    truth = GroundTruthArrays.from_coco(TRUTH)
    network = build_network(recipe, num_classes=2)
    return build_task(recipe, network, category_ids=CATEGORY_IDS, ground_truth=truth)


def batch(**changes: Tensor) -> dict[str, Any]:
    return {
        "images": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
        "boxes_xyxy": BOXES,
        "box_labels": LABELS,
        "image_ids": torch.tensor([70, 9]),
        "original_hw": torch.tensor([[32, 128], [64, 64]]),
    } | changes


def outputs_that_find(
    task: DetectionTask, boxes: Tensor, labels: Tensor, iou_threshold: float = 0.99
) -> tuple[Tensor, Tensor]:
    """Return outputs (N, A, 3), (N, A, 4) whose best default boxes predict the image's one object."""
    anchors = task.anchors_xyxy
    logits = torch.full((len(boxes), len(anchors), 3), -20.0)
    deltas = torch.zeros(len(boxes), len(anchors), 4)
    found = match(None, anchors, Objects(boxes, labels), iou_threshold=iou_threshold, force_match=True)
    for image, anchor in (found.matched >= 0).nonzero().tolist():
        logits[image, anchor, 1 + int(labels[image, 0])] = 3.0
        deltas[image, anchor] = encode(boxes[image, 0], anchors[anchor])
    return logits, deltas


def test_images_are_normalized_as_torchvision_does() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wanted = functional.normalize(images / 255, list(mean), list(std))
    torch.testing.assert_close(normalize(images, mean, std), wanted, rtol=0, atol=1e-6)
    ends = normalize(torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2), (0.5,) * 3, (0.5,) * 3)
    assert ends.flatten().tolist() == [-1, 1] * 3


def test_boxes_go_back_to_each_images_own_size() -> None:
    boxes = torch.tensor([[[8.0, 8.0, 48.0, 48.0]], [[20.0, 8.0, 44.0, 38.0]]])
    empty = torch.zeros(2, 1)
    found = to_original(
        Detections(boxes, empty, empty.long(), empty[:, 0].long()),
        input_hw=(64, 64),
        original_hw=torch.tensor([[32, 128], [64, 64]]),
    )
    assert found.boxes_xyxy.tolist() == [[[16, 4, 96, 24]], [[20, 8, 44, 38]]]  # x by 2, y by 1/2; unchanged


def test_predictions_are_in_the_files_ids_and_pixels(task: DetectionTask) -> None:
    outputs = outputs_that_find(task, BOXES, LABELS)
    arrays = task.predict(lambda _: outputs, batch())
    best = [np.flatnonzero(arrays.image_ids == image)[0] for image in (70, 9)]
    assert arrays.category_ids[best].tolist() == [7, 3]
    np.testing.assert_allclose(arrays.boxes_xywh[best], [[16, 4, 80, 20], [20, 8, 24, 30]], atol=1e-3)
    np.testing.assert_allclose(arrays.scores[best], torch.sigmoid(torch.tensor(3.0)).item(), rtol=1e-6)
    assert max(np.bincount(arrays.image_ids)) <= 5  # evaluation.max_detections
    numbers = task.score([arrays]).numbers
    assert [numbers[name] for name in ("AP", "AP50", "AR1")] == pytest.approx([1.0] * 3)


def test_score_takes_batches_in_any_order_and_none(task: DetectionTask) -> None:
    outputs = outputs_that_find(task, BOXES, LABELS)
    parts = []
    for image in (1, 0):
        one = {key: value[image : image + 1] for key, value in batch().items()}
        parts.append(task.predict(lambda _, image=image: (outputs[0][[image]], outputs[1][[image]]), one))
    assert task.score(parts).numbers["AP"] == pytest.approx(1.0)
    nothing = task.score([])
    assert nothing.numbers["AP"] == 0.0
    assert "no detections on any of the 2 images" in (nothing.note or "")


def test_padding_is_no_detection() -> None:
    found = Detections(
        torch.tensor([[[0.0, 0, 2, 3], [1, 1, 5, 9]], [[0, 0, 0, 0], [0, 0, 0, 0]]]),
        torch.tensor([[0.9, 0.8], [0.0, 0.0]]),
        torch.tensor([[1, 0], [-1, -1]]),
        torch.tensor([2, 0]),
    )
    arrays = detection_arrays(found, torch.tensor([70, 9]), CATEGORY_IDS)
    assert arrays.image_ids.tolist() == [70, 70]
    assert arrays.category_ids.tolist() == [7, 3]
    assert arrays.boxes_xywh.tolist() == [[0, 0, 2, 3], [1, 1, 4, 8]]
    none = detection_arrays(Detections(*(each[:0] for each in found)), torch.zeros(0), [3])
    assert len(none) == 0


def test_losses_are_those_of_the_matched_targets(task: DetectionTask) -> None:
    torch.manual_seed(1)
    anchors = task.anchors_xyxy
    outputs = torch.randn(2, len(anchors), 3), torch.randn(2, len(anchors), 4)
    parts = task.losses(outputs, batch())
    objects = Objects(BOXES, LABELS)
    matched = match(None, anchors, objects, iou_threshold=0.5, force_match=True)
    targets = targets_of(matched, anchors, objects)
    wanted = losses_of(FocalLoss(type="focal"))(outputs, anchors, targets)
    assert parts.keys() == {"class", "box"}
    assert parts["class"].item() == pytest.approx(wanted["class"].item())
    assert parts["box"].item() == pytest.approx(2.0 * wanted["box"].item())  # model.loss.box_weight
    right = task.losses(outputs_that_find(task, BOXES, LABELS, iou_threshold=0.5), batch())
    assert right["class"] < 0.1 * parts["class"]
    assert right["box"] < 0.1 * parts["box"]


@pytest.mark.parametrize("boxes_of_the_largest_image", [0, 3])
@pytest.mark.parametrize("loss", ["focal", "multibox", "varifocal", "quality_focal"])
def test_batch_without_boxes_trains(
    task: DetectionTask, tiny: Any, loss: str, boxes_of_the_largest_image: int
) -> None:
    model = tiny.load(tiny.data, f"model.loss={{type: {loss}}}").recipe.model
    task = replace(task, losses_of=ssdlite(model).losses_of)
    empty = batch(
        boxes_xyxy=torch.zeros(2, boxes_of_the_largest_image, 4),
        box_labels=torch.full((2, boxes_of_the_largest_image), -1),
    )
    task.network.zero_grad()
    parts = task.losses(task.network.train()(task.images(empty)), empty)
    assert all(torch.isfinite(part) for part in parts.values())
    sum(parts.values(), torch.zeros(())).backward()
    lacking = [name for name, p in task.network.named_parameters() if p.grad is None]
    assert not lacking
    assert all(torch.isfinite(p.grad).all() for p in task.network.parameters() if p.grad is not None)


def test_an_assigner_sees_predictions(task: DetectionTask) -> None:
    """The default box of the surest answer takes the image's object, wherever it is."""

    def assign(outputs: tuple[Tensor, Tensor], anchors_xyxy: Tensor, objects: Objects) -> Assignment:
        matched = torch.full(outputs[0].shape[:2], -1)
        matched[torch.arange(2), outputs[0][..., 1:].amax(dim=2).argmax(dim=1)] = 0
        return Assignment(matched)

    own = replace(task, assign=assign, losses_of=lambda *given: dict(enumerate(given[2])))
    logits = torch.zeros(2, len(task.anchors_xyxy), 3)
    logits[0, 5, 1], logits[1, 9, 2] = 1.0, 1.0
    slots, boxes, _ = own.losses((logits, torch.zeros(2, logits.shape[1], 4)), batch()).values()
    assert slots.nonzero().tolist() == [[0, 5], [1, 9]]
    assert (slots[0, 5], slots[1, 9]) == (2, 1)
    assert torch.equal(boxes[0, 5], BOXES[0, 0])


def test_predictions_of_half_precision_are_decoded_in_full(task: DetectionTask) -> None:
    outputs = outputs_that_find(task, BOXES, LABELS)
    arrays = task.predict(lambda _: (outputs[0].bfloat16(), outputs[1].bfloat16()), batch())
    assert arrays.scores.dtype == np.float64
    assert task.score([arrays]).numbers["AP50"] == pytest.approx(1.0)


def test_network_has_nothing_but_its_weights_in_the_state(task: DetectionTask) -> None:
    assert not any("anchors_xyxy" in name for name in task.network.state_dict())
    assert isinstance(task.network, nn.Module)
    assert task.anchors_xyxy.shape[1] == 4
