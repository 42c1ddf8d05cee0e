"""ATSS and task-aligned assignment equal loops over images and objects written from the papers' text."""

import pytest
import torch
from ssd_boxes import GRIDS_320, ssd_levels
from test_matching import random_objects
from torchvision.ops import box_iou

from dettoolkit.config.detection import ATSSMatcher, SSDLiteModel, TaskAlignedMatcher
from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.box_coding import CODERS
from dettoolkit.detection.detectors import assigner_of, losses_of
from dettoolkit.detection.matching import Objects, targets_of
from dettoolkit.detection.spec import Level

LEVELS = ssd_levels(GRIDS_320)
# A little apart from their places, so that no two have the same IoU or distance.
ANCHORS = default_boxes(LEVELS, input_hw=(320, 320))
ANCHORS = ANCHORS + torch.rand(ANCHORS.shape, generator=torch.Generator().manual_seed(9)) * 0.5
CENTERS = (ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2
CLASSES = 3
MATCHERS = {"atss": ATSSMatcher, "task_aligned": TaskAlignedMatcher}


def assigner(type_, activation="sigmoid", **settings):
    return assigner_of(MATCHERS[type_](type=type_, **settings), LEVELS, activation=activation)


def random_outputs(images, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, len(ANCHORS), CLASSES + 1, generator=generator) * 2
    return logits, torch.randn(images, len(ANCHORS), 4, generator=generator) * scale


def objects_of(images, most, seed, crowded=False):
    boxes, labels = random_objects(images, most, seed, crowded)
    return Objects(boxes, torch.where(labels >= 0, labels % CLASSES, -1))


def resolved(wants, count):
    """Give each default box to the object of the highest IoU that wants it; of equals, to the last."""
    matched, best = [-1] * count, [-1.0] * count
    for number, (boxes, iou) in enumerate(wants):
        for box, value in zip(boxes.tolist(), iou.tolist(), strict=True):
            if value >= best[box]:
                matched[box], best[box] = number, value
    return matched


def atss_by_loops(boxes, cells):
    wants = []
    for box in boxes:
        iou, start, candidates = box_iou(box[None], ANCHORS)[0], 0, []
        distance = (CENTERS - (box[:2] + box[2:]) / 2).norm(dim=1)
        for level in LEVELS:
            count = level.grid_hw[0] * level.grid_hw[1] * len(level.sizes)
            own = distance[start : start + count]
            candidates.append(start + own.argsort(stable=True)[: cells * len(level.sizes)])
            start += count
        near = torch.cat(candidates)
        inside = ((CENTERS[near] > box[:2]) & (CENTERS[near] < box[2:])).all(dim=1)
        chosen = (iou[near] >= iou[near].mean() + iou[near].std()) & inside
        chosen |= iou[near] == iou[near].max()
        chosen &= iou[near] > 0
        wants.append((near[chosen], iou[near][chosen]))
    return resolved(wants, len(ANCHORS))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cells", [1, 9])
def test_atss_equals_loops(seed, cells):
    boxes, labels = objects_of(4, 12, seed)
    matched = assigner("atss", candidates_per_level=cells)(None, ANCHORS, Objects(boxes, labels)).matched
    for image in range(4):
        wanted = atss_by_loops(boxes[image][labels[image] >= 0], cells)
        assert matched[image].tolist() == wanted


def test_atss_by_hand():
    """One level of 4 x 4 cells, one box of 32 each; an object on the second cell, a bit to its right."""
    levels = (Level(grid_hw=(4, 4), sizes=((0.25, 0.25),)),)
    anchors = default_boxes(levels, input_hw=(128, 128))
    objects = Objects(torch.tensor([[[40.0, 0.0, 72.0, 32.0]]]), torch.tensor([[1]]))
    assign = assigner_of(ATSSMatcher(type="atss", candidates_per_level=3), levels, activation="sigmoid")
    # IoUs of the three nearest: 24 x 32 / (2048 - 768) = 0.6, 8 x 32 / (2048 - 256) = 0.1429, 0 (below):
    # mean 0.248, standard deviation 0.314, threshold 0.561.
    assert assign(None, anchors, objects).matched.tolist() == [[-1, 0, *[-1] * 14]]


@pytest.mark.parametrize("name", MATCHERS)
def test_an_object_smaller_than_a_cell_is_assigned(name):
    """No center of a cell is inside its box, so ATSS and TOOD as published would not assign it."""
    objects = Objects(torch.tensor([[[1.0, 1.0, 4.0, 3.0]]]), torch.tensor([[2]]))
    matched, quality = assigner(name)(random_outputs(1, 0), ANCHORS, objects)
    assert (matched >= 0).any()
    assert quality is None or (quality[matched >= 0] > 0).all()


def aligned_by_loops(outputs, boxes, labels, activation):
    logits, coded = outputs
    scores = logits.softmax(dim=1) if activation == "softmax" else logits.sigmoid()
    predicted = CODERS["deltas"].decode(coded, ANCHORS)
    wants, metrics = [], []
    for box, label in zip(boxes, labels.tolist(), strict=True):
        default_iou = box_iou(box[None], ANCHORS)[0]
        near = default_iou.argsort(descending=True, stable=True)[:27]
        near = near[default_iou[near] > 0]
        iou = box_iou(box[None], predicted[near])[0]
        iou = iou if iou.max() > 0 else default_iou[near]
        metric = scores[near, label + 1] * iou**6
        best = metric.argsort(descending=True, stable=True)[:9]
        best = best[metric[best] > 0]
        wants.append((near[best], iou[best]))
        metrics.append(metric[best])
    matched = torch.tensor(resolved(wants, len(ANCHORS)))
    quality = torch.zeros(len(ANCHORS))
    for number, ((own, iou), metric) in enumerate(zip(wants, metrics, strict=True)):
        kept = matched[own] == number
        if kept.any():
            quality[own[kept]] = metric[kept] / metric[kept].max() * iou[kept].max()
    return matched, quality


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("scale", [0.5, 10.0])
@pytest.mark.parametrize("seed", range(4))
def test_task_aligned_equals_loops(seed, scale, activation):
    outputs = random_outputs(4, seed, scale)
    boxes, labels = objects_of(4, 12, seed)
    assignment = assigner("task_aligned", activation)(outputs, ANCHORS, Objects(boxes, labels))
    for image in range(4):
        own = labels[image] >= 0
        found = aligned_by_loops(
            [each[image] for each in outputs], boxes[image][own], labels[image][own], activation
        )
        assert torch.equal(assignment.matched[image], found[0])
        torch.testing.assert_close(assignment.quality[image], found[1], rtol=1e-3, atol=1e-5)


def test_the_task_aligned_metric_by_hand():
    """Two of three default boxes are assigned; quality is the metric scaled to the highest IoU."""
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0], [5.0, 0.0, 15.0, 10.0]])
    objects = Objects(torch.tensor([[[0.0, 0.0, 10.0, 10.0]]]), torch.tensor([[0]]))
    logits = torch.tensor([[[0.0, -2.0], [0.0, 1.0], [0.0, 3.0]]])
    assign = assigner_of(
        TaskAlignedMatcher(type="task_aligned", candidates=3, assigned=2, iou_power=2.0),
        LEVELS,
        activation="sigmoid",
    )
    matched, quality = assign((logits, torch.zeros(1, 3, 4)), anchors, objects)
    # Scores 0.1192, 0.7311, 0.9526; IoUs 1, 0.8, 1/3; metrics 0.1192, 0.4679, 0.1058.
    assert matched.tolist() == [[0, 0, -1]]
    torch.testing.assert_close(quality, torch.tensor([[0.1192 / 0.4679, 1.0, 0.0]]), rtol=1e-3, atol=0)


def test_an_object_on_two_levels():
    """The square of side 64 fits the first level's boxes and the second's: both may learn it."""
    objects = Objects(torch.tensor([[[128.0, 128.0, 224.0, 224.0]]]), torch.tensor([[0]]))
    counts = [level.grid_hw[0] * level.grid_hw[1] * len(level.sizes) for level in LEVELS]
    for name in MATCHERS:
        outputs = torch.zeros(1, len(ANCHORS), CLASSES + 1), torch.zeros(1, len(ANCHORS), 4)
        matched = assigner(name)(outputs, ANCHORS, objects).matched
        assert sum(int((part >= 0).any()) for part in matched.split(counts, dim=1)) >= 2


@pytest.mark.parametrize("name", MATCHERS)
@pytest.mark.parametrize(("images", "count"), [(0, 3), (2, 0), (2, 3)])
def test_nothing_to_assign(name, images, count):
    objects = Objects(torch.zeros(images, count, 4), torch.full((images, count), -1))
    assignment = assigner(name)(random_outputs(images, 0), ANCHORS, objects)
    assert assignment.matched.shape == (images, len(ANCHORS))
    assert assignment.matched.dtype == torch.int64
    assert (assignment.matched == -1).all()
    assert assignment.quality is None or not assignment.quality.any()


@pytest.mark.parametrize("name", MATCHERS)
def test_more_objects_than_default_boxes(name):
    levels = (LEVELS[-1],)
    anchors = default_boxes(levels, input_hw=(320, 320))
    corner = torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(0)) * 200
    objects = Objects(torch.cat((corner, corner + 90), dim=2), torch.zeros(1, 50, dtype=torch.int64))
    outputs = torch.zeros(1, len(anchors), 2), torch.zeros(1, len(anchors), 4)
    assignment = assigner_of(MATCHERS[name](type=name), levels, activation="sigmoid")(
        outputs, anchors, objects
    )
    given = assignment.matched[assignment.matched >= 0]
    assert 0 < len(given) <= len(anchors)


@pytest.mark.parametrize("name", MATCHERS)
@pytest.mark.parametrize("loss", ["focal", "multibox", "varifocal", "quality_focal"])
def test_with_every_loss(name, loss):
    """Gradients are finite, also of an object that no predicted box overlaps."""
    section = {"type": loss, "box": "giou"}
    backbone = {"type": "mobilenet_v3_large"}
    model = SSDLiteModel.model_validate({"type": "ssdlite", "backbone": backbone, "loss": section})
    activation = "softmax" if loss == "multibox" else "sigmoid"
    logits, deltas = random_outputs(2, 1, 3.0)
    deltas[0] += 1000.0
    objects = objects_of(2, 5, 1)
    assignment = assigner(name, activation)((logits, deltas), ANCHORS, objects)
    assert (assignment.matched >= 0).any()
    leaves = logits.requires_grad_(), deltas.requires_grad_()
    parts = losses_of(model.loss)(leaves, ANCHORS, targets_of(assignment, ANCHORS, objects))
    sum(parts.values()).backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
