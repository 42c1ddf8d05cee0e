"""Augmentation of one sample on one core: ours and torchvision's v2 transforms on the same images.

    python benchmarks/augmentation.py [--samples 400] [--rounds 5] [--data shared/data/facemask848]

640x480 figures (COCO's common size) with 7 boxes (its mean is 7.3), resized to 320x320; decoding and
normalization are not timed. torchvision runs its detection reference's presets "ssdlite" and "ssd" with the
resize of this toolkit (bilinear, no antialias), on tensors and on PIL images (there it always smooths). Its
"ssd" may also permute channels, which SSD does not. All run in turns; printed are medians over the rounds of
this process's CPU time, so that other work on the machine hardly counts.

With `--data`, a COCO data set with train2017/ and annotations/instances_train2017.json, the images per second
of a loader's worker are measured instead, decoding included, with each of our presets at 320x320.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from dettoolkit.config import load_recipe
from dettoolkit.datasets.augment import ZOOM_FILL, DetectionTransform
from dettoolkit.datasets.coco import BoxedImage
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.detection.run import build_dataset
from dettoolkit.detection.splits import load_annotations

HW, INPUT_HW, BOXES, PICTURES = (480, 640), (320, 320), 7, 16
PRESETS = (
    "none",
    "ssdlite",
    "ssd",
    "{type: strong, mosaic: {probability: 0}}",
    "strong",
    "{type: strong, mosaic: {probability: 1}}",
)


def samples() -> list[BoxedImage]:
    """Draw smooth color figures with boxes of 20 to 320 pixels, log-uniform."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(PICTURES):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = np.asarray(cv2.resize(coarse, HW[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
        size_wh = np.exp(rng.uniform(np.log(20), np.log(320), (BOXES, 2)))
        corner = rng.random((BOXES, 2)) * (np.array(HW[::-1]) - size_wh)
        boxes = np.concatenate([corner, corner + size_wh], axis=1).astype(np.float32)
        made.append(BoxedImage(image, boxes, rng.integers(0, 80, BOXES)))
    return made


def torchvision_preset(augment: str) -> Callable[[Any], Any]:
    """Build torchvision's preset (references/detection/presets.py) with our resize."""
    fill: Any = {tv_tensors.Image: ZOOM_FILL, Image.Image: ZOOM_FILL, "others": 0}
    color = [v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=fill)] if augment == "ssd" else []
    steps = [v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), v2.Resize(INPUT_HW, antialias=False)]
    preset: Callable[[Any], Any] = v2.Compose([*color, *steps, v2.SanitizeBoundingBoxes()])
    return preset


def torchvision_sample(sample: BoxedImage, *, pil: bool) -> dict[str, Any]:
    """Turn a sample into what torchvision's transforms take."""
    image, boxes, labels, _ = sample
    return {
        "image": Image.fromarray(image) if pil else tv_tensors.Image(image.transpose(2, 0, 1).copy()),
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=HW),
        "labels": torch.from_numpy(labels),
    }


def seconds(call: Callable[[int], object], count: int) -> float:
    """Measure the CPU time of one call, averaged over `count`."""
    start = time.process_time()
    for number in range(count):
        call(number)
    return (time.process_time() - start) / count


def loader_speeds(root: str, *, count: int, rounds: int) -> None:
    """Print the images per second that one worker reads and augments with each preset."""
    speeds: dict[str, list[float]] = {preset: [] for preset in PRESETS}
    for _ in range(rounds):
        for preset, values in speeds.items():
            overrides = [f"data.root={root}", f"data.augment={preset}"]
            recipe: Any = load_recipe("ssdlite_mnv3_large", overrides).recipe
            data = build_dataset(recipe, load_annotations(recipe.data, "train"), split="train")
            values.append(1 / seconds(lambda n, data=data: data[SampleKey(n % len(data), 0)], count))  # type: ignore[misc]
    for preset, values in speeds.items():
        median, base = statistics.median(values), statistics.median(speeds["ssdlite"])
        print(f"{preset:42} {median:7.0f} images per second  {median / base:5.2f}x ssdlite's")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=400, help="samples per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", help="measure a loader's worker on this COCO data set instead")
    options = parser.parse_args()
    cv2.setNumThreads(0)  # as in a loader's worker
    torch.set_num_threads(1)
    if options.data:
        loader_speeds(options.data, count=options.samples, rounds=options.rounds)
        return
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Anti-alias option is always applied")
    pool = samples()
    tensors, figures = ([torchvision_sample(sample, pil=pil) for sample in pool] for pil in (False, True))
    for augment in ("ssdlite", "ssd"):
        ours = DetectionTransform(augment=augment, input_hw=INPUT_HW)
        peer = torchvision_preset(augment)
        calls: dict[str, Callable[[int], object]] = {
            "ours": lambda n, ours=ours: ours(pool[n % PICTURES], n),  # type: ignore[misc]
            "torchvision, tensors": lambda n, peer=peer: peer(tensors[n % PICTURES]),  # type: ignore[misc]
            "torchvision, PIL": lambda n, peer=peer: peer(figures[n % PICTURES]),  # type: ignore[misc]
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(options.rounds):
            for name, call in calls.items():
                times[name].append(seconds(call, options.samples))
        medians = {name: statistics.median(values) for name, values in times.items()}
        for name, median in medians.items():
            ratio = median / medians["ours"]
            print(f"{augment:8} {name:21} {median * 1e3:7.3f} ms per sample  {ratio:5.1f}x ours")


if __name__ == "__main__":
    main()
