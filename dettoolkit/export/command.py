"""Export a trained model to a file of another runtime, which is written only when it agrees with PyTorch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dettoolkit.config import Recipe
from dettoolkit.export.comparison import evenly, own_images, read, views
from dettoolkit.export.report import GateError, Report, tolerances_of
from dettoolkit.export.request import Request, check, manifest_for, notes_on, report_path, with_facts
from dettoolkit.export.verify import Verification, validation_run
from dettoolkit.formats import NAMES, Format
from dettoolkit.formats.float_layers import CALIBRATION_IMAGES, fewest
from dettoolkit.loading import recipe_of
from dettoolkit.manifest import Manifest
from dettoolkit.tasks import spec_of
from dettoolkit.training.trained import open_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that passed, the manifest that it carries, and what was measured."""

    path: Path
    manifest: Manifest
    report: Report

    @property
    def report_path(self) -> Path:
        """Return where the report is."""
        return report_path(self.path)


def export(source: Path, out: Path, request: Request, *, recipe: Recipe | None = None) -> Exported:
    """Export a run's best checkpoint, or a checkpoint, and prove that the file agrees with PyTorch.

    The file is written to a temporary folder beside `out`, opened again in its own runtime, run on real
    images and compared with PyTorch. Only then it is moved to `out`; a report is written beside it,
    `<out>.report.json`. Otherwise nothing is left behind.

    Args:
        source: a run's folder or a checkpoint of ours.
        out: the file to write; its ending is that of the format.
        request: what is wanted.
        recipe: in the place of the one that the checkpoint carries; None takes that.

    Raises:
        FileExistsError: `out` or its report is there already; nothing was done.
        ModuleNotFoundError: the format's libraries are not installed; the message names the extra.
        ValueError: the wishes do not fit the format, the model or the images.
        GateError: the file does not agree with PyTorch beyond the tolerances; nothing was written.
    """
    check(out, request)
    kind = NAMES[request.format]
    converter = kind.module("convert")
    if recipe is None:
        recipe = recipe_of(source)
    spec = spec_of(recipe)
    described, network = open_model(source, recipe)
    run = None
    if request.images is None or request.scores:
        run = validation_run(recipe, described, what=str(source))
    files = run.image_files() if run is not None else []
    if request.images is not None:
        files = own_images(request.images)
    images = read(evenly(files, request.limit))
    manifest = manifest_for(described, request, first_hw=(images[0].shape[0], images[0].shape[1]))
    tolerances = tolerances_of(spec, manifest, request.tolerances)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
        path = Path(folder) / out.name
        converter.convert(network, manifest, path, spec)
        verification = Verification(
            open_model(source, recipe)[1],  # not the converter's, which may have changed it
            manifest,
            images=views(images, manifest),
            run=run if request.scores else None,
            tolerances=tolerances,
            notes=notes_on(described, manifest),
        )
        if request.precision == "int8":
            quantize = kind.module("quantize")
            if request.images is None:
                images = read(evenly(spec.training_images(recipe), CALIBRATION_IMAGES))
            verification.measure_beside(path, manifest, files=written_files(kind, path))
            quantizer = quantize.Quantizer(network, manifest, path, images, spec)
            manifest, report = _quantized(quantizer, kind, path, manifest, verification)
        else:
            report = verification.report(path, manifest, files=written_files(kind, path))
        if report.failures:
            raise GateError("\n".join([report.table(), "", *report.failures, f"{out} was not written"]))
        manifest = with_facts(manifest, parity=report.to_dict())
        converter.stamp(path, manifest)
        verification.confirm(path, manifest, report)
        publish(written_files(kind, path), out, report)
    return Exported(path=out, manifest=manifest, report=report)


def _quantized(
    quantizer: Any, kind: Format, path: Path, manifest: Manifest, verification: Verification
) -> tuple[Manifest, Report]:
    """Replace a float32 file by an int8 one, with as few layers in float32 as pass."""
    made: dict[tuple[str, ...], tuple[dict[Path, bytes], Manifest, Report]] = {}

    def passes(layers: list[str]) -> bool:
        described = with_facts(manifest, float_layers=tuple(layers))
        for file in kind.files_of(path):
            file.unlink()
        quantizer.write(path, layers)
        kind.module("convert").stamp(path, described)
        files = written_files(kind, path)
        report = verification.report(path, described, files=files)
        made[tuple(layers)] = {file: file.read_bytes() for file in files}, described, report
        logger.info("%d layers in float32: %s", len(layers), report.summary())
        # Where the comparison proves nothing, more layers in float32 would not help.
        return not report.failures or bool(report.comparison.doubts)

    contents, described, report = made[tuple(fewest(quantizer, passes))]
    for file, content in contents.items():
        file.unlink()  # a runtime may have the last one open
        file.write_bytes(content)
    return described, report


def written_files(kind: Format, path: Path) -> list[Path]:
    """List the files that a format has written, alone in a folder; GateError if some are missing, or more."""
    files = kind.files_of(path)
    there = set(path.parent.iterdir())
    if there != set(files):
        odd = ", ".join(sorted(each.name for each in there ^ set(files)))
        raise GateError(
            f"the export should have written {', '.join(each.name for each in files)}; missing or "
            f"unexpected: {odd}; nothing was written"
        )
    return files


def publish(files: Sequence[Path], out: Path, report: Report) -> None:
    """Move the files, which are in a folder beside `out`, and their report to their place; all or nothing."""
    digests = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}
    content = {"file": out.name, "sha256": digests, **report.to_dict()}
    written = files[0].with_name(report_path(out).name)
    written.write_text(json.dumps(content, indent=1, allow_nan=False))
    done: list[Path] = []
    try:
        # The file that others are found by is the last.
        for each in (written, *sorted(files, key=lambda file: file.name == out.name)):
            place = out.with_name(each.name)
            _move(each, place)
            done.append(place)
    except BaseException:
        for place in done:
            place.unlink(missing_ok=True)
        raise


def _move(file: Path, place: Path) -> None:
    """Move a file within a disk, never over another one."""
    try:
        os.link(file, place)  # unlike renaming, this refuses a place that is taken
    except OSError:
        if place.exists():
            raise FileExistsError(
                f"another process has written {place} in the meantime: remove it and export again"
            ) from None
        file.rename(place)  # on a disk without links
