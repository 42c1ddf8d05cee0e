"""What torchvision publishes about its weights: classes, sizes, score and the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.models import WeightsEnum, get_model_weights

TORCHVISION = "torchvision:"
# Where torchvision's name of a network is another; at width 1.0, the only one fetched by name.
TORCHVISION_NAMES = {"mnasnet_b1": "mnasnet1_0"}

CODE_LICENSE = "BSD-3-Clause"  # torchvision's, which its weights come with
# Of the data, by the first word of the score's name in torchvision's metadata.
DATA_LICENSES = {
    "COCO": "annotations CC BY 4.0; images under their owners' Flickr terms, many non-commercial",
    "ImageNet": "non-commercial research and education (image-net.org)",
}
SCORES = {"box_map": "mAP", "miou": "mIoU", "acc@1": "top-1"}


@dataclass(frozen=True)
class Published:
    """Weights of torchvision.

    Attributes:
        source: as a recipe names them, such as "torchvision:COCO_V1".
        categories: names of the network's outputs, as torchvision lists them.
        parameters: of the whole network.
        madds: multiply-adds of one image, in billions.
        percent: the score as published.
        metric: what the score is, such as "mAP".
        data: what it was measured on, such as "COCO-val2017".
        data_license: of the data that they were trained on.
        url: of the file.
        size: of the file in MB.
        cached: where PyTorch keeps the file; it need not be there.
    """

    source: str
    categories: tuple[str, ...]
    parameters: int
    madds: float
    percent: float
    metric: str
    data: str
    data_license: str
    url: str
    size: float
    cached: Path

    @property
    def score(self) -> str:
        """Return the score with its name and data, such as "21.3 mAP (COCO-val2017)"."""
        return f"{self.percent} {self.metric} ({self.data})"


def published(source: str, torchvision_model: str) -> Published:
    """Look up weights by `torchvision:NAME`.

    Raises:
        ValueError: torchvision has no such network, or no weights of that name.
    """
    weights = find_weights(source.removeprefix(TORCHVISION), torchvision_model)
    (data, scores), *_ = weights.meta["_metrics"].items()
    name = next(name for name in SCORES if name in scores)
    return Published(
        source=f"{TORCHVISION}{weights.name}",
        categories=tuple(weights.meta["categories"]),
        parameters=weights.meta["num_params"],
        madds=weights.meta["_ops"],
        percent=scores[name],
        metric=SCORES[name],
        data=data,
        data_license=DATA_LICENSES[data.partition("-")[0]],
        url=weights.url,
        size=weights.meta["_file_size"],
        cached=cached(weights),
    )


def find_weights(name: str, torchvision_model: str) -> WeightsEnum:
    """Find the member of a network's enum.

    Raises:
        ValueError: torchvision has no such network, or no weights of that name.
    """
    try:
        weights = get_model_weights(TORCHVISION_NAMES.get(torchvision_model, torchvision_model))
    except ValueError:
        raise ValueError(
            f"torchvision has no {torchvision_model}, so there is no '{TORCHVISION}{name}': use a "
            "file, or train the backbone with a recipe of type classifier"
        ) from None
    if name not in weights.__members__:
        raise ValueError(
            f"torchvision has no weights '{name}' for {torchvision_model}; it has {list(weights.__members__)}"
        )
    return weights[name]


def cached(weights: WeightsEnum) -> Path:
    """Return where PyTorch keeps the file of some weights."""
    url: str = weights.url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
