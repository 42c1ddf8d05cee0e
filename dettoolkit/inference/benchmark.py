"""How long models take for an image, step by step, several models in turns in one process."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from dettoolkit.formats import Engine
from dettoolkit.inference.inputs import as_rgb
from dettoolkit.inference.predictor import Predictor

BLOCK = 4  # images that a model gets in a row
PAUSE = (
    0.05  # seconds between models: a runtime's threads go on looking for work for a while after it is done
)
STEPS = ("read", "resize", "network", "decode")


class ClockedEngine:
    """An engine that notes when it begins and ends."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.device = engine, engine.device
        self.turns: list[tuple[float, float]] = []

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the engine; on a GPU, until it is done."""
        self._wait()
        began = time.perf_counter()
        outputs = self.engine(images)
        self._wait()
        self.turns.append((began, time.perf_counter()))
        return outputs

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Times:
    """Milliseconds of a model: of each image the whole way, and its steps.

    read: from the file to pixels; resize: to the network's input, normalized; network: the runtime, with what
    an exported file has inside; decode: from its outputs to a result in the image's pixels.
    """

    steps: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STEPS})

    @property
    def whole(self) -> list[float]:
        """Return the sum of the steps of each image."""
        return [sum(parts) for parts in zip(*self.steps.values(), strict=True)]

    def summary(self) -> dict[str, float]:
        """Return medians of the steps and of the whole; its quartiles and minimum; images per second."""
        whole = self.whole
        low, median, high = np.percentile(whole, (25, 50, 75)).tolist()
        medians = {name: statistics.median(values) for name, values in self.steps.items()}
        quartiles = {"whole": median, "lower_quartile": low, "upper_quartile": high}
        return {**medians, **quartiles, "fastest": min(whole), "images_per_second": 1000 / median}


def measure(
    predictors: Sequence[Predictor],
    images: Sequence[Path],
    *,
    seconds: float,
    tell: Callable[[float], None] = lambda _: None,
) -> list[Times]:
    """Time models on image files, in turns, for so many seconds in all; `tell` is called with the fraction.

    Each model is run on a block of the images first, which is not counted: runtimes prepare themselves then.
    """
    clocks = [ClockedEngine(predictor.engine) for predictor in predictors]
    for predictor, clock in zip(predictors, clocks, strict=True):
        predictor.engine = clock
        for path in itertools.islice(itertools.cycle(images), BLOCK):
            _once(predictor, clock, path)
    found = [Times() for _ in predictors]
    start, queue = time.perf_counter(), itertools.cycle(images)
    while (spent := time.perf_counter() - start) < seconds or not found[0].whole:
        tell(min(spent / seconds, 1.0))
        block = list(itertools.islice(queue, BLOCK))
        for predictor, clock, times in zip(predictors, clocks, found, strict=True):
            time.sleep(PAUSE)
            for path in block:
                for name, value in _once(predictor, clock, path).items():
                    times.steps[name].append(value)
    return found


def _once(predictor: Predictor, clock: ClockedEngine, path: Path) -> dict[str, float]:
    """Predict on a file and return the milliseconds of each step."""
    clock.turns.clear()
    began = time.perf_counter()
    _, pixels = as_rgb(path, max_megapixels=predictor.max_megapixels)
    read = time.perf_counter()
    predictor.predict_batch([pixels])
    ended = time.perf_counter()
    network = sum(end - begin for begin, end in clock.turns)
    resized = clock.turns[0][0]
    parts = (read - began, resized - read, network, ended - resized - network)
    return dict(zip(STEPS, (1000 * part for part in parts), strict=True))


def use_threads(count: int) -> None:
    """Set the threads of PyTorch and OpenCV; an exported file's runtime gets them when it is opened."""
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
