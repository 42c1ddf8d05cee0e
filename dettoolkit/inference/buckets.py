"""Images that are not on a disk: object stores and web addresses, through fsspec.

fsspec comes with torch; a store's own package (s3fs, gcsfs, adlfs) is brought by those who have one.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.images import MAX_MEGAPIXELS, damage
from dettoolkit.datasets.problems import BadImageError
from dettoolkit.inference.images import as_rgb


def check(url: str) -> None:
    """See that an address can be read at all; nothing is listed.

    Raises:
        ModuleNotFoundError: the package for this kind of address is not installed.
        ValueError: there is no such kind.
    """
    store, name = _open(url)
    if "file" in store.protocol:
        raise ValueError(f"{url} is on this machine: give its path, {name}")


def find(url: str, endings: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield name and address of each image below an address, in the order of the names.

    Args:
        url: of a folder, or of one file, whatever its ending.
        endings: of the files that are images.

    Raises:
        FileNotFoundError: there is no image.
        ModuleNotFoundError: the package for this kind of address is not installed.
    """
    store, start = _open(url)
    start = start.rstrip("/")
    if store.isfile(start):
        yield start.rpartition("/")[2].partition("?")[0], url
        return
    names = [name for name in sorted(store.find(start)) if name.lower().endswith(endings)]
    if not names:
        raise FileNotFoundError(f"{url} holds no images, that is no files that end in {', '.join(endings)}")
    for name in names:
        yield name.removeprefix(start).lstrip("/"), store.unstrip_protocol(name)


def read(url: str, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.uint8]:
    """Read an image, uint8 (H, W, 3) RGB.

    Raises:
        BadImageError: it cannot be fetched, is no image, or has more than `max_megapixels`.
    """
    store, name = _open(url)
    try:
        return decode_file(store.cat_file(name), max_megapixels=max_megapixels)
    except (OSError, BadImageError) as error:
        raise BadImageError(f"{url}: {error}") from None


def decode_file(data: bytes, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.uint8]:
    """Decode the bytes of a whole image file, upright: uint8 (H, W, 3) RGB.

    Raises:
        BadImageError: empty, cut short, too large or not an image; the text is the reason only.
    """
    reason = damage(data)
    if reason is not None:
        raise BadImageError(reason)
    return as_rgb(data, max_megapixels=max_megapixels)[1]


def _open(url: str) -> tuple[Any, str]:
    try:
        store, name = import_module("fsspec.core").url_to_fs(url)
    except ImportError as error:  # fsspec says which package
        raise ModuleNotFoundError(f"{url} cannot be read without another Python package: {error}") from None
    except ValueError as error:
        raise ValueError(f"{url} cannot be read: {error}") from None
    return store, name
