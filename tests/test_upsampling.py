"""Labels of upsampled logits against torch's upsampling of every class."""

import pytest
import torch
import torch.nn.functional as F

from dettoolkit.segmentation.upsampling import first_highest, upsampled_labels

SIZES = [(16, 24), (64, 96), (17, 29), (61, 90), (8, 12), (3, 5), (1, 1), (1, 40), (40, 1)]


def every_class(logits, out_hw, *, align_corners):
    return F.interpolate(logits[None], out_hw, mode="bilinear", align_corners=align_corners)[0]


def smooth(seed, classes=7, hw=(8, 12)):
    """Make logits of regions: few pixels lie between different ones."""
    coarse = torch.randn(1, classes, 3, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, hw, mode="bicubic")[0]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("out_hw", SIZES)
def test_labels_are_the_argmax_of_all_upsampled_classes(out_hw, align_corners):
    noise = torch.randn(7, 8, 12, generator=torch.Generator().manual_seed(0))
    for logits in (noise, smooth(1), smooth(2), noise[:1], noise[:, :1], noise[:, :, :1], noise[:, :1, :1]):
        labels = upsampled_labels(logits, out_hw, align_corners=align_corners)
        assert labels.dtype == torch.uint8
        scores = every_class(logits, out_hw, align_corners=align_corners)
        lost = scores.amax(dim=0) - scores.gather(0, labels[None].long())[0]
        assert lost.max() <= 1e-6  # rounding
        assert torch.equal(labels.long(), scores.argmax(dim=0))


@pytest.mark.parametrize("seed", range(20))
def test_of_equal_classes_the_first_wins_everywhere(seed):
    # Small whole numbers at powers of two: nothing is rounded, and there are many ties.
    logits = torch.randint(-2, 3, (5, 8, 12), generator=torch.Generator().manual_seed(seed)).float()
    for out_hw in ((64, 96), (32, 24), (8, 96)):
        scores = every_class(logits, out_hw, align_corners=False)
        ties = (scores == scores.amax(dim=0)).sum(dim=0) > 1
        assert ties.float().mean() > 0.01
        assert torch.equal(upsampled_labels(logits, out_hw, align_corners=False).long(), scores.argmax(dim=0))


def test_logits_in_any_memory_layout():
    logits = smooth(3)
    wanted = upsampled_labels(logits, (61, 90), align_corners=True)
    channels_last = logits[None].contiguous(memory_format=torch.channels_last)[0]
    assert not channels_last.is_contiguous()
    assert torch.equal(upsampled_labels(channels_last, (61, 90), align_corners=True), wanted)


def test_a_class_below_others_at_every_sample_may_be_the_best_between_them():
    logits = torch.tensor([[3.0, 0.0], [0.0, 3.0], [2.0, 2.0]])  # by class, then place
    for shape in ((3, 1, 2), (3, 2, 1)):
        out_hw = (1, 8) if shape[1] == 1 else (8, 1)
        labels = upsampled_labels(logits.view(shape), out_hw, align_corners=False).flatten()
        assert labels.tolist() == [0, 0, 0, 2, 2, 1, 1, 1]


def test_too_many_classes_or_none_are_refused():
    assert first_highest(torch.arange(255.0).view(255, 1, 1)).item() == 254
    with pytest.raises(ValueError, match="at most 255 classes"):
        first_highest(torch.zeros(256, 1, 1))
    with pytest.raises(ValueError, match="at least one class"):
        upsampled_labels(torch.zeros(0, 2, 2), (4, 4), align_corners=False)
