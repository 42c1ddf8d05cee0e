"""The losses equal torchvision's, and TensorFlow's focal formula by hand; extremes and nothing included."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from ssd_boxes import GRIDS_320, ssd_levels
from torchvision.models.detection import _utils as torchvision_detection
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from dettoolkit.config.detection import SSDLiteModel
from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.box_coding import CODERS
from dettoolkit.detection.detectors import losses_of
from dettoolkit.detection.matching import Assignment, Objects, Targets, match, targets_of

CLASSES = 90
ANCHORS = default_boxes(ssd_levels(GRIDS_320), input_hw=(320, 320))


def loss_of(type_, **settings):
    """Return a recipe's loss, on the default boxes above: (outputs, targets) -> its parts."""
    section = {"type": type_, "box_weight": 1.0, **settings}
    model = SSDLiteModel.model_validate(
        {"type": "ssdlite", "backbone": {"type": "mobilenet_v3_large"}, "loss": section}
    )
    losses = losses_of(model.loss)
    return lambda outputs, targets, anchors=ANCHORS: losses(outputs, anchors, targets)


LOSSES = {
    "focal": loss_of("focal"),
    "multibox": loss_of("multibox"),
    "focal_giou": loss_of("focal", box="giou"),
    "varifocal": loss_of("varifocal", box="giou"),
    "quality_focal": loss_of("quality_focal", box="giou"),
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
    targets = targets_of(matched, ANCHORS, Objects(boxes, labels))
    ours = tuple(LOSSES["multibox"]((logits, deltas), targets).values())
    theirs = torchvision_multibox(boxes, labels, matched.matched, logits, deltas)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    for one, other in zip(gradients(ours, logits, deltas), gradients(theirs, logits, deltas), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_multibox_counts_matched_boxes_once_when_negatives_run_out():
    slots = torch.tensor([[1, 2, 1, 0]])
    logits = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    targets = Targets(slots, ANCHORS[None, :4])
    class_loss = LOSSES["multibox"]((logits, torch.zeros(1, 4, 4)), targets, ANCHORS[:4])["class"]
    torch.testing.assert_close(class_loss, F.cross_entropy(logits[0], slots[0], reduction="sum") / 3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("alpha", "gamma"), [(0.75, 2.0), (0.25, 1.5), (0.5, 0.0)])
def test_focal_equals_torchvision(seed, alpha, gamma):
    boxes, labels, matched, logits, deltas = random_case(seed)
    targets = targets_of(matched, ANCHORS, Objects(boxes, labels))
    ours = tuple(loss_of("focal", alpha=alpha, gamma=gamma)((logits, deltas), targets).values())
    one_hot = F.one_hot(targets.slots, CLASSES + 1).float()
    one_hot[..., 0] = 0  # background is encoded as zeros
    hit = matched.matched >= 0
    matches = hit.sum()
    # In float64, because a float32 sum of a million terms differs by its order.
    summed = sigmoid_focal_loss(logits.double(), one_hot.double(), alpha, gamma, "sum")
    coded = CODERS["deltas"].encode(targets.boxes_xyxy, ANCHORS)
    box = F.smooth_l1_loss(deltas[hit].double(), coded[hit].double(), reduction="sum")
    theirs = (summed / matches).float(), (box / matches / 4).float()
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=0)
    for one, other in zip(gradients(ours, logits, deltas), gradients(theirs, logits, deltas), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-8)


def test_focal_by_hand():
    """Two default boxes, two classes; TensorFlow's SigmoidFocalClassificationLoss on paper."""
    logits = torch.tensor([[[0.0, 2.0, -1.0], [-3.0, 0.5, 1.0]]])
    anchors = ANCHORS[:2]
    boxes = CODERS["deltas"].decode(torch.tensor([[[0.2, -3.0, 0.0, 1.0], [9.0] * 4]]), anchors)
    targets = Targets(torch.tensor([[1, 0]]), boxes)
    deltas = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]]])
    loss = LOSSES["focal"]((logits, deltas), targets, anchors)

    def negative(x):
        p = 1 / (1 + math.exp(-x))
        return 0.25 * p**2 * -math.log(1 - p)

    p = 1 / (1 + math.exp(-2.0))
    positive = 0.75 * (1 - p) ** 2 * -math.log(p)
    by_hand = positive + sum(negative(x) for x in (0.0, -1.0, -3.0, 0.5, 1.0))
    assert loss["class"].item() == pytest.approx(by_hand, rel=1e-6)
    # 0.5 d^2 up to 1, d - 0.5 beyond; one match, four numbers.
    assert loss["box"].item() == pytest.approx((0.5 * 0.2**2 + 2.5 + 0 + 0.5) / 4, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("objects", [0, 3])
def test_a_batch_without_objects_is_finite_and_has_gradients(name, objects):
    boxes = torch.zeros(2, objects, 4)
    labels = torch.full((2, objects), -1)
    matched = match(None, ANCHORS, Objects(boxes, labels), iou_threshold=0.5, force_match=True)
    targets = targets_of(matched, ANCHORS, Objects(boxes, labels))
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
    matched = Assignment(torch.full((1, len(ANCHORS)), -1))
    matched.matched[0, :50] = 0
    targets = targets_of(matched, ANCHORS, Objects(boxes, labels))
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
    targets = Targets(torch.arange(6).view(1, 6), ANCHORS[None, :6])
    loss = tuple(loss_of("focal", gamma=gamma)((logits, deltas), targets, ANCHORS[:6]).values())
    assert all(part.isfinite() for part in loss)
    assert gradients(loss, logits)[0].isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    boxes, labels, matched, logits, deltas = random_case(0)
    targets = targets_of(matched, ANCHORS, Objects(boxes, labels))
    half, half_deltas = logits.detach().to(dtype).requires_grad_(), deltas.detach().to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = tuple(LOSSES[name]((half, half_deltas.requires_grad_()), targets).values())
    full = tuple(LOSSES[name]((half.detach().float(), half_deltas.detach().float()), targets).values())
    assert all(part.dtype == torch.float32 for part in ours)
    torch.testing.assert_close(ours, full)
    assert gradients(ours, half)[0].dtype == dtype


@pytest.mark.parametrize("seed", range(4))
def test_giou_equals_torchvision(seed):
    boxes, labels, matched, logits, deltas = random_case(seed)
    targets = targets_of(matched, ANCHORS, Objects(boxes, labels))
    ours = LOSSES["focal_giou"]((logits, deltas), targets)["box"]
    hit = matched.matched >= 0
    decoded = CODERS["deltas"].decode(deltas, ANCHORS)[hit]
    theirs = generalized_box_iou_loss(decoded, targets.boxes_xyxy[hit], reduction="mean")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    one, other = (gradients((loss,), deltas)[0] for loss in (ours, theirs))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("box", [[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 9.0], [400.0, 400.0, 500.0, 500.0]])
def test_giou_of_degenerate_boxes(box):
    targets = Targets(torch.ones(1, 1, dtype=torch.int64), torch.tensor([[box]]))
    anchors = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    deltas = torch.zeros(1, 1, 4, requires_grad=True)
    loss = LOSSES["focal_giou"]((torch.zeros(1, 1, 2), deltas), targets, anchors)["box"]
    theirs = generalized_box_iou_loss(anchors, torch.tensor([box]), reduction="sum")
    torch.testing.assert_close(loss, theirs)
    assert gradients((loss,), deltas)[0].isfinite().all()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def entropy(x, target):
    return -target * math.log(sigmoid(x)) - (1 - target) * math.log(1 - sigmoid(x))


@pytest.mark.parametrize("name", ["varifocal", "quality_focal"])
def test_losses_with_a_quality_by_hand(name):
    """Three default boxes, two classes: matched with quality 0.6, with quality 0 (a negative), background."""
    logits = [[0.0, 2.0, -1.0], [-3.0, 0.5, 1.0], [1.5, -2.0, 0.3]]
    quality = torch.tensor([[0.6, 0.0, 0.0]])
    targets = Targets(torch.tensor([[1, 2, 0]]), ANCHORS[None, :3], quality)
    loss = LOSSES[name]((torch.tensor([logits]), torch.zeros(1, 3, 4)), targets, ANCHORS[:3])
    others = [0.0, -1.0, *logits[1], *logits[2]]  # all slots but that of the object with a quality
    factor = {"varifocal": 0.75, "quality_focal": 1.0}[name]
    negatives = sum(factor * sigmoid(x) ** 2 * entropy(x, 0) for x in others)
    weight = {"varifocal": 0.6, "quality_focal": (sigmoid(2.0) - 0.6) ** 2}[name]
    by_hand = weight * entropy(2.0, 0.6) + negatives  # the qualities' sum, below 1, counts as 1
    assert loss["class"].item() == pytest.approx(by_hand, rel=1e-5)
    assert loss["box"].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["varifocal", "quality_focal"])
def test_without_an_assigners_quality_it_is_the_iou_of_the_predicted_box(name):
    boxes, labels, matched, logits, deltas = random_case(2)
    targets = targets_of(matched, ANCHORS, Objects(boxes, labels))
    decoded = CODERS["deltas"].decode(deltas.detach(), ANCHORS)
    iou = torch.stack([box_iou(*pair).diagonal() for pair in zip(decoded, targets.boxes_xyxy, strict=True)])
    explicit = targets._replace(quality=torch.where(matched.matched >= 0, iou, 0.0))
    ours, theirs = (LOSSES[name]((logits, deltas), each) for each in (targets, explicit))
    torch.testing.assert_close(ours, theirs)
    summed = generalized_box_iou_loss(decoded.flatten(0, 1), targets.boxes_xyxy.flatten(0, 1))
    weighted = (summed * explicit.quality.flatten()).sum() / explicit.quality.sum()
    torch.testing.assert_close(ours["box"], weighted, rtol=1e-4, atol=0)
