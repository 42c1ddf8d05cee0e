"""A training sample of Cityscapes' size on one core: ours, albumentations' own transforms, torchvision's v2.

    python benchmarks/segmentation_loading.py [--samples 24] [--rounds 5]

1024x2048 figures (generated scenes, enlarged) are scaled by 0.5 to 2, padded, cropped to 769x769, flipped.
Only ours draws a crop again when one class fills over 0.75 of it. Its recipes scale in steps of 0.25; "any
scale" draws from the whole range as the peers do. torchvision runs the steps of its segmentation reference on
tensors without antialias as ours (laid out as `PILToTensor` does, which it scales fastest), and on PIL
images, which it always smooths. It flips the crop; the reference flips the whole scaled picture before.
"color" is SSD's distortion: for albumentations the list of its transforms that ours uses; torchvision's may
also permute channels.

All run in turns; printed are medians over the rounds of this process's CPU time, so that other work on the
machine hardly counts. Reading is ours alone, from PNGs that the system holds in memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # before its import, which would ask the network

import albumentations as A
from torchvision import tv_tensors
from torchvision.transforms import v2

from dettoolkit.datasets.augment import photometric_distortion
from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.label_classes import LabelClasses, read_labels
from dettoolkit.datasets.scenes.render import draw_scene
from dettoolkit.datasets.segmentation_augment import SegmentationTransform

HW, CROP, SCALE, SCALE_STEP, PICTURES = (1024, 2048), 769, (0.5, 2.0), 0.25, 8
MEAN = (0.485, 0.456, 0.406)
FILL = (124, 116, 104)  # MEAN of 255
ENLARGED = 2  # drawing scenes at full size takes 6 times longer

Sample = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # image (H, W, 3), labels (H, W)


def write_files(folder: Path, index: int) -> tuple[Path, Path]:
    """Write a scene as Cityscapes has it: its image and its label ids."""
    size = HW[0] // ENLARGED, HW[1] // ENLARGED
    scene = draw_scene(seed=0, split="train", index=index, image_hw=size)
    image, labels = folder / f"{index}_leftImg8bit.png", folder / f"{index}_gtFine_labelIds.png"
    Image.fromarray(cv2.resize(scene.image, HW[::-1], interpolation=cv2.INTER_CUBIC)).save(image)
    Image.fromarray(scene.label_ids.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)).save(labels)
    return image, labels


def our_transform(*, scale_step: float, color: bool) -> SegmentationTransform:
    return SegmentationTransform(
        crop_hw=(CROP, CROP),
        base_hw=None,
        scale=SCALE,
        scale_step=scale_step,
        max_class_fraction=0.75,
        flip=True,
        color=color,
        rare_crops=0.0,
        class_weights=np.ones(19),
        mean_fill=MEAN,
    )


def albumentations_preset(*, color: bool) -> Callable[..., Any]:
    """Build the same of what albumentations has; its limits are relative to 1."""
    preset: Callable[..., Any] = A.Compose(
        [
            A.RandomScale(scale_limit=(SCALE[0] - 1, SCALE[1] - 1), p=1),
            A.PadIfNeeded(CROP, CROP, position="top_left", fill=FILL, fill_mask=VOID),
            A.RandomCrop(CROP, CROP),
            A.HorizontalFlip(p=0.5),
            *(photometric_distortion() if color else []),
        ],
        seed=0,
    )
    return preset


def torchvision_preset(*, color: bool) -> Callable[[Any], Any]:
    """Build the steps of torchvision's references/segmentation/presets.py, but for its normalization."""
    fill: Any = {tv_tensors.Image: FILL, Image.Image: FILL, tv_tensors.Mask: VOID}
    least, largest = (int(factor * HW[0]) for factor in SCALE)
    preset: Callable[[Any], Any] = v2.Compose(
        [
            v2.RandomResize(least, largest, antialias=False),
            v2.RandomCrop(CROP, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(),
            *([v2.RandomPhotometricDistort()] if color else []),
        ]
    )
    return preset


def torchvision_sample(sample: Sample, *, pil: bool) -> dict[str, Any]:
    """Turn a sample into what torchvision's transforms take."""
    image, labels = sample
    chw = torch.from_numpy(image).permute(2, 0, 1)
    return {
        "image": Image.fromarray(image) if pil else tv_tensors.Image(chw),
        "mask": tv_tensors.Mask(torch.from_numpy(labels)),
    }


def build_calls(pool: list[Sample], *, color: bool) -> dict[str, Callable[[int], object]]:
    """Make what is compared: each takes the number of a sample."""
    ours = our_transform(scale_step=SCALE_STEP, color=color)
    ours_any = our_transform(scale_step=0, color=color)
    mixed = albumentations_preset(color=color)
    vision = torchvision_preset(color=color)
    tensors, figures = ([torchvision_sample(sample, pil=pil) for sample in pool] for pil in (False, True))
    return {
        "ours": lambda n: ours(*pool[n % PICTURES], n),
        "ours, any scale": lambda n: ours_any(*pool[n % PICTURES], n),
        "albumentations": lambda n: mixed(image=pool[n % PICTURES][0], mask=pool[n % PICTURES][1]),
        "torchvision, tensors": lambda n: vision(tensors[n % PICTURES]),
        "torchvision, PIL": lambda n: vision(figures[n % PICTURES]),
    }


def medians(calls: dict[str, Callable[[int], object]], *, samples: int, rounds: int) -> dict[str, float]:
    """Measure the CPU seconds of one call of each: the median over the rounds of a round's mean."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for first in range(0, rounds * samples, samples):
        for name, call in calls.items():
            start = time.process_time()
            for number in range(first, first + samples):
                call(number)
            times[name].append((time.process_time() - start) / samples)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=24, help="samples per round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(0)  # as in a loader's worker
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Anti-alias option is always applied")
    classes = LabelClasses.cityscapes()
    with tempfile.TemporaryDirectory() as name:
        paths = [write_files(Path(name), index) for index in range(PICTURES)]
        pool = [(read_image(image), read_labels(labels, classes)) for image, labels in paths]
        reading: dict[str, Callable[[int], object]] = {
            "reading the image": lambda n: read_image(paths[n % PICTURES][0]),
            "reading and mapping the labels": lambda n: read_labels(paths[n % PICTURES][1], classes),
        }
        times = medians(reading, samples=PICTURES, rounds=options.rounds)
        sizes = [sum(path.stat().st_size for path in each) / PICTURES for each in zip(*paths, strict=True)]
    for (name, median), size in zip(times.items(), sizes, strict=True):
        print(f"{name:30} {median * 1e3:7.2f} ms  PNG of {size / 1e6:.2f} MB")
    for color in (False, True):
        times = medians(build_calls(pool, color=color), samples=options.samples, rounds=options.rounds)
        for name, median in times.items():
            ratio = median / times["ours"]
            kind = "color" if color else "plain"
            print(f"{kind:8} {name:21} {median * 1e3:7.2f} ms per sample  {ratio:5.1f}x ours")


if __name__ == "__main__":
    main()
