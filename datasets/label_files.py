"""Reading label PNGs: the values as stored, never colors, and the labels they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import MAX_MEGAPIXELS, decode, header_of, read_whole
from dettoolkit.datasets.label_classes import UNKNOWN, LabelClasses, LabelError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Color types of a PNG's header (PNG specification, 11.2.2).
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_MOST_NAMED = 10


def read_labels(
    path: Path, classes: LabelClasses, *, max_megapixels: float = MAX_MEGAPIXELS
) -> NDArray[np.uint8]:
    """Read a label file as labels (H, W), 0 to K - 1 and VOID.

    Raises:
        BadImageError: the file is missing, damaged, too large or no PNG; the text is the reason only.
        LabelError: a value is neither a class nor ignored, or the picture has colors; names the file.
    """
    values = read_values(path, max_megapixels=max_megapixels)
    if values.dtype == np.uint8:
        labels = np.asarray(cv2.LUT(values, classes.lookup[:256]), np.uint8)
    else:
        labels = classes.lookup[values]
    if (labels == UNKNOWN).any():
        raise LabelError(_unknown_values(path, values[labels == UNKNOWN], classes))
    return labels


def read_instances(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.int32]:
    """Read `*_instanceIds.png` (H, W): a pixel is 1000 x label id + number, or the label id alone.

    Raises:
        BadImageError, LabelError: as read_labels.
    """
    return read_values(path, max_megapixels=max_megapixels).astype(np.int32)


def read_values(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[Any]:
    """Read a one-channel PNG's values as they are stored: uint8 or uint16 (H, W).

    Gray of any depth, and the indices of a palette (OpenCV would give the palette's colors).
    """
    data = read_whole(path, max_megapixels=max_megapixels)
    if not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR":
        raise BadImageError(f"is not a PNG, as label files have to be (starts with {data[:16]!r})")
    depth, color_type = data[24], data[25]
    if color_type in (_RGB, _RGB_ALPHA):
        raise LabelError(
            f"{path} is a color picture; wanted a PNG whose values are class ids: one channel of 8 or 16 "
            "bits, or a palette whose indices are the ids. Convert the colors to ids and name that file"
        )
    if color_type == _PALETTE:
        return _palette_indices(data, max_megapixels=max_megapixels)
    values = decode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, max_megapixels=max_megapixels)
    if depth < 8:  # decoders stretch 1, 2 and 4 bits to 0-255
        values = values // np.uint8(255 // (2**depth - 1))
    return values


def _palette_indices(data: bytes, *, max_megapixels: float) -> NDArray[np.uint8]:
    image = header_of(data, max_megapixels=max_megapixels)
    try:
        return np.asarray(image, np.uint8)
    except (OSError, ValueError, SyntaxError):  # texts that name a place in memory, new at each reading
        raise BadImageError("cannot be decoded: not an image, or damaged") from None


def _unknown_values(path: Path, unknown: NDArray[Any], classes: LabelClasses) -> str:
    values, counts = np.unique(unknown, return_counts=True)
    pairs = zip(values.tolist()[:_MOST_NAMED], counts.tolist(), strict=False)
    listing = ", ".join(f"{value} ({count} pixels)" for value, count in pairs)
    more = f" and {len(values) - _MOST_NAMED} more" if len(values) > _MOST_NAMED else ""
    return (
        f"{path} has values that are neither a class nor ignored: {listing}{more}; known are "
        f"{classes.known_text()}. Add them to data.ignore, or give them a class in data.classes"
    )
