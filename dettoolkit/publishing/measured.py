"""What was measured of a model that is published: scores, sizes, latency here, and its exported files."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch

from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import Recipe
from dettoolkit.formats.pytorch import PytorchEngine
from dettoolkit.hub import MEASURED
from dettoolkit.machine import machine
from dettoolkit.manifest import SizeHW
from dettoolkit.named_models import is_named, is_published, published_of
from dettoolkit.network import Network
from dettoolkit.paper.counts import measure
from dettoolkit.tasks import spec_of
from dettoolkit.training.run_folder import BEST, LAST, checkpoint_of
from dettoolkit.weights.safe import sum_of

logger = logging.getLogger(__name__)

MAX_BYTES = 64 << 20  # of a JSON file that is read; a segmenter's matrix is the largest of ours
NOT_MEASURED = (
    "the card says that scores were not measured. To measure them: dettoolkit evaluate, whose "
    "evaluation.json --evaluation takes"
)
Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores in [0, 1], by name."""

    numbers: dict[str, float]
    data: str  # what they were measured on
    by: str  # who measured them


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one image in PyTorch: median, and 10th to 90th percentile."""

    median: float
    low: float
    high: float
    threads: int
    machine: str


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far an exported file was from PyTorch, as the gate of `dettoolkit export` has measured."""

    file: str
    images: int
    errors: dict[str, float | None]
    tolerances: dict[str, float]
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of a model."""

    parameters: int
    multiply_adds: int
    image_hw: SizeHW  # of the image that multiply-adds and latency are for
    latency: Latency
    scores: Scores | None  # None where it was not scored
    exports: list[Agreement]


@dataclass(frozen=True, kw_only=True)
class _About:
    scored_on: str
    images: int
    recipe: dict[str, Any]
    weights_sha256: str | None = None  # those of earlier versions do not say


@dataclass(frozen=True, kw_only=True)
class _Evaluation:
    numbers: dict[str, float | None]
    about: _About


def measure_model(
    source: Path,
    recipe: Recipe,
    network: Network,
    *,
    evaluation: Path | None,
    tell: Callable[[str], None],
) -> Measured:
    """Measure a network here, and collect what was measured of it before.

    Args:
        source: where it is from: a run's folder, a checkpoint, a published folder, or a model's name.
        recipe: its recipe.
        network: with its weights.
        evaluation: an evaluation.json of the model; None takes its run's.
        tell: is called with what is being done.
    """
    spec = spec_of(recipe)
    image_hw = spec.input_hw(recipe) or spec.zoo_size(recipe)[1]
    engine = PytorchEngine(network, torch.device("cpu"))  # as `load` runs it
    found = measure({"": (engine, image_hw)}, tell=tell)[""]
    tell("")
    former, weights_sum = _former(source), sum_of(network.state_dict())
    if evaluation is not None:
        scores = scores_in(evaluation, weights_sum)
    else:
        scores = former.scores if former is not None else scores_of(source, recipe, weights_sum)
    return Measured(
        parameters=count_parameters(network, norm_affine=True),
        multiply_adds=count_madds(copy.deepcopy(network).to("meta"), image_hw),
        image_hw=image_hw,
        latency=Latency(**asdict(found), threads=1, machine=machine()),
        scores=scores,
        exports=former.exports if former is not None else exports_of(source),
    )


def scores_of(source: Path, recipe: Recipe, weights_sum: str) -> Scores | None:
    """Return the scores of a model: its run's evaluation, or torchvision's; None where there is neither.

    `weights_sum` is the SHA-256 of its weights.
    """
    if is_named(source):
        if not is_published(recipe):
            return None
        facts = published_of(recipe)
        return Scores(
            numbers={facts.metric: round(facts.percent / 100, 6)}, data=facts.data, by="torchvision"
        )
    checkpoint = checkpoint_of(source, names=(BEST, LAST))
    run = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints" or not (run / "evaluation.json").is_file():
        logger.warning("%s has no evaluation.json beside it: %s", checkpoint, NOT_MEASURED)
        return None
    return scores_in(run / "evaluation.json", weights_sum)


def scores_in(report: Path, weights_sum: str) -> Scores | None:
    """Read the scores of an evaluation.json; None where nothing could be scored, or other weights were.

    `weights_sum` is the SHA-256 of the weights that the scores must be of.
    """
    found = read_json(report, _Evaluation)
    if found.about.weights_sha256 != weights_sum:
        unknown = found.about.weights_sha256 is None
        reason = "does not say which weights were scored" if unknown else "is of other weights than these"
        logger.warning("%s %s: %s", report, reason, NOT_MEASURED)
        return None
    numbers = {name: value for name, value in found.numbers.items() if value is not None}
    scored_on = Path(found.about.scored_on)
    root = Path(str(found.about.recipe.get("data", {}).get("root")))
    inside = scored_on.is_relative_to(root)
    data = scored_on.relative_to(root.parent) if inside else Path(scored_on.name)
    text = f"{data.as_posix()} ({found.about.images} images)"
    return Scores(numbers=numbers, data=text, by="dettoolkit") if numbers else None


def exports_of(source: Path) -> list[Agreement]:
    """Return what the gate has measured of the files beside a model that were exported from it."""
    folder = source.parent if source.is_file() else source
    return [read_json(path, Agreement) for path in sorted(folder.glob("*.report.json"))]


def _former(source: Path) -> Measured | None:
    """Return what a published folder says was measured before it was published."""
    if is_named(source):
        return None
    path = checkpoint_of(source, names=(BEST, LAST)).with_name(MEASURED)
    return read_json(path, Measured) if path.is_file() else None


def read_json(path: Path, kind: type[Kind]) -> Kind:
    """Read a JSON file as a dataclass; keys that it does not have are left out.

    Raises:
        ValueError: other values than those of such a file; the message names it.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"it has {size} bytes")
        return msgspec.convert(msgspec.json.decode(path.read_bytes()), kind)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not as dettoolkit writes it ({error}): remove it, or create it again"
        ) from None


def to_json(measured: Measured) -> str:
    """Write it as JSON."""
    return json.dumps(asdict(measured), indent=1, allow_nan=False)
