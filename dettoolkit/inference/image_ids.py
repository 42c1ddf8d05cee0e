"""The ids, and the sizes, that an annotation file has for images."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.problems import BadImageError
from dettoolkit.inference.sources import Item


class ImageIds:
    """Find images in a COCO file by name: the whole `file_name`, else its last part if only one has it.

    Args:
        path: of a json with the list images (id, file_name, height, width); others of its lists are not used.

    Raises:
        ValueError: another json, or none.
    """

    def __init__(self, path: Path) -> None:
        try:
            images = json.loads(path.read_bytes())["images"]
            self._whole = {str(each["file_name"]): each for each in images}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} is no COCO annotation file, whose list 'images' has id and file_name: {error}"
            ) from None
        self._last: dict[str, dict[str, Any] | None] = {}
        for name, image in self._whole.items():
            last = PurePosixPath(name).name
            self._last[last] = None if last in self._last else image

    def find(self, name: str) -> int | None:
        """Give the id of an image; None when it is not listed."""
        image = self._find(name)
        return None if image is None else image["id"]

    def expect(self, item: Item) -> Item:
        """Let an image file be read as its annotator saw it, turned by EXIF or not, as evaluation does."""
        image = self._find(item.name)
        if image is None or item.path is None or item.video is not None:
            return item
        hw = image.get("height"), image.get("width")
        return replace(item, read=partial(_read, item.path, hw))

    def _find(self, name: str) -> dict[str, Any] | None:
        return self._whole.get(name, self._last.get(PurePosixPath(name).name))


def _read(path: Path, hw: tuple[int | None, int | None]) -> NDArray[np.uint8]:
    height, width = hw
    try:
        return read_image(path, expected_hw=None if not height or not width else (int(height), int(width)))
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}") from None
