"""Verify a file: open it in its own runtime, run it on real images, and measure it against PyTorch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dettoolkit.config import Recipe
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.export.comparison import compare
from dettoolkit.export.report import GateError, Report
from dettoolkit.formats.pytorch import PytorchEngine
from dettoolkit.inference.predictor import Predictor
from dettoolkit.loading import load
from dettoolkit.manifest import Manifest
from dettoolkit.results import Image
from dettoolkit.run import Classes, Run
from dettoolkit.tasks import spec_for

WARM_UP, TIMES = 3, 20
SECONDS = 4.0  # after which timing ends, for large images


class Verification:
    """What every file of an export is measured with.

    `network` is one that no converter has touched; of the file's manifest it gets input size and thresholds.
    Both are scored on the validation set of `run`; None leaves scoring out.
    """

    def __init__(
        self,
        network: nn.Module,
        manifest: Manifest,
        *,
        images: Sequence[Image],
        run: Run | None,
        tolerances: Mapping[str, float],
        notes: tuple[str, ...],
    ) -> None:
        self.images, self.run, self.tolerances, self.notes = images, run, tolerances, notes
        described, cpu = replace(manifest, export=None), torch.device("cpu")
        # Rewritten for speed as `load` does. It is timed only: converters begin with the same rewriting, and
        # a mistake of it would be on both sides.
        self.fast = Predictor(described, PytorchEngine(network, cpu), source="PyTorch")
        self.reference = Predictor(described, PytorchEngine(network, cpu, fast=False), source="PyTorch")
        self.monitor, self.reference_scores = ("", {}) if run is None else score(self.reference, run)
        self.float32: tuple[Predictor, int] | None = None
        tensors = (*network.parameters(), *network.buffers())
        self.weights_bytes = sum(each.numel() * each.element_size() for each in tensors)

    def measure_beside(self, path: Path, manifest: Manifest, *, files: Sequence[Path]) -> None:
        """Let the times of all further files be measured in turn with that of this one, of float32."""
        self.float32 = _open(path, manifest), sum(each.stat().st_size for each in files)

    def report(self, path: Path, manifest: Manifest, *, files: Sequence[Path]) -> Report:
        """Measure a file, of `files` that belong together.

        GateError if it cannot be opened or run, or says of itself something else than `manifest`.
        """
        candidate = _open(path, manifest)
        try:
            comparison = compare(self.reference, candidate, self.images)
            beside = [] if self.float32 is None else [self.float32[0]]
            milliseconds = _milliseconds([self.fast, candidate, *beside], self.images[0])
            scores = {} if self.run is None else score(candidate, self.run)[1]
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise _broken(path, error) from error
        except Exception as error:
            if type(error).__module__.startswith("onnxruntime"):  # its errors have no base of their own
                raise _broken(path, error) from error
            raise
        pairs = {name: (self.reference_scores[name], value) for name, value in scores.items()}
        return Report(
            manifest=manifest,
            images=len(self.images),
            comparison=comparison,
            tolerances=self.tolerances,
            monitor=self.monitor,
            scores=pairs.pop(self.monitor, None),
            size_scores=pairs,
            milliseconds=(milliseconds[0], milliseconds[1]),
            float32=None if self.float32 is None else (milliseconds[2], self.float32[1]),
            sizes=(sum(each.stat().st_size for each in files), self.weights_bytes),
            notes=self.notes,
        )

    def confirm(self, path: Path, manifest: Manifest, report: Report) -> None:
        """Compare a file again after its manifest was rewritten; GateError if it does not do the same."""
        again = compare(self.reference, _open(path, manifest), self.images)
        before = report.comparison
        if again.doubts != before.doubts or any(
            not abs(value - before.errors[name]) <= 1e-6 for name, value in again.errors.items()
        ):
            raise GateError(
                f"{path.name} returns different results after the manifest was added ({again.errors}, before "
                f"{before.errors}): this is a bug in the export; nothing was written"
            )


def validation_run(recipe: Recipe, manifest: Manifest, *, what: str) -> Run:
    """Load the validation data that a recipe names; ValueError if it has other classes than a manifest."""
    own = Classes(list(manifest.section.class_names), list(manifest.section.class_ids))
    return spec_for(manifest).evaluation_run(manifest.name, recipe, own=own, what=what)


def score(predictor: Predictor, run: Run) -> tuple[str, dict[str, float]]:
    """Return the name of a task's score, and that and the scores by size of a predictor, by name.

    They are those of `dettoolkit evaluate` for a checkpoint, and NaN where the validation set has nothing to
    score. Images that cannot be read raise, or are skipped where the recipe has data.on_bad_image=skip.
    """
    found = []
    for row, file in enumerate(run.image_files()):
        try:
            image = file.read()
        except BadImageError:
            if run.recipe.data.on_bad_image == "skip":
                continue
            raise
        (result,) = predictor.predict_batch([image], threshold=0.0)
        if (prediction := run.prediction_of(result, row)) is not None:
            found.append(prediction)
    monitor, numbers = run.task.monitor, run.task.score(found).numbers
    names = (monitor, *predictor.spec.size_scores)
    return monitor, {name: float(numbers[name]) for name in names if name in numbers}


def _open(path: Path, manifest: Manifest) -> Predictor:
    """Open a file from its bytes, as a user would."""
    try:
        candidate = load(path, trust=True)  # this export wrote it
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise _broken(path, error) from error
    if candidate.manifest.to_json() != manifest.to_json():
        raise GateError(
            f"{path.name} has no complete manifest: this is a bug in the export; nothing was written"
        )
    return candidate


def _broken(path: Path, error: Exception) -> GateError:
    return GateError(f"{path.name} does not run in its own runtime; nothing was written:\n{error}")


def _milliseconds(models: Sequence[Predictor], image: Image) -> list[float]:
    """Take the median time of each of some models from an image in memory to its result, in turn."""
    for _ in range(WARM_UP):
        for model in models:
            model.predict_batch([image])
    times: list[list[float]] = [[] for _ in models]
    end = time.perf_counter() + SECONDS
    for _ in range(TIMES):
        for model, spent in zip(models, times, strict=True):
            started = time.perf_counter()
            model.predict_batch([image])
            spent.append(time.perf_counter() - started)
        if time.perf_counter() > end:
            break
    return [statistics.median(spent) * 1000 for spent in times]
