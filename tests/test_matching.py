"""Matching equals torchvision's matchers, image by image; padding never matches."""

import pytest
import torch
from ssd_boxes import GRIDS_320, ssd_levels
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.ops import box_iou

from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.matching import Assignment, Objects, match, targets_of

ANCHORS = default_boxes(ssd_levels(GRIDS_320), input_hw=(320, 320))


def random_objects(images, most, seed, crowded=False):
    """Padded boxes and labels; objects of crowded images sit on few places, so that they share boxes."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(images, most, 2, generator=generator) * 300 + 10
    size = torch.rand(images, most, 2, generator=generator) * 150 + 4
    if crowded:
        center = torch.round(center / 100) * 100
        size = torch.round(size / 40) * 40 + 5
    boxes = torch.cat((center - size / 2, center + size / 2), dim=-1).clamp(0, 320)
    labels = torch.randint(0, 90, (images, most), generator=generator)
    count = torch.randint(0, most + 1, (images, 1), generator=generator)
    labels[torch.arange(most) >= count] = -1
    boxes[labels < 0] = 0
    return boxes, labels


def torchvision_match(boxes, labels, matcher):
    matched = torch.full((len(boxes), len(ANCHORS)), -1)
    for image in range(len(boxes)):
        real = boxes[image][labels[image] >= 0]
        if len(real):
            matched[image] = matcher(box_iou(real, ANCHORS))
    return matched.clamp(min=-1)


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_equals_torchvision(seed, crowded):
    boxes, labels = random_objects(6, 30, seed, crowded)
    for threshold in (0.3, 0.5, 0.7):
        forced = match(
            None, ANCHORS, Objects(boxes, labels), iou_threshold=threshold, force_match=True
        ).matched
        assert torch.equal(forced, torchvision_match(boxes, labels, SSDMatcher(threshold)))
        free = match(
            None, ANCHORS, Objects(boxes, labels), iou_threshold=threshold, force_match=False
        ).matched
        assert torch.equal(free, torchvision_match(boxes, labels, Matcher(threshold, threshold)))


def test_the_last_object_wins_a_forced_box():
    boxes = torch.tensor([[[100.0, 100, 104, 104], [101, 101, 105, 105], [100, 100, 104, 104]]])
    labels = torch.tensor([[3, 4, 5]])
    matched = match(None, ANCHORS, Objects(boxes, labels), iou_threshold=0.5, force_match=True).matched
    assert set(matched.unique().tolist()) == {-1, 2}


def test_padding_and_objects_without_overlap_never_match():
    boxes = torch.tensor([[[50.0, 50, 50, 50], [0, 0, 0, 0], [10, 10, 90, 90]]])
    for threshold in (0.0, 0.5):
        matched = match(
            None,
            ANCHORS,
            Objects(boxes, torch.tensor([[-1, -1, -1]])),
            iou_threshold=threshold,
            force_match=True,
        ).matched
        assert (matched == -1).all()
    # An object without area overlaps nothing.
    matched = match(
        None, ANCHORS, Objects(boxes, torch.tensor([[7, -1, 1]])), iou_threshold=0.5, force_match=True
    ).matched
    assert set(matched.unique().tolist()) == {-1, 2}


def test_no_objects_at_all():
    boxes, labels = torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64)
    matched = match(None, ANCHORS, Objects(boxes, labels), iou_threshold=0.5, force_match=True).matched
    assert matched.dtype == torch.int64
    assert torch.equal(matched, torch.full((2, len(ANCHORS)), -1))
    targets = targets_of(Assignment(matched), ANCHORS, Objects(boxes, labels))
    assert targets.slots.shape == (2, len(ANCHORS))
    assert not targets.slots.any()
    assert torch.equal(targets.boxes_xyxy, ANCHORS.expand(2, -1, -1))


def test_targets_are_the_matched_objects():
    boxes, labels = random_objects(4, 12, seed=3)
    matched = match(None, ANCHORS, Objects(boxes, labels), iou_threshold=0.5, force_match=True).matched
    targets = targets_of(Assignment(matched), ANCHORS, Objects(boxes, labels))
    for image in range(4):
        hit = matched[image] >= 0
        index = matched[image][hit]
        assert torch.equal(targets.slots[image][hit], labels[image][index] + 1)
        assert not targets.slots[image][~hit].any()
        assert torch.equal(targets.boxes_xyxy[image][hit], boxes[image][index])
        assert torch.equal(targets.boxes_xyxy[image][~hit], ANCHORS[~hit])
