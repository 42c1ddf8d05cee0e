"""Losses of distillation: against torch's and NumPy's, by hand, zero where both agree, nothing, extremes."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dettoolkit.soft_losses import channel_wise, divergence, pearson, resized

LOSSES = {
    "kl": partial(divergence, dim=1, temperature=2.0),
    "cwd": partial(channel_wise, temperature=4.0),
    "pkd": pearson,
}
each_loss = pytest.mark.parametrize("loss_of", LOSSES.values(), ids=LOSSES)


def maps(seed, *, hw=(4, 5), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 6, *hw, generator=generator, dtype=dtype)


def test_divergence_by_hand():
    student, teacher = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    p = 1 / (1 + math.exp(-1))  # at temperature 2
    wanted = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)) / 2  # two images, one agrees
    torch.testing.assert_close(divergence(student, teacher, dim=1, temperature=2.0), torch.tensor(wanted))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_is_torchs(temperature):
    student, teacher = maps(0), maps(1)
    ours, theirs = (each / temperature for each in (student, teacher))
    pixels = student.numel() / 6
    wanted = F.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="sum") * temperature**2 / pixels
    torch.testing.assert_close(divergence(student, teacher, dim=1, temperature=temperature), wanted)
    ours, theirs = (each.flatten(2).flatten(0, 1) for each in (ours, theirs))  # a row for each channel
    wanted = F.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="batchmean") * temperature**2
    torch.testing.assert_close(channel_wise(student, teacher, temperature=temperature), wanted)


def test_pearson_is_numpys():
    student, teacher = maps(2), 3 * maps(3) + 5
    rows = [each.transpose(0, 1).flatten(1).numpy() for each in (student, teacher)]
    wanted = np.mean([1 - np.corrcoef(one, other)[0, 1] for one, other in zip(*rows, strict=True)])
    assert float(pearson(student, teacher)) == pytest.approx(wanted, abs=1e-5)
    assert float(pearson(student, 7 * student - 2)) == pytest.approx(0, abs=1e-5)
    assert float(pearson(student, -student)) == pytest.approx(2, abs=1e-5)


@each_loss
def test_nothing_is_lost_where_both_agree(loss_of):
    student = maps(4).requires_grad_()
    loss = loss_of(student, student.detach().clone())
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-7, rtol=0)


@each_loss
def test_gradient_is_the_slope_and_the_students_alone(loss_of):
    student, teacher = (maps(seed, dtype=torch.float64).requires_grad_() for seed in (5, 6))
    assert torch.autograd.gradcheck(lambda each: loss_of(each, teacher.detach()), (student,))
    loss_of(student, teacher).backward()
    assert student.grad.any()
    assert teacher.grad is None


@each_loss
def test_no_images_constant_maps_and_extremes_are_finite(loss_of):
    for student, teacher in (
        (maps(7)[:0], maps(8)[:0]),
        (torch.zeros(2, 6, 4, 4), torch.full((2, 6, 4, 4), 3.0)),
        (maps(7) * 1e4, -1e4 * maps(8)),
        (torch.randn(1, 6, 1, 1), torch.randn(1, 6, 1, 1)),
    ):
        student.requires_grad_()
        loss = loss_of(student, teacher)
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()
    half = loss_of(maps(9).bfloat16(), maps(10).half())
    assert half.dtype == torch.float32


@pytest.mark.parametrize("hw", [(8, 10), (3, 3), (4, 5)])
def test_a_teachers_map_takes_the_students_size(hw):
    student, teacher = maps(11), maps(12, hw=hw)
    same = F.interpolate(teacher, size=(4, 5), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resized(teacher, student), same)
    torch.testing.assert_close(pearson(student, teacher), pearson(student, same))
    one, other = (channel_wise(student, each, temperature=4.0) for each in (teacher, same))
    torch.testing.assert_close(one, other)
