"""What a model is called on: a file, its bytes, a Pillow image, an array; folders and patterns of files."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dettoolkit.datasets.data_report import BadImageError, DataReport, Problem, naming
from dettoolkit.datasets.images import ENDINGS, MAX_MEGAPIXELS, check_size, damage, decode, read_whole
from dettoolkit.datasets.regular_files import Walk, natural
from dettoolkit.inference.jobs.video import ENDINGS as VIDEOS

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

WANTED = "a path, the bytes of an image file, a Pillow image or a uint8 array (H, W, 3) RGB"


def read_upright(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> Pixels:
    """Read an image file as RGB uint8 (H, W, 3), turned as its EXIF orientation says: as people see it.

    A BadImageError names the file: missing, no regular one, empty, cut short, not an image, or of more than
    `max_megapixels`.
    """
    with naming(path):
        return _decoded(read_whole(path, max_megapixels=max_megapixels), max_megapixels)


def decode_file(data: bytes, *, max_megapixels: float = MAX_MEGAPIXELS) -> Pixels:
    """Decode the bytes of a whole image file as `read_upright` does; BadImageError has the reason only."""
    if reason := damage(data):
        raise BadImageError(reason)
    return _decoded(data, max_megapixels)


def as_rgb(source: object, *, max_megapixels: float = MAX_MEGAPIXELS) -> tuple[Path | None, Pixels]:
    """Return the path, if there is one, and the pixels, RGB uint8 (H, W, 3), of one image of any kind.

    Gray images get three equal channels; transparency is dropped, not blended. A file, bytes or a Pillow
    image that cannot be read, or has more than `max_megapixels`, raises BadImageError.
    """
    if isinstance(source, str | PathLike):
        path = Path(source).expanduser()
        return path, read_upright(path, max_megapixels=max_megapixels)
    if isinstance(source, bytes):
        with naming("the bytes of an image"):
            return None, decode_file(source, max_megapixels=max_megapixels)
    if isinstance(source, Image.Image):
        check_size((source.height, source.width), max_megapixels=max_megapixels)  # it may not be decoded yet
        return None, _from_pillow(source)
    if isinstance(source, np.ndarray):
        return None, _from_array(source)
    raise TypeError(f"an image is {WANTED}; got {_described(source)}")


def sources_of(source: object) -> Iterable[object] | None:
    """List what a folder, a pattern or a sequence holds, in order; None where `source` is a single image.

    A folder is listed with all below it, as `Walk` does; numbers in names are sorted by value, 2.jpg before
    10.jpg.
    """
    if isinstance(source, str | PathLike):
        if not os.fspath(source):
            raise ValueError("the path is empty; for the current folder use '.'")
        return _files(Path(source).expanduser())
    if isinstance(source, bytes | Image.Image | np.ndarray):
        return None
    if isinstance(source, Iterable) and type(source).__module__.split(".")[0] != "torch":
        return source
    raise TypeError(f"expected {WANTED}, or several of these; got {_described(source)}")


def _files(path: Path) -> list[Path] | None:
    if path.is_dir():
        walk = Walk(path, endings=ENDINGS)
        found = list(map(Path, walk))
        _tell(path, walk.left_out.values())
        if not found:
            raise ValueError(f"{path} contains no images (files ending in {', '.join(ENDINGS)})")
        return found
    if path.suffix.lower() in VIDEOS and path.is_file():
        raise ValueError(
            f"{path} is a video: use `dettoolkit predict`, or pass its frames as RGB arrays to the "
            "predictor's `stream`"
        )
    if path.exists():
        return None
    if not glob.has_magic(str(path)):
        raise FileNotFoundError(f"{path} does not exist: use an image file, a folder or a pattern like *.jpg")
    found, left_out = matching(path)
    _tell(path, left_out)
    if not found:
        raise FileNotFoundError(f"no file matches {path}: ** matches subfolders, * does not")
    return found


def _tell(path: Path, left_out: Iterable[Problem]) -> None:
    problems = DataReport(path)
    problems.record(left_out)
    if problems.counts:
        logger.warning("%s", problems.summary())


def matching(pattern: Path, endings: tuple[str, ...] = ()) -> tuple[list[Path], list[Problem]]:
    """List the regular files that match a pattern, each once, sorted as people do; and what is left out.

    ** goes into folders as `Walk` does. glob would follow every link: with two that lead up it never ends.
    """
    parts = pattern.parts
    deep = parts.index("**") if "**" in parts else len(parts)
    tops = sorted(glob.glob(os.path.join("", *parts[:deep]) or os.curdir), key=natural)
    if deep < len(parts):
        walk = Walk(*(Path(top) for top in tops if os.path.isdir(top)), endings=endings)
        found = [path for path in map(Path, walk) if _matches(path.parts[deep:], parts[deep:])]
        return sorted(found, key=lambda path: natural(path.as_posix())), list(walk.left_out.values())
    once: dict[str, Path] = {}
    left_out = []
    for top in tops:
        if not os.path.isfile(top) or (endings and not top.lower().endswith(endings)):
            continue
        if once.setdefault(real := os.path.realpath(top), path := Path(top)) != path:
            left_out.append(Problem("link to something already listed", None, None, f"{path} -> {real}"))
    return list(once.values()), left_out


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a pattern, of which ** stands for any number."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        rest = pattern[1:] or ("*",)
        return any(_matches(parts[start:], rest) for start in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _decoded(data: bytes, max_megapixels: float) -> Pixels:
    """Decode a file's bytes, which OpenCV turns upright."""
    return np.asarray(decode(data, cv2.IMREAD_COLOR_RGB, max_megapixels=max_megapixels), np.uint8)


def _from_pillow(image: Image.Image) -> Pixels:
    if image.mode[0] in "IF":  # numbers of any range, which Pillow would cut off at 255
        raise ValueError(
            f"a Pillow image of mode '{image.mode}' has more than 8 bits per channel: scale it to 0..255 and "
            "convert('RGB'), or use the file's path"
        )
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)


def _from_array(image: NDArray[Any]) -> Pixels:
    channels = 1 if image.ndim == 2 else image.shape[-1] if image.ndim == 3 else 0
    if image.dtype != np.uint8 or channels not in (1, 3, 4) or not image.size:
        raise ValueError(
            f"an image array must be uint8 (H, W, 3) RGB, or (H, W) gray, or (H, W, 4) with alpha; got "
            f"{image.dtype} {image.shape}: scale to 0..255, move channels last, and pass several images as a "
            "list"
        )
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(image[..., :3])


def _described(source: object) -> str:
    name = f"{type(source).__module__}.{type(source).__qualname__}".removeprefix("builtins.")
    return f"{name} {source!r:.60}" if name in ("int", "float", "bool", "NoneType") else name


def batches(items: Iterable[object], size: int) -> Iterator[list[object]]:
    """Split anything into lists of `size`, the last of which may be shorter, without reading ahead."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
