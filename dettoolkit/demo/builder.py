"""The folder of a demo: the page, the model, its runtime and a few figures; any static server will do."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from dettoolkit.datasets.images import encode_image
from dettoolkit.demo import ort_web
from dettoolkit.destinations import check_free
from dettoolkit.drawing.boxes import class_color
from dettoolkit.inference.inputs import read_upright, sources_of
from dettoolkit.loading import read_manifest
from dettoolkit.manifest import Manifest
from dettoolkit.tasks import spec_for

FILES = files("dettoolkit.demo")
LARGEST_SIDE = 2048
"""Pixels of an image's longer side; the page scales larger ones down before the model sees them."""


def build_demo(
    model: Path, out: Path, *, samples: Sequence[Path], runtime: Path | None, title: str | None
) -> None:
    """Write a demo's folder, whole or not at all.

    `model` is an ONNX file of ours that takes one uint8 image of any size and gives final outputs. `samples`
    are turned upright, scaled down to LARGEST_SIDE and written without what cameras store beside the pixels
    (place, owner). `runtime` is where ONNX Runtime Web is, see `ort_web.read_files`; `title` None takes one
    by the task.
    """
    check_free(out)
    manifest = read_manifest(model)
    check_model(model, manifest)
    files_of_runtime = ort_web.read_files(runtime)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as holder:
        folder = Path(holder) / out.name  # inside, since the holder itself is for its owner's eyes only
        (folder / "ort").mkdir(parents=True)
        for page_file in (FILES / "page").iterdir():
            (folder / page_file.name).write_bytes(page_file.read_bytes())
        for name, data in files_of_runtime.items():
            (folder / "ort" / name).write_bytes(data)
        # ONNX Runtime asks that its license stays with every copy; npm's package brings no file of it.
        (folder / "ort/LICENSE.txt").write_bytes((FILES / "onnxruntime_license.txt").read_bytes())
        shutil.copyfile(model, folder / "model.onnx")
        offered = _write_samples(samples, folder / "samples")
        description = describe(manifest, folder, samples=offered, title=title)
        text = json.dumps(description, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "demo.json").write_text(text + "\n", encoding="utf-8")
        folder.replace(out)


def check_model(model: Path, manifest: Manifest) -> None:
    """Refuse a model that the page cannot run."""
    facts = manifest.export
    if facts is None or facts.format != "onnx" or not (facts.preprocessing and facts.postprocessing):
        raise ValueError(
            f"{model}: the page needs an ONNX file with preprocessing and post-processing: use the run, or "
            "export it with --format onnx --preprocessing --postprocessing"
        )
    if facts.batch not in (1, None):
        raise ValueError(f"{model} has batch size {facts.batch}, but the page uses 1: export with --batch 1")
    script = f"{manifest.task}.js"  # see page/app.js
    if not (FILES / "page" / script).is_file():
        raise ValueError(f"{model}: the page does not support {manifest.task}: {script} is missing")


def choose_samples(images: Path, count: int) -> list[Path]:
    """Choose up to `count` images, spread evenly over a folder, a pattern or a file."""
    found = sources_of(images)
    paths = [images] if found is None else [Path(str(each)) for each in found]
    count = min(count, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]


def describe(
    manifest: Manifest, folder: Path, *, samples: Sequence[dict[str, Any]], title: str | None
) -> dict[str, Any]:
    """Return what the page must know of its model, as plain data."""
    spec, size = spec_for(manifest), (folder / "model.onnx").stat().st_size
    colors = manifest.section.colors or (None,) * len(manifest.class_names)
    return {
        "title": title or f"{spec.title} in your browser",
        "task": manifest.task,
        "script": f"{manifest.task}.js",
        "classes": [
            {"name": name, "color": list(class_color(label) if color is None else color)}
            for label, (name, color) in enumerate(zip(manifest.class_names, colors, strict=True))
        ],
        "largest_side": LARGEST_SIDE,
        "model": {"file": "model.onnx", "bytes": size},
        "runtime": {
            backend: {
                "module": f"ort/{module}",
                "wasm": f"ort/{binary}",
                "bytes": (folder / "ort" / binary).stat().st_size,
            }
            for backend, (module, binary) in ort_web.BACKENDS.items()
        },
        "samples": list(samples),
        "facts": _facts(manifest, size),
        **spec.page(manifest.section),
    }


def _facts(manifest: Manifest, size: int) -> list[tuple[str, str]]:
    """Return what the page says about its model: pairs of term and fact."""
    facts = [
        ("Recipe", manifest.name),
        ("Classes", str(len(manifest.class_names))),
        ("File", f"{size / 1e6:.1f} MB, {manifest.export.precision if manifest.export else 'float32'}"),
        ("Runtime", f"ONNX Runtime Web {ort_web.VERSION}"),
    ]
    if manifest.input_hw is not None:
        height, width = manifest.input_hw
        facts.insert(2, ("Network's input", f"{width} × {height}"))
    measured = manifest.export.parity.get("errors", {}) if manifest.export else {}
    # The fraction that differs, of each part.
    found = [measured.get(next(iter(part.errors), "")) for part in spec_for(manifest).parts]
    errors = [error for error in found if isinstance(error, float)]
    if errors and len(errors) == len(found):
        facts.append(("Agreement with PyTorch", f"{1 - max(errors):.2%}"))
    return facts


def _write_samples(paths: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    offered = []
    for number, path in enumerate(paths, start=1):
        image = Image.fromarray(read_upright(path))
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        data = encode_image(image, format="jpeg", quality=92, optimize=True)
        (folder / f"{number}.jpg").write_bytes(data)
        size = {"width": image.width, "height": image.height}
        offered.append({"file": f"samples/{number}.jpg", "name": f"Sample {number}", **size})
    return offered
