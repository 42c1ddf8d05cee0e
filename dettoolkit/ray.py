"""Prediction by Ray Data, when one machine is not enough. Needs no import of ray itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import MAX_MEGAPIXELS
from dettoolkit.inference import buckets
from dettoolkit.inference.inputs import Pixels, as_rgb, decode_file, read_upright
from dettoolkit.inference.jobs.journal import Record
from dettoolkit.inference.jobs.table_files import arrow_table
from dettoolkit.loading import load

IMAGES = ("bytes", "image", "path")  # columns that hold images; the first that is there is taken


class BatchPredictor:
    """Predict on batches of a Ray data set; a class for `map_batches`.

        found = images.map_batches(
            BatchPredictor,
            fn_constructor_kwargs={"model": "model.onnx", "threads": 4},
            compute=ray.data.ActorPoolStrategy(size=8),
            num_cpus=4,
            batch_size=32,
        )

    Each worker loads the model once. An image that cannot be read is a row with an `error`.

    Args:
        model, device, max_megapixels, trust: as `dettoolkit.load` takes them; every worker must be able to
            read the model's path.
        threshold: as the predictor takes it.
        threads: of the network's runtime; best the worker's `num_cpus`.
        at_once: images that go through the network at once.
    """

    def __init__(
        self,
        model: str,
        *,
        threshold: float | None = None,
        device: str | None = None,
        threads: int | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
        at_once: int = 1,
        trust: bool = False,
    ) -> None:
        self.predictor = load(
            model, device=device, threads=threads, max_megapixels=max_megapixels, trust=trust
        )
        self.threshold, self.at_once = threshold, at_once

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> Any:
        """Predict on a batch.

        Args:
            batch: columns, of which one holds the images: `bytes` of image files (as `read_binary_files`
                returns), `image` (uint8 arrays, as `read_images` returns) or `path` (files, or addresses that
                fsspec reads). There may be others.

        Returns:
            a `pyarrow.Table`: the columns of `dettoolkit predict --save parquet` without the name, and those
            of the batch without bytes and pixels.

        Raises:
            ValueError: no column holds images.
        """
        column = next((name for name in IMAGES if name in batch), None)
        if column is None:
            raise ValueError(
                f"a batch has the columns {', '.join(batch)}: expected one of {', '.join(IMAGES)} with images"
            )
        records: list[Record] = []
        for start in range(0, len(batch[column]), self.at_once):
            values = batch[column][start : start + self.at_once]
            records += self._predict([_read(value, self.predictor.max_megapixels) for value in values])
        table = arrow_table(records, self.predictor.spec).drop_columns("name")
        for name in batch:
            if name not in ("bytes", "image"):
                table = table.append_column(name, [batch[name].tolist()])
        return table

    def _predict(self, images: Sequence[Pixels | str]) -> Iterator[Record]:
        readable = [image for image in images if not isinstance(image, str)]
        results = iter(self.predictor.predict_batch(readable, threshold=self.threshold) if readable else ())
        for image in images:
            if isinstance(image, str):
                yield {"error": image}
            else:
                yield next(results).record(masks=True)


def _read(value: object, limit: float) -> Pixels | str:
    """Read an image, or return why it cannot be read."""
    try:
        if isinstance(value, bytes):
            return decode_file(value, max_megapixels=limit)
        if isinstance(value, str) and "://" in value:
            return buckets.read(value, max_megapixels=limit)
        if isinstance(value, str):
            return read_upright(Path(value), max_megapixels=limit)
        return as_rgb(value, max_megapixels=limit)[1]
    except BadImageError as error:
        return str(error)
