"""What a model is called on: a file, its bytes, a Pillow image, an array; folders and patterns of files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dettoolkit.datasets.images import ENDINGS, damage, decode, read_whole
from dettoolkit.datasets.problems import BadImageError
from dettoolkit.inference.video import ENDINGS as VIDEOS

Pixels = NDArray[np.uint8]

WANTED = "a path, the bytes of an image file, a Pillow image or a uint8 array (H, W, 3) RGB"


def read_upright(path: Path) -> Pixels:
    """Read an image file as RGB uint8 (H, W, 3), turned as its EXIF orientation says: as people see it.

    Raises:
        BadImageError: missing, empty, cut short or not an image; the message names the file.
    """
    try:
        return _decoded(read_whole(path))
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}") from None


def as_rgb(source: object) -> tuple[Path | None, Pixels]:
    """Give the path, if there is one, and the pixels, RGB uint8 (H, W, 3), of one image of any kind.

    Grey images get three equal channels; transparency is dropped, not blended.

    Raises:
        BadImageError: a file, or bytes, that cannot be read as an image.
        TypeError: neither of what this takes.
        ValueError: an array of another shape or type.
    """
    if isinstance(source, str | PathLike):
        path = Path(source).expanduser()
        return path, read_upright(path)
    if isinstance(source, bytes):
        reason = damage(source)
        if reason is not None:
            raise BadImageError(f"the bytes of an image: {reason}")
        return None, _decoded(source)
    if isinstance(source, Image.Image):
        return None, _from_pillow(source)
    if isinstance(source, np.ndarray):
        return None, _from_array(source)
    raise TypeError(f"an image is {WANTED}; got {_described(source)}")


def sources_of(source: object) -> Iterable[object] | None:
    """List what a folder, a pattern or a sequence holds, in order; None where `source` is a single image.

    A folder is listed with all below it, hidden files left out; numbers in names are sorted by value, 2.jpg
    before 10.jpg.

    Raises:
        FileNotFoundError: no such file or folder, or a pattern that nothing matches.
        ValueError: a folder without images.
        TypeError: nothing that an image could be taken from.
    """
    if isinstance(source, str | PathLike):
        if not os.fspath(source):
            raise ValueError("an empty path names nothing, not even the folder where you are: that is '.'")
        return _files(Path(source).expanduser())
    if isinstance(source, bytes | Image.Image | np.ndarray):
        return None
    if isinstance(source, Iterable) and type(source).__module__.split(".")[0] != "torch":
        return source
    raise TypeError(f"wanted {WANTED}, or several of these; got {_described(source)}")


def _files(path: Path) -> list[Path] | None:
    if path.is_dir():
        found = list(files_below(path, ENDINGS))
        if not found:
            raise ValueError(f"{path} holds no images, that is no files that end in {', '.join(ENDINGS)}")
        return found
    if path.suffix.lower() in VIDEOS and path.is_file():
        raise ValueError(
            f"{path} is a video: predict on it by the command `dettoolkit predict`, or give its frames, RGB "
            "arrays, to the predictor's `stream`"
        )
    if path.exists():
        return None
    if not glob.has_magic(str(path)):
        raise FileNotFoundError(
            f"{path} does not exist: give an image file, a folder or a pattern like *.jpg"
        )
    matching = [Path(name) for name in glob.iglob(str(path), recursive=True) if Path(name).is_file()]
    if not matching:
        raise FileNotFoundError(f"no file matches {path}: ** goes into folders, * does not")
    return sorted(matching, key=natural)


def files_below(
    folder: Path, endings: tuple[str, ...], *, skip: Path | None = None, above: tuple[Path, ...] = ()
) -> Iterator[Path]:
    """Yield the files of a folder and of all below it, in order, reading one folder after the other.

    Args:
        folder: hidden files and folders in it, whose names begin with a dot, are left out.
        endings: in small letters, of the files that are wanted.
        skip: a resolved path of a folder that is left out.
        above: resolved paths of the folders that it is in: a link to one of them is not followed for ever.
    """
    resolved = folder.resolve()
    if resolved == skip or resolved in above:
        return
    with os.scandir(folder) as entries:
        found = sorted(
            ((natural(Path(each.name)), each) for each in entries if not each.name.startswith(".")),
            key=lambda pair: pair[0],
        )
    for _, entry in found:
        if entry.is_dir():
            yield from files_below(Path(entry.path), endings, skip=skip, above=(*above, resolved))
        elif entry.name.lower().endswith(endings) and entry.is_file():
            yield Path(entry.path)


def natural(path: Path) -> list[tuple[bool, int, str]]:
    """Give the key by which paths are sorted as people do: numbers by their value."""
    return [
        (not part.isdecimal(), int(part) if part.isdecimal() else 0, part)
        for part in re.split(r"(\d+)", path.as_posix())
    ]


def _decoded(data: bytes) -> Pixels:
    """Decode a file's bytes, which OpenCV turns upright."""
    return np.asarray(decode(data, cv2.IMREAD_COLOR_RGB), np.uint8)


def _from_pillow(image: Image.Image) -> Pixels:
    if image.mode[0] in "IF":  # numbers of any range, which Pillow would cut off at 255
        raise ValueError(
            f"a Pillow image of mode '{image.mode}' has more than 8 bits a channel: scale it to 0..255 and "
            "convert('RGB'), or give the file's path"
        )
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)


def _from_array(image: NDArray[Any]) -> Pixels:
    channels = 1 if image.ndim == 2 else image.shape[-1] if image.ndim == 3 else 0
    if image.dtype != np.uint8 or channels not in (1, 3, 4) or not image.size:
        raise ValueError(
            f"an image array must be uint8 (H, W, 3) RGB, or (H, W) grey, or (H, W, 4) with alpha; got "
            f"{image.dtype} {image.shape}: scale to 0..255, move channels last, and give several images as a "
            "list"
        )
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(image[..., :3])


def _described(source: object) -> str:
    name = f"{type(source).__module__}.{type(source).__qualname__}".removeprefix("builtins.")
    return f"{name} {source!r:.60}" if name in ("int", "float", "bool", "NoneType") else name


def batches(items: Iterable[object], size: int) -> Iterator[list[object]]:
    """Break anything into lists of `size`, the last of which may be shorter, without reading ahead."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
