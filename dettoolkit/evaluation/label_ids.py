"""Predictions as label PNGs, named as Cityscapes' test server and its official scripts look for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dettoolkit.evaluation.image_files import encode_image

IMAGE_ENDING = "_leftImg8bit"
PREDICTION_ENDING = (
    "_predLabelIds"  # any ending will do: cityscapesscripts looks for <city>_<seq>_<frame>*.png
)


def write_label_ids(folder: Path, image: PurePath, predicted: NDArray[Any], label_ids: Sequence[int]) -> Path:
    """Write a prediction as a PNG of label ids and return its path; missing folders are made.

    `<city>_<sequence>_<frame>_leftImg8bit.png` becomes `<city>_<sequence>_<frame>_predLabelIds.png`, straight
    in the folder, as the server wants it; any other image keeps its name and its folders.

    Args:
        folder: where to, best a fresh one.
        image: the image's path below the folder of images; of an absolute one only the name is taken.
        predicted: (H, W), labels.
        label_ids: the value of each class in label files, 0 to 65535; with one above 255 the PNG has 16 bits.

    Raises:
        FileExistsError: there is such a file already; it is left as it is.
        ValueError: a prediction that is no label.
    """
    if predicted.ndim != 2 or (
        predicted.size and not 0 <= predicted.min() <= predicted.max() < len(label_ids)
    ):
        values = f"values {predicted.min()} to {predicted.max()}" if predicted.size else "no values"
        raise ValueError(
            f"prediction for {image}: shape {predicted.shape}, {values}; wanted (H, W) with labels 0 to "
            f"{len(label_ids) - 1}"
        )
    ids = np.array(label_ids, np.uint8 if max(label_ids, default=0) < 256 else np.uint16)
    path = _path(folder, image)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            file.write(encode_image(Image.fromarray(ids[predicted]), format="png"))
    except FileExistsError:
        raise FileExistsError(
            f"{path} exists already and is not overwritten: write predictions into a fresh folder; if two "
            "images have the same name in different folders, give their paths below a common folder"
        ) from None
    return path


def _path(folder: Path, image: PurePath) -> Path:
    if image.stem.endswith(IMAGE_ENDING):
        return folder / f"{image.stem.removesuffix(IMAGE_ENDING)}{PREDICTION_ENDING}.png"
    below = PurePath() if image.is_absolute() or ".." in image.parts else image.parent
    return folder / below / f"{image.stem}.png"
