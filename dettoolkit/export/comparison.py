"""Run two models on the same images, and say how far their raw outputs and their answers are apart.

N: images, (H, W) an image's size, (h, w) the input's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dettoolkit.datasets.images import resize_image
from dettoolkit.export.agreement import Matching, Parity, compare_detections, compare_labels
from dettoolkit.inference.predictor import Predictor
from dettoolkit.manifest import Manifest
from dettoolkit.preprocessing import normalize

Image = NDArray[np.uint8]

GROUPS = (1, 2, 3)
"""Images put at once into a file that takes any number, in turn."""


def compare(
    reference: Predictor, candidate: Predictor, images: Sequence[Image], *, matching: Matching | None
) -> Parity:
    """Compare two models on images: the reference answers one at a time, the candidate as many as it takes.

    Args:
        reference: without anything inside.
        candidate: of the same input size and thresholds.
        images: uint8 (H, W, 3) RGB, of any sizes.
        matching: of detectors; None of segmenters.
    """
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    doubts: list[str] = []
    if len({hashlib.sha256(image.tobytes()).digest() for image in images}) < min(len(images), 2):
        doubts.append("all images are the same one")
    if not _final(candidate.manifest):
        _add_raw(raw_outputs(reference, images), raw_outputs(candidate, images), figures, details, doubts)
    pairs = zip(answers(reference, images), answers(candidate, images), strict=True)
    if matching is not None:
        tally = compare_detections(pairs, matching)
    else:
        tally = compare_labels(pairs, candidate.manifest.class_names)
    return Parity(
        images=len(images),
        figures={**figures, **tally.figures},
        details={**details, **tally.details},
        doubts=(*doubts, *tally.doubts) if images else ("there are no images",),
    )


def _final(manifest: Manifest) -> bool:
    return manifest.export is not None and manifest.export.postprocessing


def groups(predictor: Predictor, count: int) -> Iterator[slice]:
    """Cut `count` images into what a model is given at once: all the sizes that it says it takes."""
    export = predictor.manifest.export
    sizes = cycle((1,) if export is None else GROUPS if export.batch is None else (export.batch,))
    start = 0
    while start < count:
        size = next(sizes)
        yield slice(start, start + size)
        start += size


def answers(predictor: Predictor, images: Sequence[Image]) -> list[Any]:
    """Answer images, a DetectionAnswer or a SegmentationAnswer each, with all that the thresholds let by."""
    return [
        answer
        for rows in groups(predictor, len(images))
        for answer in predictor.predict_batch(images[rows], threshold=0.0)
    ]


def raw_outputs(predictor: Predictor, images: Sequence[Image]) -> list[tuple[Tensor, ...]]:
    """Run the network itself and give all its outputs for each image, without the batch's dimension."""
    manifest, export = predictor.manifest, predictor.manifest.export
    found: list[tuple[Tensor, ...]] = []
    for rows in groups(predictor, len(images)):
        inputs = [network_input(manifest, image) for image in images[rows]]
        together = len({each.shape for each in inputs}) == 1
        for part in [inputs] if together else [[each] for each in inputs]:
            fill = [part[-1]] * ((export.batch or 0) - len(part) if export is not None else 0)
            outputs = predictor.engine(torch.cat([*part, *fill]).to(predictor.engine.device))
            found += [tuple(output[row].cpu().float() for output in outputs) for row in range(len(part))]
    return found


def network_input(manifest: Manifest, image: Image) -> Tensor:
    """Make what a model's network takes of an image (H, W, 3): a batch of one, uint8 or normalized."""
    if manifest.export is not None and manifest.export.preprocessing:
        return torch.from_numpy(image)[None]
    fitted = image if manifest.input_hw is None else resize_image(image, manifest.input_hw)
    pixels = torch.from_numpy(np.ascontiguousarray(fitted.transpose(2, 0, 1)))
    return normalize(pixels[None], manifest.mean, manifest.std)


def _add_raw(
    reference: Sequence[tuple[Tensor, ...]],
    candidate: Sequence[tuple[Tensor, ...]],
    figures: dict[str, float],
    details: dict[str, Any],
    doubts: list[str],
) -> None:
    """Compare raw outputs of the same images, one by one."""
    shapes = [
        [[tuple(each.shape) for each in outputs] for outputs in side] for side in (reference, candidate)
    ]
    if shapes[0] != shapes[1]:
        different = next((a, b) for a, b in zip(*shapes, strict=True) if a != b)
        doubts.append(f"raw outputs should have the shapes {different[0]}, but have {different[1]}")
        return
    errors, largest, total, values = [0.0], [0.0], 0.0, 0
    for output, ours in enumerate(zip(*reference, strict=True)):
        theirs = [outputs[output] for outputs in candidate]
        top = torch.stack([each.abs().max() for each in ours]).max()
        if len(ours) > 1 and all(torch.equal(ours[0], each) for each in ours[1:]):
            doubts.append(
                f"PyTorch gives the same for every image in output {output}: the model is not trained"
            )
        gaps = [(a - b).abs().double() for a, b in zip(ours, theirs, strict=True)]
        largest.append(float(torch.stack([each.max() for each in gaps]).max()))  # NaN stays NaN, as it must
        errors.append(largest[-1] / float(top) if top > 0 else np.nan)
        total += float(sum(each.sum() for each in gaps))
        values += sum(each.numel() for each in gaps)
    figures["raw"] = float(np.max(errors))
    details |= {"raw_largest": float(np.max(largest)), "raw_mean": total / max(values, 1)}
