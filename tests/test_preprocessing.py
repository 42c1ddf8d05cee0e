"""The two ways to normalize give the same bits; images are fitted as in evaluation."""

import numpy as np
import pytest
import torch

from dettoolkit.datasets.segmentation_augment import EvalTransform
from dettoolkit.export.request import Request, manifest_for
from dettoolkit.manifest import Manifest
from dettoolkit.preprocessing import fit_image, normalize, normalize_on_cpu
from dettoolkit.segmentation.spec import SegmentationSection

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(("mean", "std"), [IMAGENET, ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3)])
@pytest.mark.parametrize("count", [1, 3])
def test_on_a_cpu_the_same_to_the_bit(mean, std, count):
    every_value = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    images = [np.roll(every_value, shift, axis=0) for shift in range(count)]
    found = normalize_on_cpu(images, mean, std)
    assert found.flags.c_contiguous
    assert found.dtype == np.float32
    wanted = normalize(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), mean, std)
    assert np.array_equal(found, wanted.numpy())


def test_by_hand():
    found = normalize_on_cpu([np.full((2, 1, 3), 255, np.uint8)], (0.5, 0.0, 0.25), (0.5, 1.0, 0.25))
    assert found.shape == (1, 3, 2, 1)
    assert found[0, :, 0, 0].tolist() == [1.0, 1.0, 3.0]


@pytest.mark.parametrize("own_hw", [(40, 60), (48, 64), (5, 9)])
def test_images_of_their_own_size_are_fitted_as_evaluation_fits_them(own_hw):
    manifest = Manifest(
        name="m",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        input_hw=None,
        multiple=16,
        recipe={},
        versions={},
        tasks={"segmentation": SegmentationSection(class_names=("a",), class_ids=(0,), align_corners=False)},
    )
    image = np.random.default_rng(0).integers(0, 256, (*own_hw, 3), np.uint8)
    transform = EvalTransform(eval_hw=None, eval_multiple=16)
    evaluated, _ = transform(image, np.zeros(own_hw, np.uint8), 0)
    np.testing.assert_array_equal(fit_image(image, manifest), evaluated)
    assert manifest_for(manifest, Request(), first_hw=own_hw).input_hw == evaluated.shape[:2]
