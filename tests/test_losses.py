"""The losses equal torchvision's, and TensorFlow's focal formula by hand; extremes and nothing included."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from ssd_boxes import GRIDS_320, ssd_levels
from torchvision.models.detection import _utils as torchvision_detection
from torchvision.models.detection.ssd import SSD
from torchvision.ops import sigmoid_focal_loss

from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.losses import focal_loss, multibox_loss
from dettoolkit.detection.matching import Objects, Targets, match, targets_of

CLASSES = 90
ANCHORS = default_boxes(ssd_levels(GRIDS_320), input_hw=(320, 320))
LOSSES = {
    "focal": partial(focal_loss, alpha=0.75, gamma=2.0, box_weight=1.0),
    "multibox": partial(multibox_loss, negatives_per_positive=3.0, box_weight=1.0),
}


def random_case(seed, images=4, objects=12):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, objects, 2, generator=generator) * 220
    boxes = torch.cat((corner, corner + torch.rand(images, objects, 2, generator=generator) * 90 + 5), dim=-1)
    labels = torch.randint(0, CLASSES, (images, objects), generator=generator)
    labels[0, 3:] = -1
    labels[1] = -1
    logits = torch.randn(images, len(ANCHORS), CLASSES + 1, generator=generator) * 3
    deltas = torch.randn(images, len(ANCHORS), 4, generator=generator) * 2
    matched = match(None, ANCHORS, Objects(boxes, labels), iou_threshold=0.5, force_match=True)
    return boxes, labels, matched, logits.requires_grad_(), deltas.requires_grad_()


def torchvision_multibox(boxes, labels, matched, logits, deltas):
    model = SimpleNamespace(
        box_coder=torchvision_detection.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3.0
    )
    targets = [{"boxes": b[k >= 0], "labels": k[k >= 0] + 1} for b, k in zip(boxes, labels, strict=True)]
    outputs = {"cls_logits": logits, "bbox_regression": deltas}
    losses = SSD.compute_loss(model, targets, outputs, [ANCHORS] * len(boxes), list(matched))
    return losses["classification"], losses["bbox_regression"]


def gradients(loss, *inputs):
    return torch.autograd.grad(sum(loss), inputs)


@pytest.mark.parametrize("seed", range(4))
def test_multibox_equals_torchvision(seed):
    boxes, labels, matched, logits, deltas = random_case(seed)
    targets = targets_of(matched, ANCHORS, Objects(boxes, labels), coder="deltas")
    ours = tuple(LOSSES["multibox"]((logits, deltas), targets).values())
    theirs = torchvision_multibox(boxes, labels, matched, logits, deltas)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    for one, other in zip(gradients(ours, logits, deltas), gradients(theirs, logits, deltas), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_multibox_counts_matched_boxes_once_when_negatives_run_out():
    slots = torch.tensor([[1, 2, 1, 0]])
    logits = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    targets = Targets(slots=slots, boxes=torch.zeros(1, 4, 4))
    class_loss = LOSSES["multibox"]((logits, torch.zeros(1, 4, 4)), targets)["class"]
    torch.testing.assert_close(class_loss, F.cross_entropy(logits[0], slots[0], reduction="sum") / 3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("alpha", "gamma"), [(0.75, 2.0), (0.25, 1.5), (0.5, 0.0)])
def test_focal_equals_torchvision(seed, alpha, gamma):
    boxes, labels, matched, logits, deltas = random_case(seed)
    targets = targets_of(matched, ANCHORS, Objects(boxes, labels), coder="deltas")
    ours = tuple(focal_loss((logits, deltas), targets, alpha=alpha, gamma=gamma, box_weight=1.0).values())
    one_hot = F.one_hot(targets.slots, CLASSES + 1).float()
    one_hot[..., 0] = 0  # background is encoded as zeros
    hit = matched >= 0
    matches = hit.sum()
    # In float64, because a float32 sum of a million terms differs by its order.
    summed = sigmoid_focal_loss(logits.double(), one_hot.double(), alpha, gamma, "sum")
    box = F.smooth_l1_loss(deltas[hit].double(), targets.boxes[hit].double(), reduction="sum")
    theirs = (summed / matches).float(), (box / matches / 4).float()
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=0)
    for one, other in zip(gradients(ours, logits, deltas), gradients(theirs, logits, deltas), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-8)


def test_focal_by_hand():
    """Two default boxes, two classes; TensorFlow's SigmoidFocalClassificationLoss on paper."""
    logits = torch.tensor([[[0.0, 2.0, -1.0], [-3.0, 0.5, 1.0]]])
    targets = Targets(slots=torch.tensor([[1, 0]]), boxes=torch.tensor([[[0.2, -3.0, 0.0, 1.0], [9.0] * 4]]))
    deltas = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]]])
    loss = LOSSES["focal"]((logits, deltas), targets)

    def negative(x):
        p = 1 / (1 + math.exp(-x))
        return 0.25 * p**2 * -math.log(1 - p)

    p = 1 / (1 + math.exp(-2.0))
    positive = 0.75 * (1 - p) ** 2 * -math.log(p)
    by_hand = positive + sum(negative(x) for x in (0.0, -1.0, -3.0, 0.5, 1.0))
    assert loss["class"].item() == pytest.approx(by_hand, rel=1e-6)
    # 0.5 d^2 up to 1, d - 0.5 beyond; one match, four numbers.
    assert loss["box"].item() == pytest.approx((0.5 * 0.2**2 + 2.5 + 0 + 0.5) / 4, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("objects", [0, 3])
def test_a_batch_without_objects_is_finite_and_has_gradients(name, objects):
    boxes = torch.zeros(2, objects, 4)
    labels = torch.full((2, objects), -1)
    matched = match(None, ANCHORS, Objects(boxes, labels), iou_threshold=0.5, force_match=True)
    targets = targets_of(matched, ANCHORS, Objects(boxes, labels), coder="deltas")
    logits = torch.randn(2, len(ANCHORS), 4, requires_grad=True)
    deltas = torch.randn(2, len(ANCHORS), 4, requires_grad=True)
    loss = tuple(LOSSES[name]((logits, deltas), targets).values())
    assert all(part.isfinite() and part.dim() == 0 for part in loss)
    sum(loss).backward()
    assert logits.grad.isfinite().all()
    assert torch.equal(deltas.grad, torch.zeros_like(deltas))


@pytest.mark.parametrize("name", LOSSES)
def test_objects_without_size_and_extreme_logits_are_finite(name):
    boxes, labels = torch.tensor([[[50.0, 50.0, 50.0, 50.0]]]), torch.tensor([[2]])
    matched = torch.full((1, len(ANCHORS)), -1)
    matched[0, :50] = 0
    targets = targets_of(matched, ANCHORS, Objects(boxes, labels), coder="deltas")
    sign = torch.randint(0, 2, (1, len(ANCHORS), 4), generator=torch.Generator().manual_seed(0)) * 2 - 1
    for extreme in (100.0, 1e4):
        logits = (extreme * sign).requires_grad_()
        deltas = (extreme * sign).requires_grad_()
        loss = tuple(LOSSES[name]((logits, deltas), targets).values())
        assert all(part.isfinite() for part in loss)
        for gradient in gradients(loss, logits, deltas):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_for_every_exponent(gamma):
    logits = torch.tensor([[[-1e4, -200.0, -100.0, 0.0, 100.0, 1e4]] * 6]).requires_grad_()
    deltas = torch.zeros(1, 6, 4, requires_grad=True)
    targets = Targets(slots=torch.arange(6).view(1, 6), boxes=torch.zeros(1, 6, 4))
    loss = tuple(focal_loss((logits, deltas), targets, alpha=0.75, gamma=gamma, box_weight=1.0).values())
    assert all(part.isfinite() for part in loss)
    assert gradients(loss, logits)[0].isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    boxes, labels, matched, logits, deltas = random_case(0)
    targets = targets_of(matched, ANCHORS, Objects(boxes, labels), coder="deltas")
    half, half_deltas = logits.detach().to(dtype).requires_grad_(), deltas.detach().to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = tuple(LOSSES[name]((half, half_deltas.requires_grad_()), targets).values())
    full = tuple(LOSSES[name]((half.detach().float(), half_deltas.detach().float()), targets).values())
    assert all(part.dtype == torch.float32 for part in ours)
    torch.testing.assert_close(ours, full)
    assert gradients(ours, half)[0].dtype == dtype
