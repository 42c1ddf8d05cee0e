"""What TensorFlow's padding is worth to weights that were trained with it: top-1 and top-5 on COCO's photos.

    python benchmarks/tf_padding.py --data DIR --weights FILE

FILE is an ImageNet classifier (MobileNetV3-Small) whose weights come from TensorFlow, with torchvision's
names; DIR a COCO data set with annotations/instances_{train,val}2017.json. A photo is asked for if its
largest object fills a quarter of it or more and is of a class below; it is right if one of that class's
ImageNet labels comes first, or among the first five. Nothing else chooses the photos. They are scaled to a
short side of 256, their middle 224x224 is taken, mean and std are 0.5. The same weights run with
`padding: same` and with `symmetric`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from dettoolkit.classification.build import build_network
from dettoolkit.config.classification import ClassifierModel
from dettoolkit.config.recipe import ClassificationRecipe
from dettoolkit.datasets.classification_augment import EvalTransform
from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.samples import to_tensor
from dettoolkit.network import Network
from dettoolkit.preprocessing import normalize

# COCO's class: labels of ImageNet that are a kind of it.
ACCEPTED = {
    "airplane": (404, 895),  # airliner, warplane
    "apple": (948,),  # Granny Smith
    "banana": (954,),
    "bear": (294, 295, 296, 297),
    "bench": (703,),  # park bench
    "broccoli": (937,),
    "bus": (654, 779, 874),  # minibus, school bus, trolleybus
    "cat": (281, 282, 283, 284, 285),
    "dog": tuple(range(151, 269)),
    "elephant": (101, 385, 386),  # tusker, Indian, African
    "hot dog": (934,),
    "laptop": (620, 681),  # laptop, notebook
    "motorcycle": (665, 670),  # moped, motor scooter
    "orange": (950,),
    "pizza": (963,),
    "refrigerator": (760,),
    "sheep": (348, 349),  # ram, bighorn
    "teddy bear": (850,),
    "toilet": (861,),  # toilet seat
    "train": (466, 547, 705, 820, 829),  # bullet train, locomotives, passenger car, streetcar
    "umbrella": (879,),
    "zebra": (340,),
}
MIN_FRACTION = 0.25  # of the image, in the box of its largest object


def photos(data: Path) -> Iterator[tuple[Path, str]]:
    """Yield the images to ask for, and the class of their largest object."""
    for split in ("train", "val"):
        content = json.loads((data / "annotations" / f"instances_{split}2017.json").read_text())
        names = {each["id"]: each["name"] for each in content["categories"]}
        largest: dict[int, tuple[float, str]] = {}
        for each in content["annotations"]:
            found = (each["bbox"][2] * each["bbox"][3], names[each["category_id"]])
            largest[each["image_id"]] = max(largest.get(each["image_id"], (0.0, "")), found)
        for image in content["images"]:
            area, name = largest.get(image["id"], (0.0, ""))
            if name in ACCEPTED and area >= MIN_FRACTION * image["width"] * image["height"]:
                yield data / f"{split}2017" / image["file_name"], name


def classifier_of(weights: Path, padding: str) -> Network:
    """Build MobileNetV3-Small with these weights, ready to answer."""
    model = ClassifierModel.model_validate(
        {
            "type": "classifier",
            "backbone": {"type": "mobilenet_v3_small", "padding": padding},
            "weights": str(weights),
        }
    )
    return build_network(
        ClassificationRecipe.model_construct(model=model), num_classes=1000, pretrained=True, exact=True
    ).eval()


def first_five(network: Network, path: Path) -> list[int]:
    """Return the five labels that come first for a photo."""
    transform = EvalTransform(input_hw=(224, 224), resize=256, antialias=True)
    images = normalize(to_tensor(transform(read_image(path), seed=0))[None], (0.5,) * 3, (0.5,) * 3)
    with torch.inference_mode():
        logits = network(images)
        assert isinstance(logits, torch.Tensor)
        labels: list[int] = logits[0].topk(5).indices.tolist()
    return labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="COCO data set")
    parser.add_argument("--weights", type=Path, required=True, help="weights of MobileNetV3-Small")
    options = parser.parse_args()
    asked = list(photos(options.data))
    print(f"{len(asked)} photos: " + ", ".join(f"{path.stem.lstrip('0')} {name}" for path, name in asked))
    for padding in ("same", "symmetric"):
        network = classifier_of(options.weights, padding)
        answers = [(first_five(network, path), ACCEPTED[name]) for path, name in asked]
        first = sum(labels[0] in accepted for labels, accepted in answers)
        five = sum(any(label in accepted for label in labels) for labels, accepted in answers)
        print(
            f"padding {padding:<10} top-1 {first} ({first / len(asked):.1%})  "
            f"top-5 {five} ({five / len(asked):.1%})"
        )


if __name__ == "__main__":
    main()
