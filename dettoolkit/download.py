"""Fetch COCO 2017: resumable, checked by md5, and laid out as the recipes expect it.

    DIR/train2017/*.jpg   DIR/val2017/*.jpg   DIR/annotations/*.json

Whatever stops a run (Ctrl-C, a broken line, a full disk), the same command goes on from there: a transfer
collects in `<zip>.part`, an unpacking in `.unpacking-<folder>`, and each gets its real name when it is whole.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from dettoolkit.transfer import DownloadError, fetch, md5_of, progress, size_of

BASE_URL = "http://images.cocodataset.org"


@dataclass(frozen=True)
class Archive:
    """A zip of the data set; everything in it lies in one folder of the same name as the split."""

    folder: str
    path: str  # of the address, below the base
    md5: str
    zip_bytes: int  # this and the next are rounded up, for the check of the disk only
    unpacked_bytes: int
    pattern: str  # a folder with this many such files is complete
    files: int

    @property
    def zip_name(self) -> str:
        """Return the file name of the zip."""
        return PurePosixPath(self.path).name


# Addresses: https://cocodataset.org/#download. Small ones first, so that a wrong set-up shows early. Of the
# six annotation files only the two for detection count.
COCO_2017 = (
    Archive("annotations", "annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c",
            zip_bytes=260_000_000, unpacked_bytes=900_000_000, pattern="instances_*2017.json", files=2),
    Archive("val2017", "zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80",
            zip_bytes=1_000_000_000, unpacked_bytes=1_000_000_000, pattern="*.jpg", files=5_000),
    Archive("train2017", "zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2",
            zip_bytes=19_500_000_000, unpacked_bytes=20_000_000_000, pattern="*.jpg", files=118_287),
)  # fmt: skip


def download_coco(
    root: Path,
    *,
    splits: Sequence[str] | None = None,
    base_url: str = BASE_URL,
    keep_zips: bool = False,
    archives: Sequence[Archive] = COCO_2017,
) -> None:
    """Fetch and unpack `splits` (all when None) below `root`; complete folders stay as they are."""
    known = [archive.folder for archive in archives]
    if unknown := sorted(set(splits or ()) - set(known)):
        raise ValueError(f"unknown splits {unknown}; choose from {known}")
    root.mkdir(parents=True, exist_ok=True)
    missing = []
    for archive in archives:
        if splits is None or archive.folder in splits:
            if _is_complete(root, archive):
                tqdm.write(f"{root / archive.folder}: already complete")
            else:
                missing.append(archive)
    _check_disk(root, missing, keep_zips)
    for archive in missing:
        zip_path = _obtain(root, archive, base_url)
        _unpack(root, archive, zip_path)
        if not keep_zips:
            zip_path.unlink()
        tqdm.write(f"{root / archive.folder}: complete")


def _is_complete(root: Path, archive: Archive) -> bool:
    """Return whether the archive's folder holds all its files; one with only some is not overwritten."""
    folder = root / archive.folder
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    found = _count(folder, archive)
    if found < archive.files:
        raise DownloadError(
            f"{folder} already exists with {found} of {archive.files} files {archive.pattern}. It is not "
            f"overwritten: move or delete it, then run the same command again"
        )
    return True


def _count(folder: Path, archive: Archive) -> int:
    return sum(1 for _ in folder.glob(archive.pattern))


def _check_disk(root: Path, archives: Sequence[Archive], keep_zips: bool) -> None:
    """Refuse to begin what cannot end: compare the most space needed at one time with what is free."""
    needed = held = 0
    for archive in archives:
        fetched = size_of(root / archive.zip_name) or size_of(_part(root, archive))
        unpacked = sum(size_of(path) for path in _unpacking(root, archive).rglob("*"))
        to_fetch = max(archive.zip_bytes - fetched, 0)
        to_unpack = max(archive.unpacked_bytes - unpacked, 0)
        needed = max(needed, held + to_fetch + to_unpack)
        held += to_unpack + (to_fetch if keep_zips else -fetched)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DownloadError(
            f"not enough disk space at {root}: downloading and unpacking "
            f"{', '.join(archive.zip_name for archive in archives)} needs {needed / 1e9:.1f} GB, but only "
            f"{free / 1e9:.1f} GB are free. Free some space, choose another folder, or use --splits"
        )


def _part(root: Path, archive: Archive) -> Path:
    return root / f"{archive.zip_name}.part"


def _unpacking(root: Path, archive: Archive) -> Path:
    return root / f".unpacking-{archive.folder}"


def _obtain(root: Path, archive: Archive, base_url: str) -> Path:
    """Return the archive's zip with the right checksum, fetched unless it is there."""
    zip_path = fetched = root / archive.zip_name
    if not zip_path.is_file():
        fetched = _part(root, archive)
        fetch(f"{base_url.rstrip('/')}/{archive.path}", fetched)
    if (got := md5_of(fetched)) == archive.md5:
        return fetched.replace(zip_path)
    aside = fetched.replace(root / f"{archive.zip_name}.bad")
    raise DownloadError(
        f"{archive.zip_name}: wrong checksum: expected MD5 {archive.md5}, got {got}. The file is damaged or "
        f"a different one; it was renamed to {aside} (delete it). Run the same command again to download it"
    )


def _unpack(root: Path, archive: Archive, zip_path: Path) -> None:
    """Unpack into a temporary folder, going on where an earlier run stopped, then give it its name."""
    unpacking = _unpacking(root, archive)
    try:
        with zipfile.ZipFile(zip_path) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            for member in members:
                _refuse_outside(member, archive)
            with progress(f"unpacking {zip_path.name}", len(members), unit=" files") as bar:
                for member in members:
                    target = unpacking / member.filename
                    if not target.is_file() or zlib.crc32(target.read_bytes()) != member.CRC:
                        opened.extract(member, unpacking)
                    bar.update()
    except zipfile.BadZipFile as error:
        raise DownloadError(f"{zip_path}: not a valid zip file ({error}). Delete it and run again") from error
    found = _count(unpacking / archive.folder, archive)
    if found < archive.files:
        raise DownloadError(
            f"{zip_path}: contains {found} of {archive.files} files {archive.folder}/{archive.pattern}"
        )
    folder = root / archive.folder
    if folder.is_dir():
        folder.rmdir()  # empty, or _is_complete had spoken; fails, as it should, if that changed since
    (unpacking / archive.folder).rename(folder)
    unpacking.rmdir()


def _refuse_outside(member: zipfile.ZipInfo, archive: Archive) -> None:
    parts = PurePosixPath(member.filename).parts
    if parts[:1] != (archive.folder,) or ".." in parts or set(member.filename) & set("\\:"):
        raise DownloadError(
            f"{archive.zip_name}: {member.filename!r} would be unpacked outside {archive.folder}/; nothing "
            f"was unpacked. Delete the zip and download it from another server (--base-url)"
        )


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command line; return the exit status (0, 1 after an error, 130 after Ctrl-C)."""
    options = _parser(prog).parse_args(argv)
    root: Path = options.root
    try:
        download_coco(**vars(options), archives=COCO_2017)
    except (DownloadError, OSError, ValueError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        tqdm.write("stopped; run the same command again to continue", file=sys.stderr)
        return 130
    absent = [archive.folder for archive in COCO_2017 if not (root / archive.folder).is_dir()]
    if absent:
        tqdm.write(f"Still missing for training: {', '.join(absent)}")
    else:
        setting = shlex.quote(f"data.root={root}")
        tqdm.write(f"To train: tools/train.py configs/ssdlite_mnv3_large.yaml {setting}")
    return 0


def _parser(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Download COCO 2017 (about 19 GB; 42 GB of disk while unpacking) into DIR, laid out "
        "for training. If it is interrupted, run the same command again to continue.",
    )
    add, folders = parser.add_argument, [archive.folder for archive in COCO_2017]
    add("root", type=Path, metavar="DIR", help="where train2017/, val2017/ and annotations/ go")
    add("--splits", nargs="+", choices=folders, help="only these parts (default: all)")
    add("--keep-zips", action="store_true", help="keep the zips after unpacking")
    add("--base-url", default=BASE_URL, metavar="URL", help="a mirror (default: %(default)s)")
    return parser
