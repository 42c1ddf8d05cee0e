"""Checks of a recipe's default boxes against the objects: which are too small for it, or lost in matching.

m objects. Boxes are fractions of the image's sides, as the recipe's default boxes are of the input's: both
are stretched alike, so IoU is the same as in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dettoolkit.backbones.tables import strides_of
from dettoolkit.config.recipe import DetectionRecipe
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.box_examples import Floats, corners, example_of, size_of
from dettoolkit.detection.detectors import detector_of
from dettoolkit.detection.matching import Objects as Matched
from dettoolkit.detection.matching import match
from dettoolkit.detection.spec import Level
from dettoolkit.doctor.findings import Finding, Severity, found

LARGER = (1.25, 1.5, 2.0, 2.5, 3.0)
"""Factors of the input's sides that are tried as a cure."""

SCALES = (0.15, 0.1, 0.075, 0.05, 0.035, 0.025)
"""Scales of the first level that are tried."""

MULTIPLE = 32  # of input sides: the stride of C5
CURED = (0.25, 0.5)  # fractions of the cases that may be left: the first that something reaches
IMAGES = 300  # whose objects are matched
SAMPLE = 20_000  # objects on which the cures are tried
PART = 65_536  # boxes that are computed at a time, so that a million take no memory
MANY_SMALL, MANY_LOST, MANY_SHARED = 0.05, 0.6, 0.01
"""Fractions of the objects above which each is a warning. Of COCO's, for which the default boxes were made,
half have none of IoU 0.5 at 320x320."""


Layout = Callable[[Any], Sequence[Level]]
"""The default boxes of a recipe's model section."""


class Objects(NamedTuple):
    """The boxes to train on whose image has a known size."""

    indices: NDArray[np.int64]  # (m,) in the annotations
    rows: NDArray[np.int64]  # (m,) of their images
    boxes_xyxy: Floats  # (m, 4) clipped to the image, fractions of its sides


def check_default_boxes(recipe: DetectionRecipe, annotations: CocoAnnotations) -> Iterator[Finding]:
    """Find objects to train on that are too small, or that matching cannot give a default box."""
    objects = objects_of(annotations)
    if not len(objects.indices):
        return
    layout = layout_of(recipe.model)
    yield from _check_cells(recipe, annotations, objects, layout)
    matcher = getattr(recipe.model, "matcher", None)
    if matcher is not None and matcher.type == "max_iou":  # other assigners have no such threshold
        best = best_iou(layout(recipe.model), objects.boxes_xyxy)
        yield from _check_matches(recipe, annotations, objects, best, layout)
        yield from _check_shared(recipe, annotations, objects, layout)


def objects_of(annotations: CocoAnnotations) -> Objects:
    """Return the objects to train on."""
    known = np.asarray((annotations.image_hw > 0).all(axis=1))
    chosen = np.flatnonzero(annotations.usable & known[annotations.rows])
    rows, boxes = annotations.rows[chosen], corners(annotations, chosen)
    for part in _parts(len(chosen)):
        limits = annotations.image_hw[rows[part]][:, [1, 0, 1, 0]]
        boxes[part] = np.clip(boxes[part], 0, limits) / limits
    return Objects(chosen, rows, boxes)


def layout_of(model: Any) -> Layout:
    """Return what gives the default boxes of a model section with this one's backbone."""
    strides = strides_of(model.backbone.output_stride)
    return lambda changed: detector_of(changed).levels(strides)


def best_iou(levels: Sequence[Level], boxes_xyxy: Floats) -> Floats:
    """Return the IoU (m,) of boxes (m, 4) with the default box that overlaps each most.

    Of a size of default boxes the one whose center is nearest overlaps most, so one cell of each level is
    enough.
    """
    best = np.zeros(len(boxes_xyxy))
    for part in _parts(len(boxes_xyxy)):
        left, top, right, bottom = boxes_xyxy[part].T
        areas = (right - left) * (bottom - top)
        for level in levels:
            rows, columns = level.grid_hw
            x = (np.clip(((left + right) / 2 * columns).astype(int), 0, columns - 1) + 0.5) / columns
            y = (np.clip(((top + bottom) / 2 * rows).astype(int), 0, rows - 1) + 0.5) / rows
            for width, height in level.sizes:
                wide = np.minimum(right, x + width / 2) - np.maximum(left, x - width / 2)
                high = np.minimum(bottom, y + height / 2) - np.maximum(top, y - height / 2)
                shared = np.clip(wide, 0, None) * np.clip(high, 0, None)
                best[part] = np.maximum(best[part], shared / (areas + width * height - shared))
    return best


def _parts(count: int) -> Iterator[slice]:
    """Yield slices of so many boxes that what is computed of them stays small."""
    for start in range(0, count, PART):
        yield slice(start, start + PART)


def smaller_than_cell(levels: Sequence[Level], boxes_xyxy: Floats) -> NDArray[np.bool_]:
    """Return which boxes (m, 4) are narrower and lower than a cell of the finest level."""
    rows, columns = levels[0].grid_hw
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    return np.asarray((sides < [1 / columns, 1 / rows]).all(axis=1))


def _check_cells(
    recipe: DetectionRecipe, annotations: CocoAnnotations, objects: Objects, layout: Layout
) -> Iterator[Finding]:
    model = recipe.model
    levels, total = layout(model), len(objects.indices)
    some = _some(objects.boxes_xyxy)
    small = smaller_than_cell(levels, objects.boxes_xyxy)
    height, width = (
        round(side / cells, 1) for side, cells in zip(model.input_hw, levels[0].grid_hw, strict=True)
    )

    def left(changed: Any) -> float:
        return float(smaller_than_cell(layout(changed), some).mean()) * total

    yield from _cases(
        "object-smaller-than-cell",
        "warning" if small.sum() > MANY_SMALL * total else "note",
        annotations,
        objects.indices[small],
        text=f"{{n}} of {total:,} objects ({small.mean():.1%}) {{n:is|are}} smaller than a cell of the "
        f"finest level, {height:g} x {width:g} pixels, at {_at(model.input_hw)}: hardly anything of them is "
        "seen",
        remedy=lambda: _cure(recipe, _inputs(model), int(small.sum()), left, "would be as small"),
    )


def _check_matches(
    recipe: DetectionRecipe, annotations: CocoAnnotations, objects: Objects, best: Floats, layout: Layout
) -> Iterator[Finding]:
    model: Any = recipe.model
    total = len(objects.indices)
    least, forced = model.matcher.iou_threshold, model.matcher.force_match
    lost = best < least
    only = "learnt from the nearest default box alone, if at all" if forced else "not learnt at all"

    some = _some(objects.boxes_xyxy)

    def left(changed: Any) -> float:
        return float((best_iou(layout(changed), some) < least).mean()) * total

    yield from _cases(
        "object-without-default-box",
        "warning" if not forced or lost.sum() > MANY_LOST * total else "note",
        annotations,
        objects.indices[lost],
        text=f"{{n}} of {total:,} objects ({lost.mean():.1%}) {{n:has|have}} no default box of IoU {least:g} "
        f"at {_at(model.input_hw)} (model.matcher.iou_threshold); {{n:it is|they are}} {only}",
        remedy=lambda: _cure(recipe, _layouts(model), int(lost.sum()), left, "would have none"),
    )


def _check_shared(
    recipe: DetectionRecipe, annotations: CocoAnnotations, objects: Objects, layout: Layout
) -> Iterator[Finding]:
    """Find objects whose only default box another object of the image gets, by matching itself."""
    model: Any = recipe.model
    hw, matcher = model.input_hw, model.matcher
    if not matcher.force_match:
        return
    anchors = default_boxes(layout(model), input_hw=hw)
    bounds = np.flatnonzero(np.diff(objects.rows, prepend=-1, append=-1))  # where an image's objects begin
    chosen = np.unique(np.linspace(0, len(bounds) - 2, min(len(bounds) - 1, IMAGES)).astype(int))
    lost, total = list[NDArray[np.int64]](), 0
    for image in chosen.tolist():
        mine = slice(bounds[image], bounds[image + 1])
        boxes = torch.from_numpy(objects.boxes_xyxy[mine] * [hw[1], hw[0], hw[1], hw[0]])
        batch = Matched(boxes[None].float(), torch.zeros(1, len(boxes), dtype=torch.int64))
        given = match(None, anchors, batch, **matcher.model_dump(exclude={"type"})).matched.numpy()
        lost.append(objects.indices[mine][~np.isin(np.arange(len(boxes)), given)])
        total += len(boxes)
    indices = np.concatenate(lost)
    yield from _cases(
        "object-not-learnt",
        "warning" if len(indices) > MANY_SHARED * total else "note",
        annotations,
        indices,
        text=f"{{n}} of {total:,} objects of {len(chosen):,} images ({len(indices) / total:.1%}) "
        f"{{n:gets|get}} no default box at {_at(hw)} without augmentation, as another object gets the "
        "nearest: not learnt",
        remedy=lambda: "Enlarge model.input_hw, or cut images into parts: more cells keep objects apart.",
    )


def _cases(
    id_: str,
    severity: Severity,
    annotations: CocoAnnotations,
    indices: NDArray[np.int64],
    *,
    text: str,
    remedy: Callable[[], str],
) -> list[Finding]:
    return found(
        id_,
        severity,
        indices.tolist(),
        lambda index: example_of(annotations, index, size_of(annotations, index)),
        split="train",
        text=text,
        remedy=remedy() if len(indices) else "",  # which takes a search
    )


def _some(boxes_xyxy: Floats) -> Floats:
    """Return boxes spread over all, few enough to try many default boxes on."""
    return boxes_xyxy[:: -(-len(boxes_xyxy) // SAMPLE)]


def _cure(
    recipe: DetectionRecipe, tried: Sequence[Any], now: int, left: Callable[[Any], float], rest: str
) -> str:
    """Return with which model few of the cases are left, and its cost; `tried` begins with the cheapest."""
    counts = [left(model) for model in tried]
    good = [at for fraction in CURED for at, count in enumerate(counts) if count <= fraction * now]
    if not good:
        return "No larger input or smaller default boxes that were tried halve that: look at the examples."
    model, count, settings = tried[good[0]], counts[good[0]], []
    if model.input_hw != recipe.model.input_hw:
        settings.append(f"model.input_hw={list(model.input_hw)}")
    if model.anchors != recipe.model.anchors:
        settings.append(f"model.anchors.min_scale={model.anchors.min_scale:g}")
    # Convolutions cost as many multiply-adds as there are pixels; the boxes of a cell stay as many.
    factor = math.prod(model.input_hw) / math.prod(recipe.model.input_hw)
    cost = "at the same cost" if factor == 1 else f"for {factor:.1f} times the multiply-adds"
    return (
        f"With {' '.join(settings)}, {cost}, about {round(count):,} of them {rest}. Large images can also be "
        "cut into parts."
    )


def _inputs(model: Any) -> list[Any]:
    """Return the model at larger inputs."""
    sizes = (
        tuple(round(side * factor / MULTIPLE) * MULTIPLE for side in model.input_hw) for factor in LARGER
    )
    return [model.model_copy(update={"input_hw": size}) for size in dict.fromkeys(sizes)]


def _layouts(model: Any) -> list[Any]:
    """Return the model with smaller default boxes, at its own input and at larger ones."""
    scales = [scale for scale in SCALES if scale < model.anchors.min_scale]
    return [
        each.model_copy(update={"anchors": each.anchors.model_copy(update={"min_scale": scale})})
        for each in (model, *_inputs(model))
        for scale in (model.anchors.min_scale, *scales)
    ]


def _at(hw: tuple[int, int]) -> str:
    return f"{hw[0]}x{hw[1]}"
