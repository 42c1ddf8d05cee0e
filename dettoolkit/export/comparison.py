"""Run two models on the same images, and measure how far their raw outputs and their results are apart."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.export.report import RAW, strictness
from dettoolkit.inference.inputs import sources_of
from dettoolkit.inference.predictor import Predictor
from dettoolkit.manifest import Manifest
from dettoolkit.preprocessing import fit_image, network_input
from dettoolkit.results import Image, Result
from dettoolkit.run import ImageFile
from dettoolkit.spec import Comparison

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

CUT = (5 / 7, 3 / 4)
"""Fractions of rows and columns that are left of every other image where resizing is inside."""
GROUPS = (1, 2, 3)
"""Images put at once into a file that takes any number, in turn."""


def compare(reference: Predictor, candidate: Predictor, images: Sequence[Image]) -> Comparison:
    """Compare two models on images: the reference takes one at a time, the candidate as many as it can.

    The reference has nothing inside; the candidate is an exported file of the same input size and section.
    """
    manifest = candidate.manifest
    pairs = zip(results(reference, images), results(candidate, images), strict=True)
    found = candidate.spec.compare(pairs, manifest.section, strictness(manifest))
    raw = Comparison(errors={})
    if not manifest.final:
        raw = compare_raw(raw_outputs(reference, images), raw_outputs(candidate, images))
    doubts = (*raw.doubts, *found.doubts)
    if len({hashlib.sha256(image.tobytes()).digest() for image in images}) < min(len(images), 2):
        doubts = ("all images are identical", *doubts)
    return Comparison(
        errors={**raw.errors, **found.errors},
        details={**raw.details, **found.details},
        doubts=doubts if images else ("there are no images",),
    )


def groups(predictor: Predictor, count: int) -> Iterator[slice]:
    """Cut `count` images into what a model is given at once: all the sizes that it says it takes."""
    export = predictor.manifest.export
    sizes = cycle((1,) if export is None else GROUPS if export.batch is None else (export.batch,))
    start = 0
    while start < count:
        size = next(sizes)
        yield slice(start, start + size)
        start += size


def results(predictor: Predictor, images: Sequence[Image]) -> list[Result]:
    """Return the result of each image, with everything that the model's own thresholds let through."""
    return [
        result
        for rows in groups(predictor, len(images))
        for result in predictor.predict_batch(images[rows], threshold=0.0)
    ]


def raw_outputs(predictor: Predictor, images: Sequence[Image]) -> list[tuple[Tensor, ...]]:
    """Run the network itself and return all its outputs for each image, without the batch's dimension."""
    manifest, export = predictor.manifest, predictor.manifest.export
    found: list[tuple[Tensor, ...]] = []
    for rows in groups(predictor, len(images)):
        inputs = [network_input(image, manifest) for image in images[rows]]
        together = len({each.shape for each in inputs}) == 1
        for part in [inputs] if together else [[each] for each in inputs]:
            fill = [part[-1]] * ((export.batch or 0) - len(part) if export is not None else 0)
            outputs = predictor.engine(torch.cat([*part, *fill]).to(predictor.engine.device))
            found += [tuple(output[row].cpu().float() for output in outputs) for row in range(len(part))]
    return found


def compare_raw(
    reference: Sequence[tuple[Tensor, ...]], candidate: Sequence[tuple[Tensor, ...]]
) -> Comparison:
    """Compare raw outputs of the same images, one by one."""
    shapes = [
        [[tuple(each.shape) for each in outputs] for outputs in side] for side in (reference, candidate)
    ]
    if shapes[0] != shapes[1]:
        different = next((a, b) for a, b in zip(*shapes, strict=True) if a != b)
        doubt = f"raw outputs should have the shapes {different[0]}, but have {different[1]}"
        return Comparison(errors={}, doubts=(doubt,))
    doubts, errors, largest, total, values = [], [0.0], [0.0], 0.0, 0
    for output, ours in enumerate(zip(*reference, strict=True)):
        theirs = [outputs[output] for outputs in candidate]
        top = torch.stack([each.abs().max() for each in ours]).max()
        if len(ours) > 1 and all(torch.equal(ours[0], each) for each in ours[1:]):
            doubts.append(f"PyTorch's output {output} is the same for every image: the model is not trained")
        gaps = [(a - b).abs().double() for a, b in zip(ours, theirs, strict=True)]
        largest.append(float(torch.stack([each.max() for each in gaps]).max()))  # NaN stays NaN, as it must
        errors.append(largest[-1] / float(top) if top > 0 else np.nan)
        total += float(sum(each.sum() for each in gaps))
        values += sum(each.numel() for each in gaps)
    return Comparison(
        errors={RAW: float(np.max(errors))},
        details={"raw_largest": float(np.max(largest)), "raw_mean": total / max(values, 1)},
        doubts=tuple(doubts),
    )


def own_images(images: Path) -> list[ImageFile]:
    """List the images that a user names: a folder, a pattern or one file."""
    found = sources_of(images)
    return [ImageFile(Path(str(each))) for each in ([images] if found is None else found)]


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Take at most `count`, spread evenly over all, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[int(index)] for index in np.linspace(0, len(items) - 1, count).round()]


def read(files: Sequence[ImageFile]) -> list[Image]:
    """Read images; those that cannot be read are warned of and left out, but ValueError if none can."""
    found, broken = [], []
    for file in files:
        try:
            found.append(file.read())
        except BadImageError as error:
            broken.append(str(error))
    if not found:
        listing = "\n  ".join(broken[:5]) or "there are none"
        raise ValueError(f"none of the images for the comparison can be read:\n  {listing}")
    if broken:
        logger.warning("%d images cannot be read and are skipped:\n  %s", len(broken), "\n  ".join(broken))
    return found


def views(images: Sequence[Image], manifest: Manifest) -> list[Image]:
    """Make of images, uint8 (H, W, 3), what a file that is described by a manifest is compared on.

    Where resizing is inside, every other image is cut, so that a file which ignores the size of what comes in
    is found out even if all images have the network's own size. A file that gives final outputs, but does not
    resize, gets images of the network's size: what enlarging does to its results is not the file's doing.
    """
    if manifest.takes_images:
        cut = [_cut(image) if number % 2 else image for number, image in enumerate(images)]
        cut += [_cut(image) for image in images[:1]] if len(images) == 1 else []
        return sorted(cut, key=lambda image: image.shape)  # of one size together, to make batches
    return [fit_image(image, manifest) for image in images] if manifest.final else list(images)


def _cut(image: Image) -> Image:
    height, width = (max(int(side * part), 1) for side, part in zip(image.shape[:2], CUT, strict=True))
    return np.ascontiguousarray(image[:height, -width:])
