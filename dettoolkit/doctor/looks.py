"""What one image file is: its header, and all of it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from PIL.Image import Image
from PIL.ImageFile import ImageFile

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import check_size, damage, decode, open_header, read_whole
from dettoolkit.datasets.regular_files import open_regular
from dettoolkit.doctor.examination import ListedImage, Progress

Trouble = Literal["missing", "truncated", "not an image", "too large", "not readable"]

ORIENTATION = 0x0112  # EXIF's tag: 1 as stored, 2 to 4 mirrored or upside down, 5 to 8 on its side
THUMBNAIL = 16  # pixels on each side of what near-duplicates are compared by
_REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: cv2.IMREAD_GRAYSCALE,
}  # a JPEG is decoded at these fractions in a part of the time, and is followed to its end all the same


class Look(NamedTuple):
    """What was seen of an image file.

    Attributes:
        trouble: why it cannot be read, or none.
        reason: the same in words.
        hw: size as stored; (0, 0) where that cannot be read.
        orientation: EXIF's, 1 to 8.
        kind: what is lost or uncertain when it becomes RGB with 8 bits: "CMYK", "16 bits per channel".
        digest: of the file's bytes; none where only the header was read.
        thumbnail: gray, THUMBNAIL x THUMBNAIL bytes; none likewise.
        difference: 64 bits, dHash: whether each of 8 x 8 places is darker than its right neighbor.
    """

    trouble: Trouble | None = None
    reason: str = ""
    hw: tuple[int, int] = (0, 0)
    orientation: int = 1
    kind: str = ""
    digest: bytes | None = None
    thumbnail: bytes = b""
    difference: int = 0


def look_at_header(path: Path, max_megapixels: float) -> Look:
    """Read a header; a file that is cut short behind it shows nothing."""
    try:
        with open_regular(path) as file:
            return _described(open_header(file), max_megapixels)
    except FileNotFoundError:
        return Look("missing", "file does not exist")
    except OSError as error:
        return Look("not readable", f"cannot be opened: {error.strerror or error}")
    except BadImageError as error:
        return Look("truncated" if not path.stat().st_size else "not an image", str(error))


def look_at_pixels(path: Path, max_megapixels: float) -> Look:
    """Read a whole file and decode it, small."""
    try:
        data = read_whole(path, max_megapixels=max_megapixels)
    except BadImageError as error:
        return Look(_trouble_with_bytes(path), str(error))
    try:
        header = _described(open_header(io.BytesIO(data)), max_megapixels)
        if header.trouble is not None:
            return header
        flags = _reduction(header.hw) | cv2.IMREAD_IGNORE_ORIENTATION
        gray = decode(data, flags, max_megapixels=max_megapixels)
    except BadImageError as error:
        return Look("not an image", str(error))
    steps = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA)
    thumbnail = cv2.resize(gray, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return header._replace(
        digest=blake2b(data, digest_size=16).digest(),
        thumbnail=thumbnail.tobytes(),
        difference=int.from_bytes(np.packbits(steps[:, :-1] < steps[:, 1:]).tobytes(), "big"),
    )


def look_at(
    images: Sequence[ListedImage], *, deep: bool, workers: int, progress: Progress
) -> Iterator[tuple[ListedImage, Look]]:
    """Look at files in threads, which decoders run in side by side; yield in their order."""
    look = look_at_pixels if deep else look_at_header
    with ThreadPoolExecutor(workers) as pool:
        looks = pool.map(lambda image: look(image.path, image.max_megapixels), images)
        yield from progress(zip(images, looks, strict=True), len(images), "images")


def _described(header: ImageFile, max_megapixels: float) -> Look:
    hw = header.height, header.width
    try:
        check_size(hw, max_megapixels=max_megapixels)
    except BadImageError as error:
        return Look("too large", str(error), hw)
    try:
        # Of PNGs, their own `getexif` decodes all pixels first.
        orientation = int(Image.getexif(header).get(ORIENTATION, 1))
    except Exception:  # whatever a damaged EXIF block leads to: it is read as if there were none
        orientation = 1
    return Look(hw=hw, orientation=orientation if 1 <= orientation <= 8 else 1, kind=_kind(header))


def _kind(header: ImageFile) -> str:
    if header.mode == "CMYK":
        return "CMYK"
    raw = header.tile[0][3] if header.tile else ""  # Pillow's name of the bytes, first of several arguments
    name = str(raw[0] if isinstance(raw, tuple) and raw else raw)
    wide = ";16" in name and header.format != "BMP"  # of BMP those are 16 bits of a whole pixel
    return "16 bits per channel" if wide or header.mode[0] in "IF" else ""


def _trouble_with_bytes(path: Path) -> Trouble:
    try:
        with open_regular(path) as file:
            return "truncated" if damage(file.read()) else "too large"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "not readable"


def _reduction(hw: tuple[int, int]) -> int:
    """Return the flag of the smallest decoding that still has some pixels for each of a thumbnail's."""
    return next(flag for factor, flag in _REDUCED.items() if factor == 1 or min(hw) >= factor * THUMBNAIL * 2)
