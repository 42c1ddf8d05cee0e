"""The annotations of one COCO-format json in packed arrays: labels mapped, boxes checked, problems reported.

I images, A annotations (those with a known image, a known category and a finite bbox), K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.coco_json import Columns, read_columns
from dettoolkit.datasets.data_report import REASON_KINDS, DataReport, Reason, clean_boxes
from dettoolkit.datasets.images import header_hw
from dettoolkit.datasets.labels import ClassMap, LabelMap, map_classes
from dettoolkit.datasets.regular_files import PackedStrings

_PART = 65_536  # boxes that are checked at a time, so that a million take no memory
_BBOX = "bbox [{:.10g}, {:.10g}, {:.10g}, {:.10g}]"


@dataclass(frozen=True, eq=False)
class CocoAnnotations:
    """One COCO json, or what stands for one.

    Arrays per annotation are sorted by image, in the file's order within an image.
    """

    path: Path
    images: Path  # the folder of the image files
    class_names: list[str]  # K, index = label
    category_ids: list[int]  # K, label -> the file's category id; for a gap the id itself
    image_ids: NDArray[np.int64]  # (I,) the file's
    image_hw: NDArray[np.int64]  # (I, 2) as the json says, else as the image's header says; 0 unknown
    file_names: PackedStrings  # I of them
    roots: list[str]  # categories that only stand for others, left out; see `load`
    offsets: NDArray[np.int64]  # (I + 1,) annotations of image i are offsets[i]:offsets[i + 1]
    annotation_ids: NDArray[np.int64]  # (A,) the file's, NO_ID where it gives no integer
    boxes_xywh: NDArray[np.float64]  # (A, 4) pixels, as in the file
    labels: NDArray[np.int64]  # (A,) 0-based
    areas: NDArray[np.float64]  # (A,) square pixels
    iscrowd: NDArray[np.bool_]  # (A,)
    usable: NDArray[np.bool_]  # (A,) passes the cleaning rule and is no crowd: trained on
    problems: DataReport

    @classmethod
    def load(
        cls,
        annotations: Path,
        *,
        images: Path,
        label_map: LabelMap,
        keep_roots: Collection[str] | None = (),
    ) -> CocoAnnotations:
        """Read a COCO json, whose file names are relative to `images`; for `label_map` see `map_classes`.

        A root category, which exporters add above the classes (Roboflow, CVAT), has no annotation and is the
        supercategory of others. It is left out, unless its name is among `keep_roots`; None keeps all.

        Raises:
            FileNotFoundError: the json or the folder is not there.
            ValueError: the json is not COCO's format, its categories do not fit, or no annotation is usable.
        """
        if annotations.exists() and not images.is_dir():
            raise FileNotFoundError(
                f"{images}, the image folder of {annotations}, does not exist: "
                "correct data.root or data.*.images"
            )
        return cls.of_columns(
            read_columns(annotations),
            path=annotations,
            images=images,
            label_map=label_map,
            keep_roots=keep_roots,
        )

    @classmethod
    def of_columns(
        cls,
        columns: Columns,
        *,
        path: Path,
        images: Path,
        label_map: LabelMap,
        keep_roots: Collection[str] | None,
    ) -> CocoAnnotations:
        """Make annotations of what `path`, a COCO json or where else boxes come from, says; see `load`."""
        report = DataReport(path, boxes=int(columns.has_bbox.sum()))
        columns = _drop_duplicate_images(columns, report)
        columns, roots = _drop_roots(columns, keep_roots, report)
        classes = map_classes(columns.categories, label_map, path)
        rows, labels, known = _resolve(columns, classes, report)
        order = np.flatnonzero(known)
        order = order[np.argsort(rows[order], kind="stable")]
        rows, labels, iscrowd = rows[order], labels[order], columns.iscrowd[order]
        image_hw = _fill_sizes(columns, images, report)
        return cls(
            path=path,
            images=images,
            class_names=classes.names,
            category_ids=classes.category_ids,
            image_ids=columns.image_ids,
            image_hw=image_hw,
            file_names=columns.file_names,
            roots=roots,
            offsets=np.searchsorted(rows, np.arange(len(columns.image_ids) + 1)),
            annotation_ids=columns.annotation_ids[order],
            boxes_xywh=columns.boxes_xywh[order],
            labels=labels,
            areas=_fill_areas(columns, order, report),
            iscrowd=iscrowd,
            usable=_check_boxes(columns, order, image_hw[rows], report) & ~iscrowd,
            problems=report,
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def image_path(self, index: int) -> Path:
        """Return the path of image `index` (0-based, not its id)."""
        return self.images / self.file_names[index]

    @property
    def rows(self) -> NDArray[np.int64]:
        """(A,) index of the image that each annotation belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def empty(self) -> NDArray[np.bool_]:
        """(I,) whether an image has no box to train on."""
        boxes = np.bincount(self.rows[self.usable], minlength=len(self))
        return np.asarray(boxes == 0)


def _drop_duplicate_images(columns: Columns, report: DataReport) -> Columns:
    _, first = np.unique(columns.image_ids, return_index=True)
    keep = np.sort(first)
    dropped = np.setdiff1d(np.arange(len(columns.image_ids)), keep)
    if not len(dropped):
        return columns
    report.add(
        "duplicate image id",
        template="another image with this id, {}, is dropped",
        values=[[columns.file_names[row]] for row in dropped],
        image_ids=columns.image_ids[dropped],
    )
    return replace(
        columns,
        image_ids=columns.image_ids[keep],
        image_hw=columns.image_hw[keep],
        file_names=PackedStrings.pack(columns.file_names[row] for row in keep),
    )


def _drop_roots(
    columns: Columns, keep: Collection[str] | None, report: DataReport
) -> tuple[Columns, list[str]]:
    """Leave out the root categories; give their names too."""
    if keep is None:
        return columns, []
    above = Counter(each for each in columns.supercategories if isinstance(each, str))
    names = Counter(name for _, name in columns.categories)
    pairs = list(zip(columns.categories, columns.supercategories, strict=True))
    roots = [
        (id_, name)
        for (id_, name), supercategory in pairs
        if above[name] > (supercategory == name) and not (name in keep and names[name] == 1)
    ]
    used = np.isin([id_ for id_, _ in roots], columns.annotation_category_ids).tolist()
    roots = [each for each, has_boxes in zip(roots, used, strict=True) if not has_boxes]
    if not roots or len(roots) == len(pairs):
        return columns, []
    report.add(
        "root category",
        template="category id {}, {!r}, has no annotation and is only the supercategory of others",
        values=roots,
    )
    kept = [(category, above) for category, above in pairs if category not in roots]
    changed = replace(
        columns, categories=[each for each, _ in kept], supercategories=[each for _, each in kept]
    )
    return changed, [name for _, name in roots]


def _resolve(
    columns: Columns, classes: ClassMap, report: DataReport
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Find image and label of every annotation; report and mask out those that cannot be kept.

    Returns, all (A,) in the file's order: image row and label (meaningless where not kept), whether kept.
    """
    by_id = np.argsort(columns.image_ids)
    image, has_image = _find(columns.image_ids[by_id], columns.annotation_image_ids)
    category, has_category = _find(classes.file_ids, columns.annotation_category_ids)
    boxes = columns.boxes_xywh
    with np.errstate(over="ignore", invalid="ignore"):
        ends, areas = boxes[:, :2] + boxes[:, 2:], boxes[:, 2] * boxes[:, 3]
        finite = np.isfinite(np.column_stack([boxes, ends, areas])).all(axis=1)
    kept = np.ones(len(boxes), np.bool_)
    position = np.arange(len(boxes))[:, None]
    id_and_position = np.hstack([columns.annotation_category_ids[:, None], position])
    not_known = "category_id {} is not in categories (annotations[{}])"
    for kind, good, template, values in (
        ("unknown image", has_image, "no image has this id (annotations[{}])", position),
        ("unknown category", has_category, not_known, id_and_position),
        ("no bbox", columns.has_bbox, "bbox is missing or not four numbers (annotations[{}])", position),
        ("non-finite box", finite, _BBOX, boxes),
    ):
        bad = np.flatnonzero(kept & ~good)
        _report(report, kind, columns, bad, template, values[bad])
        kept &= good
    if len(kept) and not kept.any():
        raise ValueError(f"none of the {len(kept)} annotations can be used:\n{report.summary()}")
    return by_id[image], classes.labels[category], kept


def _find(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Look ids up in an ascending, non-empty list: (position, found)."""
    position = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return position, ids[position] == wanted


def _fill_sizes(columns: Columns, images: Path, report: DataReport) -> NDArray[np.int64]:
    """Read from the image headers the sizes that the json leaves out; 0 stays where that fails too."""
    image_hw = columns.image_hw.copy()
    for row in np.flatnonzero((image_hw == 0).any(axis=1)).tolist():
        hw = header_hw(images / columns.file_names[row])
        image_hw[row] = hw or (0, 0)
        report.add(
            "image size read from file" if hw else "image size unknown",
            template="{}: {} x {} (height x width)",
            values=[[columns.file_names[row], *image_hw[row].tolist()]],
            image_ids=columns.image_ids[row : row + 1],
        )
    return image_hw


def _fill_areas(columns: Columns, order: NDArray[np.int64], report: DataReport) -> NDArray[np.float64]:
    boxes, areas = columns.boxes_xywh, columns.areas
    missing = ~np.isfinite(areas)
    with np.errstate(over="ignore", invalid="ignore"):  # in boxes that are not kept
        filled = np.where(missing, boxes[:, 2] * boxes[:, 3], areas)
    bad = order[missing[order]]
    _report(report, "area missing", columns, bad, "taken as {:.10g}", filled[bad, None])
    bad = order[~columns.has_iscrowd[order]]
    _report(report, "iscrowd missing", columns, bad, "taken as 0", np.empty((len(bad), 0)))
    return filled[order]


def _check_boxes(
    columns: Columns, order: NDArray[np.int64], image_hw: NDArray[np.int64], report: DataReport
) -> NDArray[np.bool_]:
    """Apply the cleaning rule to the kept annotations, report, and give which are usable."""
    boxes = columns.boxes_xywh[order]
    if len(boxes) and boxes.max() <= 1 and (boxes % 1).any():
        raise ValueError(
            f"{report.path}: every bbox is within 0..1, so a fraction of the image, but COCO uses pixels: "
            "multiply x and width by the image's width, y and height by its height"
        )
    reasons = np.empty(len(boxes), np.uint8)
    for start in range(0, len(boxes), _PART):
        part = slice(start, start + _PART)
        limits = np.where(image_hw[part] > 0, image_hw[part], np.inf)
        corners = np.hstack([boxes[part, :2], boxes[part, :2] + boxes[part, 2:]])
        reasons[part] = clean_boxes(corners, limits)[1]
    template = _BBOX + " in an image of {:.0f} x {:.0f} (height x width)"
    for reason, kind in REASON_KINDS.items():
        bad = np.flatnonzero(reasons == reason)
        _report(report, kind, columns, order[bad], template, np.hstack([boxes[bad], image_hw[bad]]))
    return reasons <= Reason.CLIPPED


def _report(
    report: DataReport,
    kind: str,
    columns: Columns,
    positions: NDArray[np.int64],
    template: str,
    values: NDArray[Any],
) -> None:
    report.add(
        kind,
        template=template,
        values=values,
        image_ids=columns.annotation_image_ids[positions],
        annotation_ids=columns.annotation_ids[positions],
    )
