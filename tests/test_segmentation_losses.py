"""Cross-entropy equals torch's on upsampled logits; hard pixels by hand; void, nothing and extremes too."""

import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dettoolkit.segmentation.losses import cross_entropy

CLASSES = 5


def random_case(seed, *, size_hw=(33, 49), grid_hw=(5, 7), images=3, scale=2.0):
    """Smooth labels with void in them, and logits that lean towards them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (images, *size_hw), generator=generator).to(torch.uint8)
    labels[0, : size_hw[0] // 3] = 255
    labels[-1] = 255
    logits = torch.randn(images, CLASSES, *grid_hw, generator=generator) * scale
    return logits.requires_grad_(), labels


def ours(logits, labels, *, class_weights=None, ohem=None, align_corners=False):
    return cross_entropy(logits, labels, class_weights=class_weights, ohem=ohem, align_corners=align_corners)


def upsampled(logits, labels, *, align_corners=False):
    return F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=align_corners)


def torchs(logits, labels, *, class_weights=None, align_corners=False):
    whole = upsampled(logits, labels, align_corners=align_corners)
    return F.cross_entropy(whole, labels.long(), weight=class_weights, ignore_index=255)


def by_sorting(logits, labels, *, threshold, min_kept, class_weights=None):
    """Hard pixels as one would find them with all probabilities in a row."""
    chosen = labels != 255
    truth = labels[chosen].long()
    whole = upsampled(logits, labels).movedim(1, -1)[chosen]  # (P, K)
    probability = whole.softmax(dim=1).gather(1, truth.unsqueeze(1)).squeeze(1)
    order = probability.argsort()
    below = int((probability < threshold).sum())
    kept = order[: max(below, math.ceil(min_kept * len(truth)))]
    return F.cross_entropy(whole[kept], truth[kept], weight=class_weights)


def assert_same(one, other, logits):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    (own,), (wanted,) = torch.autograd.grad(one, logits), torch.autograd.grad(other, logits)
    torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size_hw", [(33, 49), (40, 56), (5, 7), (3, 2), (1, 1)])
def test_equals_torch(size_hw, align_corners):
    logits, labels = random_case(0, size_hw=size_hw)
    labels[0, 0, 0] = 1
    for kind in (torch.uint8, torch.int64):
        one = ours(logits, labels.to(kind), align_corners=align_corners)
        assert_same(one, torchs(logits, labels, align_corners=align_corners), logits)


def test_class_weights_as_torchs():
    logits, labels = random_case(1)
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.5])
    assert_same(
        ours(logits, labels, class_weights=weights), torchs(logits, labels, class_weights=weights), logits
    )


def probabilities_case():
    """Four labeled pixels whose class 0 has probability 0.9, 0.6, 0.3, 0.8, and a void one."""
    probability = torch.tensor([0.9, 0.6, 0.3, 0.8, 0.1])
    logits = torch.stack((probability, 1 - probability)).log().view(1, 2, 1, 5)
    return logits.requires_grad_(), torch.tensor([[[0, 0, 0, 0, 255]]], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("threshold", "min_kept", "kept"),
    [
        (0.7, 0.0, [0.6, 0.3]),
        (0.7, 0.5, [0.6, 0.3]),
        (0.7, 0.51, [0.6, 0.3, 0.8]),  # three of four, rounded up
        (0.2, 0.25, [0.3]),
        (0.2, 0.5, [0.6, 0.3]),
        (0.2, 1.0, [0.9, 0.6, 0.3, 0.8]),
        (1.0, 0.0, [0.9, 0.6, 0.3, 0.8]),
    ],
)
def test_hard_pixels_by_hand(threshold, min_kept, kept):
    logits, labels = probabilities_case()
    loss = ours(logits, labels, ohem=(threshold, min_kept))
    torch.testing.assert_close(loss, -torch.tensor(kept).log().mean())
    (gradient,) = torch.autograd.grad(loss, logits)
    probabilities = [0.9, 0.6, 0.3, 0.8]
    wanted = torch.tensor([(each - 1) / len(kept) * (each in kept) for each in probabilities] + [0.0])
    torch.testing.assert_close(gradient[0, 0, 0], wanted)
    torch.testing.assert_close(gradient[0, 1, 0], -wanted)


def test_no_pixel_is_hard():
    logits, labels = probabilities_case()
    loss = ours(logits, labels, ohem=(0.2, 0.0))
    assert loss == 0
    assert torch.autograd.grad(loss, logits)[0].eq(0).all()


@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.5, 2.0, 1.0, 1.0, 3.5])])
@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 0.0625), (0.05, 0.3), (0.3, 0.9), (0.9, 1.0)])
@pytest.mark.parametrize("seed", range(3))
def test_hard_pixels_of_random_batches(seed, threshold, min_kept, class_weights):
    logits, labels = random_case(seed)
    one = ours(logits, labels, ohem=(threshold, min_kept), class_weights=class_weights)
    other = by_sorting(logits, labels, threshold=threshold, min_kept=min_kept, class_weights=class_weights)
    assert_same(one, other, logits)


def test_where_all_pixels_are_equally_hard_so_many_are_kept():
    logits = torch.zeros(2, CLASSES, 4, 4, requires_grad=True)
    labels = torch.zeros(2, 4, 4, dtype=torch.uint8)
    loss = ours(logits, labels, ohem=(0.1, 0.25))
    torch.testing.assert_close(loss, torch.tensor(math.log(CLASSES)))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert int((gradient[:, 0] != 0).sum()) == 8


@pytest.mark.parametrize("ohem", [None, (0.7, 0.0625)])
@pytest.mark.parametrize("class_weights", [None, torch.ones(CLASSES)])
def test_void_only_and_no_images(ohem, class_weights):
    logits, labels = random_case(2)
    for some, empty in ((logits, labels.fill_(255)), (logits[:0], labels[:0])):
        loss = ours(some, empty, ohem=ohem, class_weights=class_weights)
        assert loss == 0
        assert loss.dtype == torch.float32
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.eq(0).all()


def test_only_classes_of_weight_zero():
    logits, labels = random_case(3)
    labels[labels != 255] = 2
    loss = ours(logits, labels, class_weights=torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]))
    assert loss == 0
    assert torch.autograd.grad(loss, logits)[0].eq(0).all()


@pytest.mark.parametrize("ohem", [None, (0.7, 0.0625)])
def test_computes_in_float32_under_autocast(ohem):
    _, labels = random_case(4)
    torch.manual_seed(0)
    head, features = nn.Conv2d(8, CLASSES, 1), torch.randn(3, 8, 5, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features)
        loss = ours(logits, labels, ohem=ohem)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert loss.detach() == ours(logits.detach().float(), labels, ohem=ohem)
    loss.backward()
    assert head.weight.grad.isfinite().all()
    assert head.weight.grad.ne(0).any()


def test_gradient_is_the_slope():
    logits, labels = random_case(5)
    (gradient,) = torch.autograd.grad(ours(logits, labels), logits)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rise = ours(logits + 0.01 * direction, labels) - ours(logits - 0.01 * direction, labels)
    torch.testing.assert_close((gradient * direction).sum(), rise / 0.02, rtol=1e-3, atol=1e-4)


def test_scaled_losses_scale_the_gradient():
    logits, labels = random_case(6)
    (single,) = torch.autograd.grad(ours(logits, labels), logits)
    (scaled,) = torch.autograd.grad(ours(logits, labels) * 1024 + logits.sum() * 0, logits)
    torch.testing.assert_close(scaled, single * 1024)


@pytest.mark.parametrize("ohem", [None, (0.7, 0.5)])
def test_extreme_logits_stay_finite(ohem):
    logits, labels = random_case(7, scale=1e5)
    loss = ours(logits, labels, ohem=ohem)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_nan_is_not_hidden():
    logits, labels = random_case(8)
    broken = logits.detach().clone()
    broken[1, 2, 3, 3] = math.nan
    for ohem in (None, (0.7, 0.0), (0.7, 1.0)):
        assert ours(broken, labels, ohem=ohem).isnan()


class Kept:
    def __init__(self, tensor):
        self.tensor = tensor


def kept_for_backward(function):
    """Count the numbers that autograd holds for the backward pass after the function has run."""
    alive = weakref.WeakSet()

    def keep(tensor):
        kept = Kept(tensor)
        alive.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        result = function()
    assert result.requires_grad
    return sum(kept.tensor.numel() for kept in alive)


@pytest.mark.parametrize("ohem", [None, (0.7, 0.0625)])
def test_keeps_nothing_of_the_labels_size_for_the_backward_pass(ohem):
    logits, labels = random_case(9, size_hw=(160, 160), grid_hw=(20, 20))
    assert kept_for_backward(lambda: torchs(logits, labels)) >= CLASSES * labels.numel()
    assert kept_for_backward(lambda: ours(logits, labels, ohem=ohem)) <= logits.numel()


def test_without_gradients():
    logits, labels = random_case(10)
    with torch.no_grad():
        loss = ours(logits, labels)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, torchs(logits.detach(), labels))


def test_wrong_shapes():
    logits, labels = random_case(11)
    with pytest.raises(ValueError, match=r"same N, got \(3, 5, 5, 7\) and \(2, 33, 49\)"):
        ours(logits, labels[:2])
    with pytest.raises(ValueError, match=r"each of the 5 classes, got class_weights of shape \(4,\)"):
        ours(logits, labels, class_weights=torch.ones(4))
