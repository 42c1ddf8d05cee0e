"""The ids, and the sizes, that an annotation file has for images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dettoolkit.datasets.images import MAX_MEGAPIXELS
from dettoolkit.datasets.regular_files import open_regular
from dettoolkit.inference.jobs.sources import Item
from dettoolkit.run import ImageFile


class ImageIds:
    """Find images of a COCO file by name: the whole `file_name`, else its last part if only one has it."""

    def __init__(self, path: Path) -> None:
        try:
            with open_regular(path) as file:
                images = json.load(file)["images"]
            self._whole = {str(each["file_name"]): _Image.of(each) for each in images}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} is not a COCO annotation file with a list 'images' of id and file_name: {error}"
            ) from None
        lasts = Counter(PurePosixPath(name).name for name in self._whole)
        self._last = {
            last: image for name, image in self._whole.items() if lasts[last := PurePosixPath(name).name] == 1
        }

    def find(self, name: str) -> int | None:
        """Return the id of an image; None when it is not listed."""
        return None if (image := self._find(name)) is None else image.id

    def expect(self, item: Item, *, max_megapixels: float = MAX_MEGAPIXELS) -> Item:
        """Return an item that is read as its annotator saw it, turned by EXIF or not, as evaluation does."""
        image = self._find(item.name)
        if image is None or item.path is None or item.video is not None:
            return item
        return replace(item, read=ImageFile(item.path, image.hw, max_megapixels).read)

    def _find(self, name: str) -> _Image | None:
        return self._whole.get(name, self._last.get(PurePosixPath(name).name))


class _Image(NamedTuple):
    id: int
    hw: tuple[int, int] | None  # None where the file gives no usable size

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> _Image:
        if not isinstance(record["id"], int):
            raise ValueError(f"the id of {record['file_name']} is {record['id']!r}, expected an integer")
        sides = [record.get("height", 0), record.get("width", 0)]
        usable = all(isinstance(side, int | float) and 1 <= side < 2**31 for side in sides)
        return cls(record["id"], (int(sides[0]), int(sides[1])) if usable else None)
