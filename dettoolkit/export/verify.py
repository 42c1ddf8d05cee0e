"""Verify a file: open it in its own runtime, run it on real images, and measure it against PyTorch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from dettoolkit.export.comparison import compare
from dettoolkit.export.metric import score
from dettoolkit.export.report import GateError, Report
from dettoolkit.formats.pytorch import PytorchEngine
from dettoolkit.inference.predictor import Predictor
from dettoolkit.loading import load
from dettoolkit.manifest import Manifest
from dettoolkit.results import Image
from dettoolkit.run import Run

WARM_UP, TIMES = 3, 20
SECONDS = 4.0  # after which timing ends, for large images


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What every file of an export is measured with.

    Attributes:
        reference: the model in PyTorch as it was trained, with the input size and the thresholds of the file.
        fast: the same, rewritten for speed as `load` does; it is timed only, since converters begin with the
            same rewriting and a mistake of it would be on both sides.
        reference_score: its score on `run`, by name; None without.
        images: uint8 (H, W, 3) RGB, of any sizes.
        run: whose validation set both are scored on; None leaves scoring out.
        tolerances: the largest value of each error.
        weights_bytes: of the network in PyTorch.
        notes: for the reports.
    """

    reference: Predictor
    fast: Predictor
    reference_score: tuple[str, float] | None
    images: Sequence[Image]
    run: Run | None
    tolerances: Mapping[str, float]
    weights_bytes: int
    notes: tuple[str, ...]

    def report(self, path: Path, manifest: Manifest, *, files: Sequence[Path]) -> Report:
        """Measure a file.

        Args:
            path: the file.
            manifest: what it must say of itself.
            files: all that belong to it.

        Raises:
            GateError: it cannot be opened or run, or says something else.
        """
        candidate = _open(path, manifest)
        try:
            comparison = compare(self.reference, candidate, self.images)
            milliseconds = _milliseconds([self.fast, candidate], self.images[0])
            scores = self._scores(candidate)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise _broken(path, error) from error
        except Exception as error:
            if type(error).__module__.startswith("onnxruntime"):  # its errors have no base of their own
                raise _broken(path, error) from error
            raise
        return Report(
            manifest=manifest,
            images=len(self.images),
            comparison=comparison,
            tolerances=self.tolerances,
            monitor=self.reference_score[0] if self.reference_score is not None else "",
            scores=scores,
            milliseconds=milliseconds,
            sizes=(sum(each.stat().st_size for each in files), self.weights_bytes),
            notes=self.notes,
        )

    def confirm(self, path: Path, manifest: Manifest, report: Report) -> None:
        """Measure a file once more, after its manifest was rewritten.

        Raises:
            GateError: it does not do the same.
        """
        again = compare(self.reference, _open(path, manifest), self.images)
        before = report.comparison
        if again.doubts != before.doubts or any(
            not abs(value - before.errors[name]) <= 1e-6 for name, value in again.errors.items()
        ):
            raise GateError(
                f"{path.name} gives other results after its description was put in ({again.errors}, before "
                f"{before.errors}): this is a defect of the format's writer; nothing was written"
            )

    def _scores(self, candidate: Predictor) -> tuple[float, float] | None:
        if self.run is None or self.reference_score is None:
            return None
        return self.reference_score[1], score(candidate, self.run)[1]


def build_verification(
    network: nn.Module,
    manifest: Manifest,
    *,
    images: Sequence[Image],
    run: Run | None,
    tolerances: Mapping[str, float],
    notes: tuple[str, ...],
) -> Verification:
    """Set up the reference: a network that no converter has touched, with the file's size and thresholds."""
    described = replace(manifest, export=None)
    cpu = torch.device("cpu")
    fast = Predictor(described, PytorchEngine(network, cpu), source="PyTorch")
    reference = Predictor(described, PytorchEngine(network, cpu, fast=False), source="PyTorch")
    tensors = (*network.parameters(), *network.buffers())
    return Verification(
        reference=reference,
        fast=fast,
        reference_score=score(reference, run) if run is not None else None,
        images=images,
        run=run,
        tolerances=tolerances,
        weights_bytes=sum(each.numel() * each.element_size() for each in tensors),
        notes=notes,
    )


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
            f"{path.name} does not describe itself as it should: its manifest was not written, or not as a "
            "whole; this is a defect of the format's writer; nothing was written"
        )
    return candidate


def _broken(path: Path, error: Exception) -> GateError:
    return GateError(f"{path.name} does not run in its own runtime; nothing was written:\n{error}")


def _milliseconds(models: Sequence[Predictor], image: Image) -> tuple[float, float]:
    """Take the median time of each of two models from an image in memory to its result, in turn."""
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
    first, second = (statistics.median(spent) * 1000 for spent in times)
    return first, second
