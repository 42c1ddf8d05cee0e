"""ONNX Runtime Web, the page's runtime: one version, from npm's package, every file checked.

A page carries its own copy, so that it makes no external requests.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""sha512 of the package's archive, as npm states it (dist.integrity)."""
TIMEOUT_S = 900

# A module and its binary for each backend, with their sha256 in the package above. The one for WebGPU could
# run on WebAssembly too, but is twice as large and slower at it.
BACKENDS = {
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
}
SHA256 = {
    "ort.webgpu.bundle.min.mjs": "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2",
    "ort-wasm-simd-threaded.asyncify.wasm": (
        "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da"
    ),
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}


class RuntimeFilesError(RuntimeError):
    """The runtime's files are not available, or are not those that this was tested with."""


def read_files(source: Path | None) -> Mapping[str, bytes]:
    """Return the runtime's files by name, checked.

    The source is the package's archive (.tgz), or a folder that holds it unpacked or installed; None has npm
    fetch the archive once, into the user's cache.
    """
    if source is None:
        source = fetch()
    elif not source.exists():
        raise FileNotFoundError(
            f"{source} does not exist: use the archive {PACKAGE}-{VERSION}.tgz, or the folder of the "
            "unpacked package"
        )
    return _from_folder(source) if source.is_dir() else _from_archive(source)


def fetch() -> Path:
    """Have npm fetch the package's archive, unless it is in the user's cache; it is not checked yet."""
    root = os.environ.get("XDG_CACHE_HOME")  # the XDG convention
    cache = (Path(root) if root else Path.home() / ".cache") / "dettoolkit"
    archive = cache / f"{PACKAGE}-{VERSION}.tgz"
    if archive.is_file():
        return archive
    remedy = (
        f"run npm pack {PACKAGE}@{VERSION} on a machine with npm and network access, and pass the file "
        "with --ort-web"
    )
    if (npm := shutil.which("npm")) is None:
        raise RuntimeFilesError(
            f"the page needs {PACKAGE}, which npm downloads, but npm is not installed: install Node.js, or "
            + remedy
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", folder, "--ignore-scripts"]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise RuntimeFilesError(
                f"npm did not download {PACKAGE} within {TIMEOUT_S // 60} minutes: try again, or {remedy}"
            ) from None
        fetched = Path(folder) / archive.name
        if ran.returncode != 0 or not fetched.is_file():
            said = [line for line in ran.stderr.splitlines() if line.startswith("npm error")]
            reason = "; ".join(said[:2]) or "no reason given"
            raise RuntimeFilesError(f"npm could not download {PACKAGE} {VERSION} ({reason}): {remedy}")
        fetched.replace(archive)
    return archive


def _from_archive(archive: Path) -> Mapping[str, bytes]:
    data = archive.read_bytes()
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != INTEGRITY:
        raise RuntimeFilesError(
            f"{archive} is not npm's archive of {PACKAGE} {VERSION} (SHA-512 mismatch): delete and "
            "download it again"
        )
    with tarfile.open(archive) as opened:
        members = {name: opened.extractfile(f"package/dist/{name}") for name in SHA256}
        return {name: file.read() for name, file in members.items() if file is not None}


def _from_folder(folder: Path) -> Mapping[str, bytes]:
    first = next(iter(SHA256))
    places = (folder / inner for inner in ("", "dist", "package/dist", f"node_modules/{PACKAGE}/dist"))
    place = next((place for place in places if (place / first).is_file()), None)
    if place is None:
        raise RuntimeFilesError(f"{folder} does not contain an unpacked {PACKAGE}: it has no {first}")
    files = {}
    for name, digest in SHA256.items():
        if not (place / name).is_file():
            raise RuntimeFilesError(f"{place} lacks {name}: unpack {PACKAGE} {VERSION} again")
        files[name] = (place / name).read_bytes()
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise RuntimeFilesError(
                f"{place / name} is not from {PACKAGE} {VERSION} (SHA-256 mismatch): the page was tested "
                "only with that version"
            )
    return files
