"""The box coder equals torchvision's BoxCoder; IoU and clipping equal torchvision.ops."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, clip_boxes_to_image

from dettoolkit.detection.box_coding import (
    MIN_SIZE,
    area,
    clip_to,
    decode,
    decode_distances,
    encode,
    encode_distances,
    pairwise_iou,
)

CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))


def random_boxes(*shape, seed=0, low=1.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * 300
    size = torch.rand(*shape, 2, generator=generator) * 200 + low
    return torch.cat((corner, corner + size), dim=-1)


def test_encode_equals_torchvision():
    boxes, anchors = random_boxes(500, seed=1), random_boxes(500, seed=2)
    torch.testing.assert_close(encode(boxes, anchors), CODER.encode_single(boxes, anchors), rtol=0, atol=1e-5)


def test_decode_equals_torchvision():
    anchors = random_boxes(500)
    # Standard deviation 20 puts many sizes beyond the cut at log(1000 / 16).
    deltas = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 20
    theirs = CODER.decode_single(deltas, anchors)
    assert (deltas[:, 2:] / 5 > 4.2).any()
    torch.testing.assert_close(decode(deltas, anchors), theirs, rtol=1e-6, atol=1e-3)


def test_decode_inverts_encode_for_a_batch():
    anchors = random_boxes(40, seed=3, low=20.0)  # the cut at 62.5 times is not reached
    boxes = random_boxes(5, 40, seed=4, low=20.0)
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, rtol=0, atol=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_encode_is_finite_for_degenerate_boxes(seed):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(200, 4, generator=generator) * 400 - 40
    boxes[::4, 2:] = boxes[::4, :2]  # no width, no height
    boxes[1::4, 2] = boxes[1::4, 0]  # no width
    boxes[2::4] = 0  # the loader's padding; the rest has corners in any order
    codes = encode(boxes, random_boxes(200, seed=seed))
    assert codes.isfinite().all()
    # A box of exactly MIN_SIZE gives the same code as one without size, so the target is a bound.
    tiny = torch.tensor([[10.0, 10.0, 10.0, 10.0], [10.0, 10.0, 10.0 + MIN_SIZE, 10.0]])
    codes = encode(tiny, torch.tensor([0.0, 0.0, 20.0, 20.0]))
    torch.testing.assert_close(codes[0, 2:], codes[1, 2:], rtol=0, atol=0.01)


def test_pairwise_iou_equals_torchvision_per_image():
    first, second = random_boxes(3, 7, seed=5), random_boxes(11, seed=6)
    ours = pairwise_iou(first, second)
    assert ours.shape == (3, 7, 11)
    for image in range(3):
        torch.testing.assert_close(ours[image], box_iou(first[image], second), rtol=0, atol=0)


def test_pairwise_iou_of_empty_boxes_is_zero():
    empty = torch.zeros(2, 4)
    assert torch.equal(pairwise_iou(empty, empty), torch.zeros(2, 2))
    assert pairwise_iou(torch.zeros(3, 0, 4), random_boxes(5)).shape == (3, 0, 5)


def test_clip_equals_torchvision():
    boxes = random_boxes(4, 50) - 60
    torch.testing.assert_close(clip_to(boxes, image_hw=(200, 320)), clip_boxes_to_image(boxes, (200, 320)))
    assert clip_to(torch.zeros(0, 4), image_hw=(10, 10)).shape == (0, 4)


def test_area():
    assert area(torch.tensor([[1.0, 2.0, 4.0, 7.0], [0.0, 0.0, 0.0, 5.0]])).tolist() == [15.0, 0.0]


def test_distances_come_back_and_negative_ones_count_as_0():
    anchors, boxes = random_boxes(40, seed=3, low=20.0), random_boxes(5, 40, seed=4, low=20.0)
    # A center inside its box: all four distances are positive.
    shift = (boxes[..., :2] + boxes[..., 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
    anchors = anchors + torch.cat((shift, shift), dim=-1)
    distances = encode_distances(boxes, anchors)
    assert (distances > 0).all()
    torch.testing.assert_close(decode_distances(distances, anchors), boxes, rtol=0, atol=1e-3)
    point = decode_distances(-distances, anchors)
    torch.testing.assert_close(point[..., :2], point[..., 2:])
