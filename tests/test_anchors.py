"""Default boxes equal torchvision's generator, and TensorFlow's three boxes on a reduced first level."""

import math

import pytest
import torch
from ssd_boxes import GRIDS_320, ssd_levels
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.spec import Level


def torchvision_boxes(input_hw, grids, clip, ratios=(2, 3)):
    generator = DefaultBoxGenerator([list(ratios)] * len(grids), min_ratio=0.2, max_ratio=0.95, clip=clip)
    images = ImageList(torch.zeros(1, 3, *input_hw), [input_hw])
    return generator(images, [torch.zeros(1, 1, *grid) for grid in grids])[0]


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    ("input_hw", "grids"),
    [
        ((320, 320), GRIDS_320),
        ((256, 512), [(16, 32), (8, 16), (4, 8), (2, 4), (1, 2), (1, 1)]),
        ((320, 320), [(20, 20)]),
    ],
)
def test_equal_to_torchvision(input_hw, grids, clip):
    ours = default_boxes(ssd_levels(grids, clip=clip), input_hw=input_hw)
    theirs = torchvision_boxes(input_hw, grids, clip)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def boxes_320(**changes):
    return default_boxes(ssd_levels(GRIDS_320, **changes), input_hw=(320, 320))


def test_counts_at_320():
    full = boxes_320()
    reduced = boxes_320(reduce_first_level=True, clip=False)
    assert full.shape == (3234, 4)
    assert reduced.shape == (2034, 4)
    # Only the first level differs.
    rest = boxes_320(clip=False)
    assert torch.equal(reduced[20 * 20 * 3 :], rest[20 * 20 * 6 :])


def test_reduced_first_level_is_tensorflows():
    boxes = boxes_320(reduce_first_level=True, clip=False)
    root = math.sqrt(2.0)
    sizes = torch.tensor([[32.0, 32.0], [64 * root, 64 / root], [64 / root, 64 * root]])
    first = boxes[:3]  # cell (0, 0), center 8, 8
    torch.testing.assert_close(first[:, 2:] - first[:, :2], sizes)
    torch.testing.assert_close((first[:, 2:] + first[:, :2]) / 2, torch.full((3, 2), 8.0))
    second = boxes[3:6]  # the next column
    torch.testing.assert_close((second[:, 2:] + second[:, :2]) / 2, torch.tensor([[24.0, 8.0]] * 3))


def test_numbers_of_boxes_of_a_cell():
    for ratios in ([], [2.0], [2.0, 3.0]):
        whole, reduced = (
            [len(level.sizes) for level in ssd_levels(GRIDS_320, aspect_ratios=ratios, reduce_first_level=r)]
            for r in (False, True)
        )
        assert whole == [2 + 2 * len(ratios)] * 6
        assert reduced == [3, *whole[1:]]


@pytest.mark.parametrize("grids", [[], [(20, 20), (0, 1)]])
def test_a_level_without_cells_is_an_error(grids):
    levels = [Level(grid_hw=grid, sizes=((0.1, 0.1),)) for grid in grids]
    with pytest.raises(ValueError, match=r"at least one level of at least 1x1 cells, got grids .*enlarge"):
        default_boxes(levels, input_hw=(32, 32))
