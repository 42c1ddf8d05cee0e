"""A model that is called on images, whatever runtime is under it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dettoolkit.datasets.images import MAX_MEGAPIXELS, MEGAPIXELS_LIMIT
from dettoolkit.finite import require_finite
from dettoolkit.formats import Engine
from dettoolkit.inference.inputs import as_rgb, batches, sources_of
from dettoolkit.manifest import Manifest
from dettoolkit.preprocessing import fit_image, normalize, normalize_on_cpu
from dettoolkit.results import Image, Result
from dettoolkit.tasks import spec_for
from dettoolkit.wording import listing

COUNT = int | np.integer
NUMBER = COUNT | float | np.floating


class Predictor:
    """Predict on images, by a model of any task.

    `dettoolkit.load` makes it. One preprocessing and one post-processing serve every engine: a checkpoint in
    PyTorch, or an exported file with or without either of them inside.

    Example:
        >>> model = load(run)
        >>> [result.hw for result in model([image, image], threshold=0.5)]
        [(48, 64), (48, 64)]
        >>> for result in model.stream(folder, batch_size=4):
        ...     boxes, names = result.boxes_xyxy, result.names
    """

    def __init__(
        self, manifest: Manifest, engine: Engine, *, source: str, max_megapixels: float = MAX_MEGAPIXELS
    ) -> None:
        """Put a model together: its manifest, and the engine of its network; `source` is for people."""
        if not 0 < max_megapixels <= MEGAPIXELS_LIMIT:
            raise ValueError(
                f"max_megapixels must be above 0 and at most {MEGAPIXELS_LIMIT:g}, got {max_megapixels}"
            )
        self.max_megapixels = max_megapixels
        self.manifest = manifest
        self.engine = engine
        self.source = source
        self.spec = spec_for(manifest)
        self._outputs = self.spec.final_outputs if manifest.final else self.spec.raw_outputs
        if manifest.export is not None and manifest.export.outputs != self._outputs:
            raise ValueError(
                f"{source} has the outputs {listing(manifest.export.outputs)}, but a {self.spec.noun} has "
                f"{listing(self._outputs)}: export it again"
            )
        self._decode = self.spec.decoder(manifest, engine.device)
        self._fixed = manifest.export.batch if manifest.export is not None else None

    @property
    def task(self) -> str:
        """Return the name of the model's task."""
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
    ) -> Result | list[Result]:
        """Predict on one image or several.

        Args:
            source: a path, the bytes of an image file, a Pillow image or a uint8 array (H, W, 3) RGB: gives
                one result. A sequence of those, a folder or a pattern such as "photos/*.jpg": a list of
                results, in order.
            threshold: of a task with scores, the lowest score of what is returned; None takes the model's
                own default, 0 returns all that its post-processing lets through.
            batch_size: images that the network takes at once.

        Raises:
            BadImageError: an image cannot be read; a ValueError, whose message names the file.
            FileNotFoundError, ValueError, TypeError: nothing to predict on; the message says what was wanted.
        """
        images, alone = _images_of(source)
        found = list(self._stream(images, self._min_score(threshold), _size(batch_size)))
        return found[0] if alone else found

    def stream(
        self, source: object, *, threshold: float | None = None, batch_size: int = 1
    ) -> Iterator[Result]:
        """Predict on one batch after the other, as results are asked for; memory stays that of a batch.

        All is as in `__call__`, and `source` may be anything that yields images, such as a generator.
        """
        return self._stream(_images_of(source)[0], self._min_score(threshold), _size(batch_size))

    def predict_batch(self, images: Sequence[Image], *, threshold: float | None = None) -> list[Result]:
        """Predict on images in memory, uint8 (H, W, 3) RGB of any sizes; results are in their pixels.

        As many as can be go through the network at once; `threshold` as in `__call__`.
        """
        min_score = self._min_score(threshold)
        results: dict[int, Result] = {}
        for rows in self._groups(images):
            group = [images[row] for row in rows]
            with torch.inference_mode():
                found = self._decode(self._forward, self._inputs(group), group, min_score=min_score)
            results.update(zip(rows, found, strict=True))
        return [results[row] for row in range(len(images))]

    def _stream(self, sources: Iterable[object], min_score: float, batch_size: int) -> Iterator[Result]:
        for batch in batches(sources, batch_size):
            images = [as_rgb(each, max_megapixels=self.max_megapixels) for each in batch]
            results = self.predict_batch([pixels for _, pixels in images], threshold=min_score)
            for (path, _), result in zip(images, results, strict=True):
                yield replace(result, path=path)

    def _min_score(self, threshold: object) -> float:
        """Check a threshold, or take the model's own; a task without scores has none."""
        default: float | None = self.manifest.section.default_threshold
        if default is None:
            if threshold:
                raise ValueError(f"a {self.spec.noun} has no threshold: omit threshold={threshold}")
            return 0.0
        if threshold is None:
            return default
        if isinstance(threshold, bool) or not isinstance(threshold, NUMBER) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be a number from 0 to 1, got {threshold!r}")
        return float(threshold)

    def _groups(self, images: Sequence[Image]) -> Iterator[list[int]]:
        """Return which images go through the network together: as many as it takes, of one size."""
        resized = self.manifest.input_hw is not None and not self.manifest.takes_images
        by_size: dict[tuple[int, ...], list[int]] = {}
        for row, image in enumerate(images):
            by_size.setdefault(() if resized else image.shape, []).append(row)
        for rows in by_size.values():
            step = self._fixed or len(rows)
            yield from (rows[start : start + step] for start in range(0, len(rows), step))

    def _inputs(self, images: Sequence[Image]) -> Tensor:
        """Make the network's input of images that go together."""
        if self.manifest.takes_images:
            return torch.from_numpy(np.stack(images)).to(self.engine.device)
        fitted = [fit_image(image, self.manifest) for image in images]
        if self.engine.device.type == "cpu":
            return torch.from_numpy(normalize_on_cpu(fitted, self.manifest.mean, self.manifest.std))
        pixels = torch.from_numpy(np.stack(fitted)).to(self.engine.device)  # (N, h, w, 3)
        return normalize(pixels.permute(0, 3, 1, 2).contiguous(), self.manifest.mean, self.manifest.std)

    def _forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the engine; where it takes a fixed number of images, fill up by the last, drop the surplus."""
        count = len(inputs)
        if self._fixed is None or count == self._fixed:
            return self._run(inputs)
        filling = inputs[-1:].expand(self._fixed - count, *inputs.shape[1:])
        return tuple(output[:count] for output in self._run(torch.cat((inputs, filling))))

    def _run(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the engine, and look at what it gives."""
        try:
            outputs = self.engine(inputs)
        except Exception as error:  # each runtime has its own
            if self.manifest.export is None:
                raise
            raise ValueError(
                f"{self.source} does not run on images {tuple(inputs.shape)}: {error}"
            ) from error
        self._check(outputs, images=len(inputs))
        return outputs

    def _check(self, outputs: Sequence[Tensor], *, images: int) -> None:
        """Refuse outputs that the manifest does not describe: it may lie, and weights may be damaged."""
        shapes = [tuple(output.shape) for output in outputs]
        if len(outputs) != len(self._outputs) or any(shape[:1] != (images,) for shape in shapes):
            raise ValueError(
                f"{self.source} returns {len(outputs)} outputs {shapes} for {images} images, but its "
                f"manifest lists {', '.join(self._outputs)}: export it again"
            )
        require_finite(
            zip(self._outputs, outputs, strict=True),
            source=self.source,
            remedy="its weights are damaged or its training diverged: use another checkpoint and export it",
        )
        own, named = self.spec.count_classes(outputs, self.manifest), len(self.class_names)
        if own > named or (own < named and not self.manifest.final):
            raise ValueError(
                f"{self.source} predicts {own} classes, but its manifest names {named}: export it again"
            )


def _images_of(source: object) -> tuple[Iterable[object], bool]:
    """Return the images that a user names, and whether that is one alone."""
    several = sources_of(source)
    return ([source], True) if several is None else (several, False)


def _size(batch_size: object) -> int:
    if isinstance(batch_size, bool) or not isinstance(batch_size, COUNT) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number, 1 or more, got {batch_size!r}")
    return int(batch_size)
