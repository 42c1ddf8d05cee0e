"""The folder of a demo: the page, the model, its runtime and a few pictures; any static server will do."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from PIL import Image

from dettoolkit.demo import ort_web
from dettoolkit.engines import read_manifest
from dettoolkit.evaluation.drawing import class_color
from dettoolkit.evaluation.image_files import encode_image
from dettoolkit.inference.images import read_upright, sources_of
from dettoolkit.manifest import Manifest
from dettoolkit.runs import check_free

LARGEST_SIDE = 2048
"""Pixels of a picture's longer side; the page scales larger ones down before the model sees them."""
SAMPLE_QUALITY = 92
TITLES = {
    "detection": "Object detection in your browser",
    "segmentation": "Semantic segmentation in your browser",
}


def build_demo(
    model: Path,
    out: Path,
    *,
    samples: Sequence[Path],
    runtime: Path | None,
    title: str | None,
) -> Manifest:
    """Write a demo's folder, whole or not at all.

    Args:
        model: an ONNX file of ours that takes one uint8 image of any size and gives final answers; its
            manifest says so, and names the classes.
        out: the folder; it must not exist, or be empty.
        samples: image files to offer, turned upright, scaled down to LARGEST_SIDE and written anew, so that
            what cameras write beside the pixels (place, owner) does not travel along.
        runtime: where ONNX Runtime Web is; see `ort_web.read_files`.
        title: the page's heading; None takes one by the task.

    Returns:
        The model's manifest.

    Raises:
        FileExistsError: `out` has something in it; nothing was done.
        ValueError: the model is of another kind, or a sample cannot be read.
        RuntimeFilesError: ONNX Runtime Web cannot be had.
    """
    check_free(out)
    manifest = read_manifest(model)
    check_model(model, manifest)
    files_of_runtime = ort_web.read_files(runtime)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as holder:
        folder = Path(holder) / out.name  # inside, since the holder itself is for its owner's eyes only
        folder.mkdir()
        _copy_page(folder)
        (folder / "ort").mkdir()
        for name, data in files_of_runtime.items():
            (folder / "ort" / name).write_bytes(data)
        (folder / "ort" / "LICENSE.txt").write_text(ort_web.LICENSE, encoding="utf-8")
        shutil.copyfile(model, folder / "model.onnx")
        offered = _write_samples(samples, folder / "samples")
        description = describe(manifest, folder, samples=offered, title=title)
        text = json.dumps(description, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "demo.json").write_text(text + "\n", encoding="utf-8")
        folder.replace(out)
    return manifest


def check_model(model: Path, manifest: Manifest) -> None:
    """Refuse a model that the page cannot run.

    Raises:
        ValueError: not ONNX, or without pre- and post-processing inside.
    """
    facts = manifest.export
    if facts is None or facts.format != "onnx" or not (facts.preprocessing and facts.postprocessing):
        raise ValueError(
            f"{model}: the page runs ONNX files that take a picture and give final answers: give the run, or "
            "export it with --format onnx --preprocessing --postprocessing"
        )
    if facts.batch not in (1, None):
        raise ValueError(
            f"{model} takes {facts.batch} images at once, and the page has one: export with --batch 1"
        )


def choose_samples(images: Path, count: int) -> list[Path]:
    """Choose `count` pictures at most, spread evenly over a folder, a pattern or a file.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a folder without images.
    """
    found = sources_of(images)
    paths = [images] if found is None else [Path(str(each)) for each in found]
    count = min(count, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]


def describe(
    manifest: Manifest, folder: Path, *, samples: Sequence[dict[str, Any]], title: str | None
) -> dict[str, Any]:
    """Say in plain data what the page shows: it knows nothing of its model but this."""
    colors = manifest.segmentation.colors if manifest.segmentation is not None else None
    chosen = [None] * len(manifest.class_names) if colors is None else list(colors)
    description: dict[str, Any] = {
        "title": title or TITLES[manifest.task],
        "task": manifest.task,
        "classes": [
            {"name": name, "color": list(class_color(label) if color is None else color)}
            for label, (name, color) in enumerate(zip(manifest.class_names, chosen, strict=True))
        ],
        "largest_side": LARGEST_SIDE,
        "model": {"file": "model.onnx", "bytes": (folder / "model.onnx").stat().st_size},
        "runtime": {
            backend: {
                "module": f"ort/{module}",
                "wasm": f"ort/{binary}",
                "bytes": (folder / "ort" / binary).stat().st_size,
            }
            for backend, (module, binary) in ort_web.BACKENDS.items()
        },
        "samples": list(samples),
        "facts": _facts(manifest, (folder / "model.onnx").stat().st_size),
    }
    if manifest.detection is not None:
        description["lowest_score"] = manifest.detection.score_threshold
        description["shown_score"] = manifest.detection.shown_threshold
    return description


def _facts(manifest: Manifest, size: int) -> list[tuple[str, str]]:
    """List what the page says about its model: term and fact."""
    facts = [
        ("Recipe", manifest.name),
        ("Classes", str(len(manifest.class_names))),
        ("File", f"{size / 1e6:.1f} MB, {manifest.export.precision if manifest.export else 'float32'}"),
        ("Runtime", f"ONNX Runtime Web {ort_web.VERSION}"),
    ]
    if manifest.input_hw is not None:
        height, width = manifest.input_hw
        facts.insert(2, ("Network's input", f"{width} × {height}"))
    measured = manifest.export.parity.get("figures", {}) if manifest.export else {}
    for what in ("pixels", "detections"):  # the share that differs; see export.gate
        if isinstance(measured.get(what), float):
            facts.append(("As in PyTorch", f"{1 - measured[what]:.2%} of {what}"))
    return facts


def _copy_page(folder: Path) -> None:
    with as_file(files("dettoolkit.demo") / "page") as page:
        for path in sorted(page.iterdir()):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)


def _write_samples(paths: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    offered = []
    for number, path in enumerate(paths, start=1):
        image = Image.fromarray(read_upright(path))
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        data = encode_image(image, format="jpeg", quality=SAMPLE_QUALITY, optimize=True)
        (folder / f"{number}.jpg").write_bytes(data)
        size = {"width": image.width, "height": image.height}
        offered.append({"file": f"samples/{number}.jpg", "name": f"Sample {number}", **size})
    return offered
