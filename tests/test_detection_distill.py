"""What a detector learns from a teacher: scores of any kind, boxes, finer grids, other default boxes."""

import math
from dataclasses import replace

import pytest
import torch
from ssd_boxes import ssd_levels
from torchvision.ops import generalized_box_iou

from dettoolkit.config.distillation import DetectionDistill
from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.box_coding import decode, encode
from dettoolkit.detection.distill import class_logits, distiller, on_grid, quality_focal
from dettoolkit.detection.spec import DetectionSection, Level

GRIDS = ((4, 4), (2, 2), (1, 1))
ORDER = [0, 1, 2]


def section(*, activation="sigmoid", background=True, grids=GRIDS, **changes):
    names = ("a", "b", "c")
    return DetectionSection(
        class_names=names,
        class_ids=(1, 2, 3),
        threshold=0.3,
        levels=ssd_levels(grids, **changes),
        activation=activation,
        background=background,
        coder="deltas",
        score_threshold=0.0,
        nms_iou=0.5,
        candidates_per_class=10,
        max_detections=10,
    )


def count(own):
    return sum(level.grid_hw[0] * level.grid_hw[1] * len(level.sizes) for level in own.levels)


def outputs_of(own, seed, *, images=2, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    slots = len(own.class_names) + int(own.background)
    logits = scale * torch.randn(images, count(own), slots, generator=generator)
    return logits, torch.randn(images, count(own), 4, generator=generator)


def compared(own, theirs, ours, answers, *, order=ORDER, **settings):
    compare = distiller(DetectionDistill(teacher="x", **settings), own=own, theirs=theirs, order=order)
    return compare(ours, answers)


@pytest.mark.parametrize("background", [True, False])
def test_the_sigmoid_of_class_logits_is_the_score(background):
    logits = 3 * torch.randn(2, 5, 3 + background)
    found = class_logits(logits, section(background=background))
    assert torch.equal(found, logits[..., int(background) :])
    soft = class_logits(3 * torch.randn(2, 5, 4).requires_grad_(), section(activation="softmax"))
    assert soft.shape == (2, 5, 3)
    logits = torch.tensor([[[0.0, 1.0, -2.0, 300.0], [5.0, 1.0, -2.0, 3.0]]], requires_grad=True)
    soft = class_logits(logits, section(activation="softmax"))
    torch.testing.assert_close(soft.sigmoid(), logits.softmax(-1)[..., 1:].clamp(max=1 - 1e-6))
    soft.sum().backward()
    assert logits.grad.isfinite().all()


def test_quality_focal_by_hand():
    """One image, two boxes, two classes; gamma 2."""
    logits = torch.tensor([[[0.0, -2.0], [1.0, 0.0]]])
    scores = torch.tensor([[[1.0, 0.0], [0.0, 0.5]]])

    def part(logit, target):
        p = 1 / (1 + math.exp(-logit))
        return (p - target) ** 2 * -(target * math.log(p) + (1 - target) * math.log(1 - p))

    total = part(0.0, 1.0) + part(-2.0, 0.0) + part(1.0, 0.0) + part(0.0, 0.5)
    torch.testing.assert_close(quality_focal(logits, scores, gamma=2.0), torch.tensor(total / (1 + 0.25)))
    alone = quality_focal(logits, torch.zeros(1, 2, 2), gamma=2.0)  # a teacher that sees nothing
    wanted = part(0.0, 0.0) + part(-2.0, 0.0) + part(1.0, 0.0) + part(0.0, 0.0)
    torch.testing.assert_close(alone, torch.tensor(wanted))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("theirs", ["sigmoid", "softmax"])
def test_nothing_is_lost_where_scores_and_boxes_agree(activation, theirs):
    own, other = section(activation=activation), section(activation=theirs)
    outputs = outputs_of(own, 0)
    if activation != theirs:  # the same scores, said in the other way
        free = outputs[0][..., 1:] - 6  # as small as softmax needs them
        scores = free.sigmoid()
        rest = (1 - scores.sum(-1, keepdim=True)).log()
        soft, plain = torch.cat((rest, scores.log()), -1), torch.cat((rest, free), -1)
        ours, answers = (soft, plain) if activation == "softmax" else (plain, soft)
        outputs, answer = (ours, outputs[1]), (answers, outputs[1])
    else:
        answer = tuple(each.clone() for each in outputs)
    logits, boxes = (each.requires_grad_() for each in outputs)
    parts = compared(own, other, (logits, boxes), answer, boxes={})
    for part in parts.values():
        assert part.item() == pytest.approx(0, abs=1e-4)
    gradients = torch.autograd.grad(parts["outputs"], logits)
    assert gradients[0].abs().max() < 1e-4


def test_classes_of_another_order_are_found():
    own = section()
    outputs, answers = outputs_of(own, 1), outputs_of(own, 2)
    order = [2, 0, 1]
    moved = torch.cat((answers[0][..., :1], answers[0][..., 1:][..., order]), -1)
    one = compared(own, own, outputs, answers, order=order)["outputs"]
    other = compared(own, own, outputs, (moved, answers[1]))["outputs"]
    torch.testing.assert_close(one, other)


def test_weight_and_temperature():
    own = section()
    outputs, answers = outputs_of(own, 3), outputs_of(own, 4)
    found = compared(own, own, outputs, answers, outputs={"weight": 0.5, "temperature": 2.0, "gamma": 1.0})
    ours, scores = outputs[0][..., 1:] / 2, (answers[0][..., 1:] / 2).sigmoid()
    wanted = 0.5 * 4 * quality_focal(ours, scores, gamma=1.0)
    torch.testing.assert_close(found["outputs"], wanted)
    assert compared(own, own, outputs, answers, outputs=None, boxes={}).keys() == {"boxes"}


def test_boxes_against_torchvisions_giou():
    own = section()
    outputs, answers = outputs_of(own, 5, images=1), outputs_of(own, 6, images=1)
    anchors = default_boxes(own.levels, input_hw=(1000, 1000))
    ours, theirs = (decode(each[1][0], anchors) for each in (outputs, answers))
    best = answers[0][0, :, 1:].sigmoid().amax(-1) ** 2
    loss = (1 - generalized_box_iou(ours, theirs).diagonal()) * best
    wanted = 3.0 * loss.sum() / best.sum().clamp(min=1)
    found = compared(own, own, outputs, answers, outputs=None, boxes={"weight": 3.0})["boxes"]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_finer_grid_is_averaged_by_level_and_box():
    own = [Level(grid_hw=(2, 3), sizes=((0.1, 0.1), (0.2, 0.2))), Level(grid_hw=(1, 1), sizes=((0.5, 0.5),))]
    fine = [replace(own[0], grid_hw=(4, 6)), replace(own[1], grid_hw=(2, 2))]
    values = torch.arange(2 * (4 * 6 * 2 + 4) * 3, dtype=torch.float32).view(2, -1, 3)
    found = on_grid(values, fine, own)
    assert found.shape == (2, 2 * 3 * 2 + 1, 3)
    cells = values[:, :48].view(2, 4, 6, 2, 3)
    for row, column, box in ((0, 0, 0), (1, 2, 1), (0, 1, 1)):
        wanted = cells[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2, box].mean((1, 2))
        torch.testing.assert_close(found[:, (row * 3 + column) * 2 + box], wanted)
    torch.testing.assert_close(found[:, -1], values[:, 48:].mean(1))
    assert on_grid(values, fine, fine) is values


def test_boxes_of_a_finer_grid_that_agree_are_the_same_box():
    """Every cell of the teacher says one box; so does every cell of the student."""
    own, theirs = section(), section(grids=((8, 8), (4, 4), (2, 2)))
    box = torch.tensor([200.0, 300.0, 500.0, 700.0])
    coded = [encode(box, default_boxes(each.levels, input_hw=(1000, 1000)))[None] for each in (own, theirs)]
    logits = [torch.zeros(1, count(each), 4) for each in (own, theirs)]
    (loss,) = compared(
        own, theirs, (logits[0], coded[0]), (logits[1], coded[1]), outputs=None, boxes={}
    ).values()
    assert loss.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"grids": ((4, 4), (2, 2))}, r"\(\[6, 6\] in a cell of each level, the network's \[6, 6, 6\]"),
        ({"aspect_ratios": [2.0]}, r"\(\[4, 4, 4\] in a cell"),
        ({"min_scale": 0.1}, r"sizes must agree too\): use a teacher with the same model.anchors"),
    ],
)
def test_other_default_boxes_are_refused_unless_features_alone_are_learned(changes, match):
    own, theirs = section(), section(**changes)
    for settings in ({}, {"outputs": None, "boxes": {}}):
        with pytest.raises(ValueError, match=match):
            distiller(DetectionDistill(teacher="x", **settings), own=own, theirs=theirs, order=ORDER)
    settings = DetectionDistill(teacher="x", outputs=None, features={"type": "pkd"})
    assert distiller(settings, own=own, theirs=theirs, order=ORDER)((None,), (torch.zeros(1, 1, 4),)) == {}


def test_no_images_and_extremes_are_finite():
    own = section(activation="softmax")
    for scale, images in ((1e4, 2), (1.0, 0)):
        outputs, answers = (outputs_of(own, seed, images=images, scale=scale) for seed in (7, 8))
        for each in outputs:
            each.requires_grad_()
        parts = compared(own, own, outputs, answers, boxes={})
        torch.stack(list(parts.values())).sum().backward()
        assert all(part.isfinite() for part in parts.values())
        assert all(each.grad.isfinite().all() for each in outputs)
    assert parts["outputs"] == parts["boxes"] == 0  # of no images
