"""Soft dice and Lovász-Softmax: by hand, against IoU of certain predictions, as slopes; void and nothing."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from dettoolkit.segmentation.region_losses import dice, labels_at, lovasz_softmax

CLASSES = 4
both = pytest.mark.parametrize("loss_of", [dice, lovasz_softmax])


def ours(loss_of, logits, labels, *, weight=1.0, align_corners=False):
    return loss_of(logits, labels, weight=weight, align_corners=align_corners)


def random_case(seed, *, hw=(6, 5), images=3, dtype=torch.float32):
    """Draw logits and labels of one size, with void in them; the last class is absent."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES - 1, (images, *hw), generator=generator).to(torch.uint8)
    labels[0, :2] = 255
    logits = torch.randn(images, CLASSES, *hw, generator=generator, dtype=dtype)
    return logits.requires_grad_(), labels


def certain(labels):
    """Return logits whose softmax is 1 for these labels (N, H, W)."""
    return F.one_hot(labels.long(), CLASSES).movedim(3, 1).float() * 200


def by_hand(probabilities, truth, *, classes=2):
    """Return the losses of probabilities (P, K) and labels (P,), in plain Python, class by class."""
    dices, lovaszes = [], []
    for label in range(classes):
        p = [row[label] for row in probabilities]
        y = [float(each == label) for each in truth]
        if not sum(y):
            continue
        dices.append(1 - 2 * sum(a * b for a, b in zip(p, y, strict=True)) / (sum(p) + sum(y)))
        errors = sorted(((abs(b - a), b) for a, b in zip(p, y, strict=True)), reverse=True)
        total = before = 0.0
        for count in range(1, len(errors) + 1):
            wrong = [b for _, b in errors[:count]]
            loss = 1 - (sum(y) - sum(wrong)) / (sum(y) + len(wrong) - sum(wrong))
            total, before = total + errors[count - 1][0] * (loss - before), loss
        lovaszes.append(total)
    return {dice: sum(dices) / len(dices), lovasz_softmax: sum(lovaszes) / len(lovaszes)}


@both
@pytest.mark.parametrize(
    ("first", "truth"),
    [
        ([0.9, 0.6, 0.3, 0.8], [0, 0, 1, 1]),
        ([0.9, 0.6, 0.3, 0.8], [0, 0, 0, 0]),  # class 1 is absent
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 1, 1]),
        ([0.01, 0.2, 0.95, 0.7], [0, 0, 1, 1]),
    ],
)
def test_values_by_hand(loss_of, first, truth):
    probabilities = torch.tensor([[p, 1 - p] for p in first])
    logits = F.pad(probabilities.log().T.view(1, 2, 1, 4), (0, 1))  # and a void pixel
    labels = torch.tensor([[[*truth, 255]]], dtype=torch.uint8)
    wanted = by_hand(probabilities.tolist(), truth)[loss_of]
    for weight in (1.0, 0.25):
        loss = ours(loss_of, logits, labels, weight=weight)
        torch.testing.assert_close(loss, torch.tensor(weight * wanted))


def test_hand_computed_lovasz():
    """One class of two pixels, errors 0.4 and 0.1; a third pixel is of another class, error 0.3."""
    p = torch.tensor([0.6, 0.9, 0.3])
    logits = torch.stack((p, 1 - p)).log().view(1, 2, 1, 3)
    labels = torch.tensor([[[0, 0, 1]]])
    first = 0.4 * 1 / 2 + 0.3 * (2 / 3 - 1 / 2) + 0.1 * (1 - 2 / 3)  # 1 - IoU after each: 1/2, 2/3, 1
    second = 0.4 * 1 / 2 + 0.3 * (1 - 1 / 2)
    torch.testing.assert_close(ours(lovasz_softmax, logits, labels), torch.tensor((first + second) / 2))


@pytest.mark.parametrize("seed", range(5))
def test_lovasz_of_certain_predictions_is_one_minus_iou(seed):
    _, labels = random_case(seed)
    predicted = torch.randint(0, CLASSES, labels.shape, generator=torch.Generator().manual_seed(seed + 10))
    labeled, losses = labels != 255, []
    for label in range(CLASSES - 1):
        found, true = (predicted == label) & labeled, labels == label
        losses.append(1 - (found & true).sum() / (found | true).sum())
    wanted = torch.stack(losses).mean()
    torch.testing.assert_close(ours(lovasz_softmax, certain(predicted), labels), wanted)


@both
def test_right_predictions_lose_nothing_and_wrong_ones_all(loss_of):
    labels = torch.tensor([[[0, 0, 1, 2]]], dtype=torch.uint8)
    assert ours(loss_of, certain(labels), labels) == pytest.approx(0, abs=1e-6)
    assert ours(loss_of, certain(torch.full_like(labels, 3)), labels) == pytest.approx(1)


@both
def test_gradient_is_the_slope(loss_of):
    logits, labels = random_case(0, hw=(3, 4), images=2, dtype=torch.float64)
    assert torch.autograd.gradcheck(partial(ours, loss_of, labels=labels), (logits,))


@both
def test_void_counts_for_nothing(loss_of):
    logits, labels = random_case(1)
    loss = ours(loss_of, logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0, :, :2].eq(0).all()
    changed = logits.detach().clone()
    changed[0, :, :2] = 7 * torch.randn(CLASSES, 2, 5)
    torch.testing.assert_close(ours(loss_of, changed, labels), loss.detach())
    for some, empty in ((logits, torch.full_like(labels, 255)), (logits[:0], labels[:0])):
        loss = ours(loss_of, some, empty)
        assert loss == 0
        assert torch.autograd.grad(loss, logits)[0].eq(0).all()


@both
def test_computes_in_float32_and_hides_no_nan(loss_of):
    logits, labels = random_case(2)
    half = logits.detach().bfloat16()
    loss = ours(loss_of, half, labels)
    assert loss.dtype == torch.float32
    assert loss == ours(loss_of, half.float(), labels)
    assert ours(loss_of, logits * 1e5, labels).isfinite()
    half[1, 2, 3, 3] = torch.nan
    assert ours(loss_of, half, labels).isnan()


@pytest.mark.parametrize(("size", "coarse"), [(64, 8), (65, 9), (33, 5), (7, 7), (5, 1), (3, 9)])
def test_labels_are_those_at_the_centers(size, coarse):
    labels = torch.arange(size).expand(1, size, size)
    picked = labels_at(labels, (coarse, coarse), align_corners=False)
    wanted = F.interpolate(labels[None].float(), size=coarse, mode="nearest-exact")[0]
    assert torch.equal(picked.float(), wanted)
    corners = labels_at(labels, (coarse, coarse), align_corners=True)[0, 0].tolist()
    assert corners[0] == 0
    if coarse > 1:
        assert corners[-1] == size - 1
        steps = [after - before for before, after in itertools.pairwise(corners)]
        assert max(steps) - min(steps) <= 1


@both
def test_labels_of_another_size_are_read_at_the_logits_size(loss_of):
    _, labels = random_case(3, hw=(32, 40))
    logits = torch.randn(3, CLASSES, 4, 5)
    at = labels[:, 4::8, 4::8]  # the centers of 8 x 8 pixels lie between two
    torch.testing.assert_close(ours(loss_of, logits, labels), ours(loss_of, logits, at))
