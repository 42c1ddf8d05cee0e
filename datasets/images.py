"""Reading image files as RGB: damaged ones told apart, large ones refused; and the ways to fit them."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.regular_files import open_regular

RAW = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
"""8-bit RGB, pixels as stored: COCO's boxes are measured without EXIF rotation (as is PIL's default)."""

REDUCED: dict[int, int] = {n: getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{n}") for n in (2, 4, 8)}
"""Flags beside RAW that make a JPEG's sides 2, 4 or 8 times shorter; RAW says that it is no gray one."""

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""In small letters, of the files that count as images where a folder is given."""

MAX_MEGAPIXELS = 100.0
"""Default of the largest image that is decoded: 0.3 GB as RGB, and up to 1 GB on the way there."""

MEGAPIXELS_LIMIT = 1000.0
"""What that may be raised to; OpenCV decodes no more than 2^30 pixels."""

MAX_ASPECT = 8
"""Of an image that is resized by its shorter side; the ends of longer ones are cut off before."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")  # both libraries read
_BYTES_PER_PIXEL = 16  # of a file at most, uncompressed
# The next JPEG marker within scan data: FF that is not stuffed (FF00), a restart (FFD0-D7) or fill (FFFF);
# ITU-T T.81, B.1.1.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def read_image(
    path: Path, *, expected_hw: tuple[int, int] | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> NDArray[np.uint8]:
    """Read an image as RGB uint8 (H, W, 3), whatever its kind (gray, palette, CMYK, alpha, 16-bit).

    Pixels come as stored, except when only the picture turned by its EXIF orientation has `expected_hw`, the
    size that the annotations were made for: then the annotator saw it turned. A file that is no readable
    image raises BadImageError, whose text is the reason only.
    """
    return read_reduced(path, least_hw=None, expected_hw=expected_hw, max_megapixels=max_megapixels).image


class Reduced(NamedTuple):
    """An image that may be smaller than its file."""

    image: NDArray[np.uint8]  # (h, w, 3) RGB
    hw: tuple[int, int]  # of the file
    scale_xy: tuple[float, float] = (1.0, 1.0)  # of a place in the image, relative to that in the file


def read_reduced(
    path: Path,
    *,
    least_hw: tuple[int, int] | None,
    expected_hw: tuple[int, int] | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Reduced:
    """Read an image as `read_image` does; with `least_hw`, a JPEG as small as can be with no side below it.

    A JPEG's blocks of 8x8 pixels are stored as frequencies: leaving the high ones out is less work than to
    decode all of them and to shrink the result, and leaves no aliasing.
    """
    data = read_whole(path, max_megapixels=max_megapixels)
    if least_hw is not None and data.startswith(b"\xff\xd8"):
        header = header_of(data, max_megapixels=max_megapixels)
        hw = header.height, header.width
        fits = [each for each in REDUCED if hw[0] >= each * least_hw[0] and hw[1] >= each * least_hw[1]]
        if fits and not is_turned(hw, expected_hw):
            image = decode(data, RAW | REDUCED[fits[-1]], max_megapixels=max_megapixels)
            # Where the factor does not divide a side, the last pixel is of fewer, and no place is moved.
            return Reduced(image, hw, (1 / fits[-1], 1 / fits[-1]))
    return decode_whole(data, expected_hw, max_megapixels=max_megapixels)


def decode_whole(data: bytes, expected_hw: tuple[int, int] | None, *, max_megapixels: float) -> Reduced:
    """Decode the bytes of an image as `read_image` reads it."""
    image = decode(data, RAW, max_megapixels=max_megapixels)
    if is_turned((image.shape[0], image.shape[1]), expected_hw):
        turned = decode(data, cv2.IMREAD_COLOR_RGB, max_megapixels=max_megapixels)
        image = turned if turned.shape[:2] == expected_hw else image
    return Reduced(image, (image.shape[0], image.shape[1]))


def is_turned(hw: tuple[int, int], expected_hw: tuple[int, int] | None) -> bool:
    """Return whether annotations may be of an image of `hw` as its EXIF orientation turns it."""
    return expected_hw is not None and hw == expected_hw[::-1] != expected_hw


def read_whole(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> bytes:
    """Read the bytes of an image file that is all there; raise BadImageError as read_image."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _BYTES_PER_PIXEL * max_megapixels * 1e6:
                raise BadImageError(f"file has {size / 1e6:.0f} MB, {_beyond(max_megapixels)}")
            data = file.read()
    except FileNotFoundError:
        raise BadImageError("file does not exist") from None
    except OSError as error:
        raise BadImageError(f"cannot be opened: {error.strerror or error}") from None
    if reason := damage(data):
        raise BadImageError(reason)
    return data


def resize_image(image: NDArray[np.uint8], input_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize `image` (H, W, 3) to `input_hw`: bilinear, half-pixel centers, no antialias.

    The one resize of training, evaluation and prediction. Equals torch's `interpolate(mode="bilinear",
    align_corners=False)` up to rounding; the result (h, w, 3) is contiguous.
    """
    return np.asarray(cv2.resize(np.ascontiguousarray(image), input_hw[::-1]))  # bilinear is its default


def resize_labels(labels: NDArray[np.uint8], input_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a label map (H, W) to `input_hw`: the pixels nearest to where `resize_image` samples.

    So labels stay on their picture; OpenCV's INTER_NEAREST is shifted by up to half a pixel.
    """
    rows, columns = (
        nearest_pixels(0, scaled, side=side, scaled=scaled)
        for side, scaled in zip(labels.shape, input_hw, strict=True)
    )
    return np.asarray(labels[rows].take(columns, axis=1))


def nearest_pixels(start: int, stop: int, *, side: int, scaled: int) -> NDArray[np.intp]:
    """Return which of `side` pixels is nearest to each from `start` to `stop` of `scaled` ones.

    Centers are half a pixel from a pixel's edge, as for `resize_image`.
    """
    return ((np.arange(start, stop) + 0.5) * side / scaled).astype(np.intp)


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise ValueError unless an image is uint8 (H, W, 3)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"image must be uint8 (H, W, 3), got {image.dtype} {image.shape}: decode it to 8-bit RGB first"
        )


def crop_center(
    image: NDArray[np.uint8], input_hw: tuple[int, int], *, short_side: int, antialias: bool
) -> NDArray[np.uint8]:
    """Resize `image` (H, W, 3) by its shorter side and crop the center (h, w, 3), as torchvision does."""
    import torch  # late, as torchvision takes long to load and only classifiers crop
    from torchvision.transforms.v2 import functional

    check_image(image)
    writable = np.require(image, requirements="W")  # a copy of what may only be read
    pixels = torch.from_numpy(writable).permute(2, 0, 1)
    height, width = image.shape[:2]
    longest = MAX_ASPECT * min(height, width)
    if max(height, width) > longest:  # a strip would become large before its ends are cut off
        pixels = functional.center_crop(pixels, [min(height, longest), min(width, longest)])
    resized = functional.resize(pixels, [short_side], antialias=antialias)
    cropped: Any = functional.center_crop(resized, list(input_hw))
    return np.asarray(cropped.permute(1, 2, 0))


def header_hw(path: Path) -> tuple[int, int] | None:
    """Read (height, width) from an image's header without decoding it; None when that fails."""
    try:
        with open_regular(path) as file:
            image = open_header(file)
            return image.height, image.width
    except (OSError, BadImageError):
        return None


def open_header(file: BinaryIO) -> ImageFile.ImageFile:
    """Read the header of an image file; its pixels are decoded when they are asked for.

    Pillow's plugins are called directly: its `Image.open` refuses by a limit that one process has one of.
    Raises BadImageError for what is no image or has a damaged header.
    """
    start = file.read(16)
    for name in _FORMATS:
        if name not in Image.OPEN:
            Image.init()
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is None or accepts is None or accepts(start) is not True:
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except Exception:  # whatever a wrong number in a header leads to
            break
    raise BadImageError(f"cannot be decoded: not an image, or damaged (starts with {start!r})")


def header_of(data: bytes, *, max_megapixels: float) -> ImageFile.ImageFile:
    """Read the header of an image that is small enough to be decoded, or raise BadImageError."""
    image = open_header(io.BytesIO(data))
    check_size((image.height, image.width), max_megapixels=max_megapixels)
    return image


def check_size(hw: tuple[int, int], *, max_megapixels: float) -> None:
    """Raise BadImageError for an image of more than `max_megapixels`."""
    megapixels = hw[0] * hw[1] / 1e6
    if megapixels > max_megapixels:
        raise BadImageError(
            f"image has {megapixels:.1f} megapixels ({hw[0]} x {hw[1]}, height x width), "
            f"{_beyond(max_megapixels)}"
        )


def _beyond(max_megapixels: float) -> str:
    return (
        f"more than the limit of {max_megapixels:g} megapixels allows: raise it with data.max_megapixels in "
        "a recipe, --max-megapixels in predict, or max_megapixels in Python"
    )


def damage(data: bytes) -> str | None:
    """Return why these bytes are not a whole image file, or None.

    JPEG and PNG are followed to their end marker, after which anything may come: decoders fill what is
    missing with gray and accept a tail of zeros, as interrupted copies leave. Others are left to the decoder.
    """
    if not data:
        return "file is empty"
    if data.startswith(b"\xff\xd8"):
        # An end marker in the last bytes settles it: a file cut just there, after its thumbnail, has no
        # scan data and cannot be decoded at all.
        whole = b"\xff\xd9" in data[-16:] or _jpeg_has_end(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        whole = _png_has_end(data)
    else:
        return None
    return None if whole else f"file is truncated or damaged ({len(data)} bytes, no end-of-image marker)"


def decode(data: bytes, flags: int, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[Any]:
    """Decode an image with OpenCV's flags; raise BadImageError with the reason where that fails."""
    header_of(data, max_megapixels=max_megapixels)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # for example a side beyond OpenCV's limit
        raise BadImageError(f"cannot be decoded: {str(error).strip()}") from None
    if image is None:
        raise BadImageError(f"cannot be decoded: not an image, or damaged (starts with {data[:16]!r})")
    return np.asarray(image)


def _jpeg_has_end(data: bytes) -> bool:
    """Follow the segments (each with its length, so that thumbnails are stepped over) to the end marker."""
    position = 2
    while position + 4 <= len(data) or data[position : position + 2] == b"\xff\xd9":
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0xFF:  # fill bytes are allowed before a marker
            position += 1
            continue
        if marker == 0xD9:
            return True
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:  # start of scan: compressed data follows up to the next marker
            found = _MARKER.search(data, position)
            if found is None:
                return False
            position = found.start()
    return False


def _png_has_end(data: bytes) -> bool:
    position = 8
    while position + 12 <= len(data):  # length, type, data, checksum
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return False


def encode_image(image: Image.Image, *, format: str, **options: Any) -> bytes:
    """Return the bytes of an image file: Pillow, given a path, does not notice that the disk becomes full."""
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()
