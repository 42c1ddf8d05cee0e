"""Export a trained model to a file of another runtime, which is written only when it agrees with PyTorch."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from dettoolkit.export import sample_images as gate_images
from dettoolkit.export.metric import Source, sources_of, validation_run
from dettoolkit.export.publish import files_of, publish, report_path
from dettoolkit.export.report import GateError, Report, tolerances_of
from dettoolkit.export.request import Request, check, manifest_for, notes_on, with_facts
from dettoolkit.export.verify import Verification, build_verification
from dettoolkit.loading import open_checkpoint
from dettoolkit.manifest import Manifest
from dettoolkit.training.run_folder import stored_recipe

if TYPE_CHECKING:
    from dettoolkit.build import Run
    from dettoolkit.config import Recipe


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
    converter = import_module(f"dettoolkit.formats.{request.format}.convert")
    recipe = recipe if recipe is not None else _own_recipe(source)
    described, network = open_checkpoint(source, recipe)
    run = None
    if request.images is None or request.scores:
        run = validation_run(recipe, described, what=str(source))
    images = gate_images.read(gate_images.evenly(_sources(request, described, run), request.limit))
    manifest = manifest_for(described, request, first_hw=(images[0].shape[0], images[0].shape[1]))
    tolerances = tolerances_of(manifest, request.tolerances)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
        path = Path(folder) / out.name
        converter.convert(network, manifest, path)
        trial = build_verification(
            open_checkpoint(source, recipe)[1],  # not the converter's, which may have changed it
            manifest,
            images=gate_images.views(images, manifest),
            run=run if request.scores else None,
            tolerances=tolerances,
            notes=notes_on(described, manifest),
        )
        if request.precision == "int8":
            manifest, report = _quantized(
                converter, path, manifest, trial, _calibration(request, recipe, images)
            )
        else:
            report = trial.report(path, manifest, files=files_of(converter, path))
        if report.failures:
            raise GateError("\n".join([report.table(), "", *report.failures, f"{out} was not written"]))
        manifest = with_facts(manifest, parity=report.to_dict())
        converter.stamp(path, manifest)
        trial.confirm(path, manifest, report)
        publish(files_of(converter, path), out, report)
    return Exported(path=out, manifest=manifest, report=report)


def _own_recipe(source: Path) -> Recipe:
    from dettoolkit.config import load_recipe

    with stored_recipe(source) as config:
        return load_recipe(str(config)).recipe


def _sources(request: Request, described: Manifest, run: Run | None) -> list[Source]:
    if request.images is not None:
        return gate_images.own_sources(request.images)
    if run is None:
        raise ValueError("there are neither images of one's own nor a validation set: give --images")
    return sources_of(run.val, described.task)


def _calibration(
    request: Request, recipe: Recipe, tried: Sequence[gate_images.Image]
) -> Sequence[gate_images.Image]:
    """Read the images that an int8 file is calibrated with: of the training set, unless images were given."""
    if request.images is not None:
        return tried
    from dettoolkit.formats.onnx.quantize import CALIBRATION_IMAGES

    return gate_images.read(gate_images.evenly(gate_images.training_sources(recipe), CALIBRATION_IMAGES))


def _quantized(
    converter: ModuleType,
    path: Path,
    manifest: Manifest,
    trial: Verification,
    calibration: Sequence[gate_images.Image],
) -> tuple[Manifest, Report]:
    """Put an int8 file in the place of a float32 one, with as few layers in float32 as pass."""
    from dettoolkit.formats.onnx.quantize import Quantizer

    quantizer = Quantizer(path.read_bytes(), manifest, calibration)
    made: dict[tuple[str, ...], tuple[bytes, Manifest, Report]] = {}

    def passes(layers: list[str]) -> bool:
        described = with_facts(manifest, float_layers=tuple(layers))
        path.unlink()
        quantizer.write(path, layers)
        converter.stamp(path, described)
        report = trial.report(path, described, files=[path])
        made[tuple(layers)] = path.read_bytes(), described, report
        logger.info("%d layers in float32: %s", len(layers), report.summary())
        # Where the comparison proves nothing, more layers in float32 would not help.
        return not report.failures or bool(report.parity.doubts)

    content, described, report = made[tuple(quantizer.fewest(passes))]
    path.write_bytes(content)
    return described, report
