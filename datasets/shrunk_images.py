"""Large images, kept as small as training uses them: a folder of JPEGs, named by what they were made of."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.images import RAW, Reduced, decode, decode_whole, header_of, is_turned, read_whole

logger = logging.getLogger(__name__)

VERSION = 1  # rises when the same image would be kept otherwise
QUALITY = 95
_JPEG = (
    cv2.IMWRITE_JPEG_QUALITY,
    QUALITY,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)
BYTES_PER_PIXEL = 0.75  # of such a file of a detailed photo; for the estimate of the space that is needed
WORTH = 1.5  # times the pixels of the small image, from which a large one is kept


class ShrunkImages:
    """Images with sides of at least `least_hw`, or their own, from a folder that fills as they are read.

    A file there is named by the bytes of the image file and by `least_hw`, so that a changed image is a new
    one, and moving a data set changes nothing. Several processes may fill it at once.
    """

    def __init__(self, folder: Path, *, least_hw: tuple[int, int]) -> None:
        self.folder, self.least_hw = folder.expanduser(), least_hw
        self._writes = True  # until the disk is full

    def read(
        self, path: Path, *, expected_hw: tuple[int, int] | None = None, max_megapixels: float
    ) -> Reduced:
        """Read an image as `read_image` does, but smaller; a BadImageError has the reason only."""
        data = read_whole(path, max_megapixels=max_megapixels)
        header = header_of(data, max_megapixels=max_megapixels)
        hw = header.height, header.width
        small_hw = self._small(hw)
        if is_turned(hw, expected_hw) or hw[0] * hw[1] < WORTH * small_hw[0] * small_hw[1]:
            return decode_whole(data, expected_hw, max_megapixels=max_megapixels)
        kept = self._place(data)
        scale_xy = small_hw[1] / hw[1], small_hw[0] / hw[0]
        if (found := _opened(kept, small_hw)) is not None:
            return Reduced(found, hw, scale_xy)
        whole = decode(data, RAW, max_megapixels=max_megapixels)
        small = cv2.resize(whole, small_hw[::-1], interpolation=cv2.INTER_AREA)
        encoded = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), _JPEG)[1].tobytes()
        self._keep(kept, encoded)
        return Reduced(decode(encoded, RAW), hw, scale_xy)  # the first epoch sees what the others will

    def check_space(self, sizes: NDArray[np.int64]) -> None:
        """Raise ValueError unless the disk has room for images of these sizes (n, 2): heights and widths.

        Sizes of 0 are unknown. What is there already is not subtracted.
        """
        needed = 0.0
        for height, width in np.unique(sizes, axis=0).tolist():
            small_hw = self._small((height, width))
            if height * width >= WORTH * small_hw[0] * small_hw[1] > 0:
                count = int((sizes == (height, width)).all(axis=1).sum())
                needed += count * small_hw[0] * small_hw[1] * BYTES_PER_PIXEL
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"data.cache: {self.folder} cannot be made: {error.strerror}") from None
        free, used = shutil.disk_usage(self.folder).free, self._used() if needed else 0
        if needed - used > free:
            raise ValueError(
                f"data.cache={self.folder} needs about {needed / 1e9:.1f} GB, but its disk has "
                f"{free / 1e9:.1f} GB free: choose a folder on another disk, or set data.cache=null"
            )

    def _used(self) -> int:
        return sum(each.stat().st_size for each in self.folder.glob("*/*.jpg"))

    def _small(self, hw: tuple[int, int]) -> tuple[int, int]:
        """Return the smallest size of an image of `hw` that is not below `least_hw`, unless the image is."""
        if 0 in hw:
            return (0, 0)
        scale = min(1.0, max(least / side for least, side in zip(self.least_hw, hw, strict=True)))
        return math.ceil(hw[0] * scale), math.ceil(hw[1] * scale)

    def _place(self, data: bytes) -> Path:
        height, width = self.least_hw
        key = f"{VERSION} {height}x{width}".encode()
        name = hashlib.blake2b(data, digest_size=20, key=key).hexdigest()
        return self.folder / name[:2] / f"{name}.jpg"

    def _keep(self, path: Path, encoded: bytes) -> None:
        """Write a file that is there as a whole or not at all."""
        if not self._writes:
            return
        partial = path.with_suffix(f".{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(encoded)
            os.replace(partial, path)
        except OSError as error:
            self._writes = False
            with suppress(OSError):
                partial.unlink()
            logger.warning(
                "data.cache: %s cannot be written (%s): training goes on without keeping more images",
                path,
                error.strerror,
            )


def _opened(path: Path, hw: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Read a kept image; None if it is not there, or not whole."""
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), RAW)
    except (OSError, cv2.error):
        return None
    return None if image is None or image.shape[:2] != hw else np.asarray(image, np.uint8)
