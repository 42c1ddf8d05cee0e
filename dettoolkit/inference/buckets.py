"""Images that are not on a disk: object stores and web addresses, through fsspec.

A store's own package (s3fs, gcsfs, adlfs) is brought by those who have one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fsspec.core import url_to_fs

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import MAX_MEGAPIXELS
from dettoolkit.inference.inputs import Pixels, decode_file


def check(url: str) -> None:
    """Check that an address is of a kind that can be read here; nothing is listed."""
    store, name = _open(url)
    if "file" in store.protocol:
        raise ValueError(f"{url} is a local file: use its path, {name}")


def find(url: str, endings: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield name and address of each image below an address, in the order of the names.

    The address is that of a folder, or of one file, whatever its ending; OSError where it cannot be fetched.
    """
    store, start = _open(url)
    start = start.rstrip("/")
    try:
        alone = store.isfile(start)
        names = (
            [] if alone else [each for each in sorted(store.find(start)) if each.lower().endswith(endings)]
        )
        if not alone and not names:
            _look(store, start)
    except Exception as error:  # each store has errors of its own
        raise OSError(f"{url} cannot be downloaded: {str(error) or type(error).__name__}") from error
    if alone:
        yield start.rpartition("/")[2].partition("?")[0], url
    elif not names:
        raise FileNotFoundError(f"{url} contains no images (files ending in {', '.join(endings)})")
    for name in names:
        yield name.removeprefix(start).lstrip("/"), store.unstrip_protocol(name)


def _look(store: Any, name: str) -> None:
    """Raise what is behind an empty listing: over http a refused connection and no such page look so too."""
    try:
        store.info(name)
    except FileNotFoundError as error:
        if error.__cause__ is not None:
            raise error.__cause__ from None


def read(url: str, *, max_megapixels: float = MAX_MEGAPIXELS) -> Pixels:
    """Read an image, uint8 (H, W, 3) RGB, of `max_megapixels` at most; BadImageError says why not."""
    store, name = _open(url)
    try:
        return decode_file(store.cat_file(name), max_megapixels=max_megapixels)
    except BadImageError as error:
        raise BadImageError(f"{url}: {error}") from None
    except FileNotFoundError:
        raise BadImageError(f"{url}: file does not exist") from None
    except Exception as error:  # each store has errors of its own
        raise BadImageError(f"{url}: cannot be downloaded: {str(error) or type(error).__name__}") from None


def _open(url: str) -> tuple[Any, str]:
    try:
        store, name = url_to_fs(url)
    except ImportError as error:  # fsspec says which package
        raise ModuleNotFoundError(f"{url} cannot be read without another Python package: {error}") from None
    except ValueError as error:
        raise ValueError(f"{url} cannot be read: {error}") from None
    return store, name
