"""Export a trained model to a file of another runtime, which is written only when it agrees with PyTorch."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dettoolkit.config import Recipe, load_recipe
from dettoolkit.export import sample_images
from dettoolkit.export.metric import validation_run
from dettoolkit.export.publish import publish, report_path, written_files
from dettoolkit.export.report import GateError, Report
from dettoolkit.export.request import Request, check, manifest_for, notes_on, with_facts
from dettoolkit.export.tolerances import tolerances_of
from dettoolkit.export.verify import Verification, build_verification
from dettoolkit.formats import NAMES
from dettoolkit.loading import open_checkpoint
from dettoolkit.manifest import Manifest
from dettoolkit.tasks import spec_of
from dettoolkit.training.run_folder import stored_recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that passed.

    Attributes:
        path: the file.
        manifest: what it carries.
        report: what was measured.
    """

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
        with stored_recipe(source) as config:
            recipe = load_recipe(str(config)).recipe
    spec = spec_of(recipe)
    described, network = open_checkpoint(source, recipe)
    run = None
    if request.images is None or request.scores:
        run = validation_run(recipe, described, what=str(source))
    files = run.image_files() if run is not None else []
    if request.images is not None:
        files = sample_images.own_images(request.images)
    images = sample_images.read(sample_images.evenly(files, request.limit))
    manifest = manifest_for(described, request, first_hw=(images[0].shape[0], images[0].shape[1]))
    tolerances = tolerances_of(spec, manifest, request.tolerances)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
        path = Path(folder) / out.name
        converter.convert(network, manifest, path, spec)
        verification = build_verification(
            open_checkpoint(source, recipe)[1],  # not the converter's, which may have changed it
            manifest,
            images=sample_images.views(images, manifest),
            run=run if request.scores else None,
            tolerances=tolerances,
            notes=notes_on(described, manifest),
        )
        if request.precision == "int8":
            quantize = kind.module("quantize")
            if request.images is None:
                training = sample_images.evenly(spec.training_images(recipe), quantize.CALIBRATION_IMAGES)
                images = sample_images.read(training)
            quantizer = quantize.Quantizer(path.read_bytes(), manifest, images, outputs=spec.raw_outputs)
            manifest, report = _quantized(quantizer, converter, path, manifest, verification)
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
    quantizer: Any, converter: ModuleType, path: Path, manifest: Manifest, verification: Verification
) -> tuple[Manifest, Report]:
    """Replace a float32 file by an int8 one, with as few layers in float32 as pass."""
    made: dict[tuple[str, ...], tuple[bytes, Manifest, Report]] = {}

    def passes(layers: list[str]) -> bool:
        described = with_facts(manifest, float_layers=tuple(layers))
        path.unlink()
        quantizer.write(path, layers)
        converter.stamp(path, described)
        report = verification.report(path, described, files=[path])
        made[tuple(layers)] = path.read_bytes(), described, report
        logger.info("%d layers in float32: %s", len(layers), report.summary())
        # Where the comparison proves nothing, more layers in float32 would not help.
        return not report.failures or bool(report.comparison.doubts)

    content, described, report = made[tuple(quantizer.fewest(passes))]
    path.write_bytes(content)
    return described, report
