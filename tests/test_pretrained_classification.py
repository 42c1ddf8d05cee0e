"""Real ImageNet weights on real photos: they were trained with TensorFlow's padding, and need it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dettoolkit.classification.build import build_network
from dettoolkit.config.classification import ClassifierModel
from dettoolkit.config.recipe import ClassificationRecipe
from dettoolkit.datasets.classification_augment import EvalTransform
from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.samples import to_tensor
from dettoolkit.preprocessing import normalize

# Photos of COCO with one thing that fills most of them, and the labels of ImageNet that name it.
PHOTOS = {
    "val2017/000000000285.jpg": {294},  # brown bear
    "val2017/000000001818.jpg": {340},  # zebra
    "val2017/000000002006.jpg": {654, 874},  # minibus, trolleybus
    "val2017/000000003661.jpg": {954},  # banana
    "val2017/000000005477.jpg": {404},  # airliner
    "val2017/000000005992.jpg": {348},  # ram
    "val2017/000000006040.jpg": {829},  # streetcar
    "val2017/000000007108.jpg": {101, 385, 386},  # tusker, Indian and African elephant
    "val2017/000000009448.jpg": {879},  # umbrella
    "train2017/000000000034.jpg": {340},  # zebra
    "train2017/000000000081.jpg": {404},  # airliner
    "train2017/000000000263.jpg": {101, 385, 386},  # elephant
    "train2017/000000000397.jpg": {963},  # pizza
    "train2017/000000000510.jpg": {703},  # park bench
}


def answers(data: Path, weights: Path, padding: str) -> list[list[int]]:
    """Return the five labels that come first for each photo."""
    backbone = {"type": "mobilenet_v3_small", "padding": padding}
    model = ClassifierModel.model_validate(
        {"type": "classifier", "backbone": backbone, "weights": str(weights)}
    )
    network = build_network(
        ClassificationRecipe.model_construct(model=model), num_classes=1000, pretrained=True, exact=True
    ).eval()
    transform = EvalTransform(input_hw=(224, 224), resize=256, antialias=True)
    images = torch.stack([to_tensor(transform(read_image(data / name), 0)) for name in PHOTOS])
    with torch.inference_mode():
        best: list[list[int]] = network(normalize(images, (0.5,) * 3, (0.5,) * 3)).topk(5).indices.tolist()
    return best


def test_tensorflows_weights_recognize_photos_with_tensorflows_padding(
    shared_data: Path, shared_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, weights = shared_data / "coco256", shared_weights / "mobilenet_v3_small_imagenet_torchvision.pth"
    right = {}
    for padding in ("same", "symmetric"):
        found = answers(data, weights, padding)
        assert not caplog.records  # every tensor found its place
        right[padding] = sum(best[0] in PHOTOS[name] for name, best in zip(PHOTOS, found, strict=True))
        if padding == "same":
            for name, best in zip(PHOTOS, found, strict=True):
                assert PHOTOS[name] & set(best), name
    assert right["same"] >= 13
    assert right["symmetric"] <= right["same"] - 3
