"""Predictions as label PNGs, named as Cityscapes' test server and its official scripts look for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dettoolkit.datasets.images import encode_image

IMAGE_ENDING = "_leftImg8bit"


def write_label_ids(folder: Path, image: PurePath, predicted: NDArray[Any], label_ids: Sequence[int]) -> Path:
    """Write a prediction (H, W) as a PNG of label ids and return its path; missing folders are made.

    `<city>_<sequence>_<frame>_leftImg8bit.png` becomes `<city>_<sequence>_<frame>_predLabelIds.png`, straight
    in the folder, as the server wants it; any other image keeps its name and its folders below the folder of
    images, of an absolute path only the name. `label_ids` are the classes' values in label files, 0 to 65535.
    """
    if image.stem.endswith(IMAGE_ENDING):
        # cityscapesscripts takes any ending: it looks for <city>_<sequence>_<frame>*.png
        path = folder / f"{image.stem.removesuffix(IMAGE_ENDING)}_predLabelIds.png"
    else:
        below = PurePath() if image.is_absolute() or ".." in image.parts else image.parent
        path = folder / below / f"{image.stem}.png"
    try:
        save_label_ids(path, predicted, label_ids)
    except FileExistsError:
        raise FileExistsError(
            f"{path} already exists and is not overwritten: write predictions to a new folder; if two "
            "images have the same name in different folders, use their paths below a common folder"
        ) from None
    return path


def save_label_ids(path: Path, labels: NDArray[Any], label_ids: Sequence[int]) -> None:
    """Write labels (H, W) as a PNG of the value of each class, of 16 bits with a value above 255."""
    ids = np.array(label_ids, np.uint8 if max(label_ids, default=0) < 256 else np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(encode_image(Image.fromarray(ids[labels]), format="png"))
