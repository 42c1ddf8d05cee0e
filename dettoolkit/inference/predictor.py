"""A model that is called on images, whatever runtime is under it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dettoolkit.datasets.images import MAX_MEGAPIXELS, MEGAPIXELS_LIMIT, resize_image
from dettoolkit.formats import Engine
from dettoolkit.inference.answers import (
    Answer,
    DetectionAnswer,
    DetectionAnswers,
    SegmentationAnswers,
    check_outputs,
)
from dettoolkit.inference.inputs import as_rgb, batches, sources_of
from dettoolkit.inference.results import DetectionResult, Prediction, SegmentationResult
from dettoolkit.manifest import Manifest
from dettoolkit.preprocessing import normalize, normalize_on_cpu

COUNT = int | np.integer
NUMBER = COUNT | float | np.floating


class Predictor:
    """Find objects, or the class of each pixel, in images.

    `dettoolkit.load` makes it. One preprocessing and one post-processing serve every engine: a checkpoint in
    PyTorch, or an exported file with or without either of them inside.
    """

    def __init__(
        self, manifest: Manifest, engine: Engine, *, source: str, max_megapixels: float = MAX_MEGAPIXELS
    ) -> None:
        """Put a model together.

        Args:
            manifest: what the model says about itself.
            engine: runs its network.
            source: where it came from, for people.
            max_megapixels: a larger image cannot be read.

        Raises:
            ValueError: a limit that is out of range.
        """
        if not 0 < max_megapixels <= MEGAPIXELS_LIMIT:
            raise ValueError(
                f"max_megapixels must be above 0 and at most {MEGAPIXELS_LIMIT:g}, got {max_megapixels}"
            )
        self.max_megapixels = max_megapixels
        self.manifest = manifest
        self.engine = engine
        self.source = source
        self._answers: DetectionAnswers | SegmentationAnswers = (
            DetectionAnswers(manifest, engine.device)
            if manifest.detection is not None
            else SegmentationAnswers(manifest)
        )

    @property
    def task(self) -> Literal["detection", "segmentation"]:
        """Return what the model does."""
        return self.manifest.task

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, by label."""
        return self.manifest.class_names

    def __repr__(self) -> str:
        """Return what this is, for a person at a prompt."""
        export = self.manifest.export
        runtime = "PyTorch" if export is None else f"{export.format} {export.precision}"
        names = ", ".join(self.class_names[:4]) + (", …" if len(self.class_names) > 4 else "")
        return (
            f"<Predictor {self.manifest.name}: {self.task}, {len(self.class_names)} classes ({names}), "
            f"{runtime} on {self.engine.device}, from {self.source}>"
        )

    def __call__(
        self, source: object, *, threshold: float | None = None, batch_size: int = 1
    ) -> Prediction | list[Prediction]:
        """Predict on one image or several.

        Args:
            source: a path, the bytes of an image file, a Pillow image or a uint8 array (H, W, 3) RGB: gives
                one prediction. A sequence of those, a folder or a pattern such as "photos/*.jpg": a list of
                predictions, in order.
            threshold: of a detector, the least score of what is given; None takes the manifest's
                `threshold`, 0 gives all that the model's own threshold let through.
            batch_size: images that the network takes at once.

        Raises:
            BadImageError: an image cannot be read; a ValueError, whose message names the file.
            FileNotFoundError, ValueError, TypeError: nothing to predict on; the message says what was wanted.
        """
        several = sources_of(source)
        images = [source] if several is None else several
        found = list(self._stream(images, self._least(threshold), _size(batch_size)))
        return found[0] if several is None else found

    def stream(
        self, source: object, *, threshold: float | None = None, batch_size: int = 1
    ) -> Iterator[Prediction]:
        """Predict on one batch after the other, as results are asked for; memory stays that of a batch.

        Args:
            source: as `__call__` takes it, or anything that yields images, such as a generator.
            threshold: as in `__call__`.
            batch_size: as in `__call__`.
        """
        several = sources_of(source)
        images = [source] if several is None else several
        return self._stream(images, self._least(threshold), _size(batch_size))

    def predict_batch(
        self, images: Sequence[NDArray[np.uint8]], *, threshold: float | None = None
    ) -> list[Answer]:
        """Answer images, of any sizes, that are in memory.

        Args:
            images: uint8 (H, W, 3) RGB each. As many as can be go through the network at once.
            threshold: as in `__call__`.

        Returns:
            for each image a DetectionAnswer or a SegmentationAnswer, in the image's own pixels.
        """
        least = self._least(threshold)
        answers: dict[int, Answer] = {}
        for rows in self._groups(images):
            group = [images[row] for row in rows]
            with torch.inference_mode():
                found = self._answers(
                    self._forward,
                    self._inputs(group),
                    [(image.shape[0], image.shape[1]) for image in group],
                    threshold=least,
                )
            answers.update(zip(rows, found, strict=True))
        return [answers[row] for row in range(len(images))]

    def prediction(self, image: NDArray[np.uint8], answer: Answer, *, path: Path | None = None) -> Prediction:
        """Put an image, uint8 (H, W, 3) RGB, and its answer together, with all that shows and writes it."""
        if isinstance(answer, DetectionAnswer):
            return DetectionResult(
                path=path,
                image=image,
                class_names=self.class_names,
                class_ids=self.manifest.class_ids,
                **answer._asdict(),
            )
        facts = self.manifest.segmentation
        return SegmentationResult(
            path=path,
            image=image,
            class_names=self.class_names,
            class_ids=self.manifest.class_ids,
            colors=None if facts is None else facts.colors,
            labels=answer.labels,
        )

    def _stream(self, sources: Iterable[object], least: float, batch_size: int) -> Iterator[Prediction]:
        for batch in batches(sources, batch_size):
            images = [as_rgb(each, max_megapixels=self.max_megapixels) for each in batch]
            answers = self.predict_batch([pixels for _, pixels in images], threshold=least)
            for (path, pixels), answer in zip(images, answers, strict=True):
                yield self.prediction(pixels, answer, path=path)

    def _least(self, threshold: object) -> float:
        """Choose the least score of what is given; a segmenter has no scores."""
        facts = self.manifest.detection
        if facts is None:
            if threshold:
                raise ValueError(f"a segmenter has no scores: leave threshold={threshold} out")
            return 0.0
        if threshold is None:
            return facts.threshold
        if isinstance(threshold, bool) or not isinstance(threshold, NUMBER) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be a number from 0 to 1, got {threshold!r}")
        return float(threshold)

    def _groups(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[list[int]]:
        """Return which images go through the network together: as many as it takes, of one size."""
        resized = self.manifest.input_hw is not None and not self._inside
        by_size: dict[tuple[int, ...], list[int]] = {}
        for row, image in enumerate(images):
            by_size.setdefault(() if resized else image.shape, []).append(row)
        fixed = self.manifest.export.batch if self.manifest.export is not None else None
        for rows in by_size.values():
            step = fixed or len(rows)
            yield from (rows[start : start + step] for start in range(0, len(rows), step))

    @property
    def _inside(self) -> bool:
        """Return whether the engine resizes and normalizes."""
        return self.manifest.export is not None and self.manifest.export.preprocessing

    def _inputs(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Make the network's input of images that go together."""
        if self._inside:
            return torch.from_numpy(np.stack(images)).to(self.engine.device)
        size = self.manifest.input_hw
        fitted = [
            image if size is None or image.shape[:2] == tuple(size) else resize_image(image, size)
            for image in images
        ]
        if self.engine.device.type == "cpu":
            return torch.from_numpy(normalize_on_cpu(fitted, self.manifest.mean, self.manifest.std))
        pixels = torch.from_numpy(np.stack(fitted)).to(self.engine.device)  # (N, h, w, 3)
        return normalize(pixels.permute(0, 3, 1, 2).contiguous(), self.manifest.mean, self.manifest.std)

    def _forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the engine; where it takes a fixed number of images, fill up by the last, drop the surplus."""
        fixed = self.manifest.export.batch if self.manifest.export is not None else None
        count = len(inputs)
        if fixed is None or count == fixed:
            return self._run(inputs)
        filling = inputs[-1:].expand(fixed - count, *inputs.shape[1:])
        return tuple(output[:count] for output in self._run(torch.cat((inputs, filling))))

    def _run(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the engine, and look at what it gives.

        Raises:
            ValueError: an exported file does not run, or gives something else than its manifest says.
            NonFiniteError: a value that is not finite.
        """
        try:
            outputs = self.engine(inputs)
        except Exception as error:  # each runtime has its own
            if self.manifest.export is None:
                raise
            raise ValueError(
                f"{self.source} does not run on images {tuple(inputs.shape)}: {error}"
            ) from error
        check_outputs(outputs, self.manifest, images=len(inputs), source=self.source)
        return outputs


def _size(batch_size: object) -> int:
    if isinstance(batch_size, bool) or not isinstance(batch_size, COUNT) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number, 1 or more, got {batch_size!r}")
    return int(batch_size)
