"""A manifest behind the last byte of a model file, as a zip archive.

For formats whose own place for notes is missing (ExecuTorch), or is this very one (TensorFlow Lite's metadata
are such an archive). Their runtimes read a file from its beginning and do not see it; `unzip` does.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from dettoolkit.formats import no_manifest
from dettoolkit.manifest import MAX_BYTES, Manifest, ManifestError

ENTRY = "dettoolkit.json"


def read_text(path: Path) -> bytes:
    """Read the JSON of the manifest behind a model file."""
    return read_entry(path, lambda name: name == ENTRY)


def read_entry(path: Path, is_manifest: Callable[[str], bool]) -> bytes:
    """Read the manifest's JSON in a zip archive; `is_manifest` knows its name there."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(each for each in archive.infolist() if is_manifest(each.filename))
            if entry.file_size > MAX_BYTES:  # unpacking stops there, whatever else is packed
                raise ManifestError(
                    f"{path} has a manifest of {entry.file_size} bytes, but the limit is {MAX_BYTES}: "
                    "export it again"
                )
            return archive.read(entry)
    except ManifestError:
        raise
    except Exception as error:  # other bytes than a whole archive's make zipfile raise nearly anything
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the system's own words, with the path
        raise no_manifest(path, f", or it was truncated ({type(error).__name__})") from None


def stamp(path: Path, manifest: Manifest) -> None:
    """Write a manifest behind a model file, in place of one that is there."""
    try:
        with zipfile.ZipFile(path) as archive:
            end = archive.getinfo(ENTRY).header_offset  # of the model: there the archive begins
    except (zipfile.BadZipFile, KeyError):  # there is none of ours
        pass
    else:
        with path.open("r+b") as file:
            file.truncate(end)
    with zipfile.ZipFile(path, "a") as archive:
        # A ZipInfo of its own carries no time, so the same model gives the same bytes.
        archive.writestr(zipfile.ZipInfo(ENTRY), manifest.to_json())
