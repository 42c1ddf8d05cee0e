"""Cut one COCO json into training and validation."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dettoolkit.converting.collection import Collection, Lost, write_overlay
from dettoolkit.datasets.coco_json import read_columns
from dettoolkit.destinations import check_free
from dettoolkit.wording import listing


def split_coco(
    annotations: Path, out: Path, *, images: Path, fraction: float, seed: int, group: str | None
) -> tuple[list[str], Lost]:
    """Write a json's images and annotations as instances_train.json and instances_val.json; images stay.

    The images of each class are cut near `fraction`, and no group is torn.

    Args:
        annotations: the json.
        out: new folder to write to.
        images: folder of the images.
        fraction: of the images that go to validation.
        seed: of the order of equal groups.
        group: images that belong together, such as frames of a video: "folder" for those of a folder, or a
            regular expression whose match in the file name is the group; None keeps each image for itself.

    Raises:
        ValueError: the json is not COCO's, or a split would stay empty.
    """
    check_free(out)
    read_columns(annotations)  # refuses, with a sentence, what is not COCO's
    content = json.loads(annotations.read_bytes())
    classes_of = defaultdict[Any, set[Any]](set)
    for entry in content["annotations"]:
        classes_of[entry["image_id"]].add(entry["category_id"])
    names = [str(image["file_name"]) for image in content["images"]]
    present = {str(image["file_name"]): classes_of[image["id"]] for image in content["images"]}
    validation = assign(names, present, fraction=fraction, seed=seed, group=group)
    chosen = {image["id"] for image in content["images"] if str(image["file_name"]) in validation}
    lost = Lost()
    known = {image["id"] for image in content["images"]}
    for entry in content["annotations"]:
        if entry["image_id"] not in known:
            lost.add("annotation of an unknown image, left out", f"annotation id {entry.get('id')}")
    out.joinpath("annotations").mkdir(parents=True)
    lines, data = [], dict[str, Any](type="coco", root=str(out.absolute()))
    for split in ("train", "val"):
        part = _part(content, known - chosen if split == "train" else chosen)
        path = f"annotations/instances_{split}.json"
        (out / path).write_text(json.dumps(part), encoding="utf-8")
        data[split] = {"images": str(images.absolute()), "annotations": path}
        lines.append(f"{path}: {len(part['images'])} images, {len(part['annotations'])} annotations")
        found = {entry["category_id"] for entry in part["annotations"]}
        absent = [each["name"] for each in content["categories"] if each["id"] not in found]
        if absent:
            lines.append(f"  without {listing(absent)}")
    return [*lines, write_overlay(out, data)], lost


def assign(
    names: Sequence[str], present: Mapping[str, set[Any]], *, fraction: float, seed: int, group: str | None
) -> set[str]:
    """Return the names of the images that go to validation.

    Args:
        names: of the images.
        present: the classes in each.
        fraction: of each class's images that validation gets.
        seed: of the order of equal groups.
        group: see `split_coco`.

    Raises:
        ValueError: a split would stay empty, or `group` does not match a name.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction for validation must be between 0 and 1, got {fraction}")
    try:
        re.compile(group or "")
    except re.error as error:
        raise ValueError(f"--group {group} is no regular expression: {error}") from None
    groups = list(_groups(names, group).values())
    chosen = _deal(groups, present, fraction=fraction, seed=seed)
    if not 0 < len(chosen) < len(names):
        raise ValueError(
            f"{len(groups)} groups of images cannot be cut so that {fraction:g} go to validation: give "
            "another --fraction or --group"
        )
    return chosen


def _groups(names: Sequence[str], group: str | None) -> Mapping[str, list[str]]:
    found = defaultdict[str, list[str]](list)
    for name in names:
        key = str(Path(name).parent) if group == "folder" else name
        if group not in (None, "folder"):
            match = re.search(str(group), name)
            if match is None:
                raise ValueError(f"--group {group} matches nothing in {name}")
            key = match[1] if match.groups() else match[0]
        found[key].append(name)
    return found


def _deal(
    groups: Sequence[Sequence[str]], present: Mapping[str, set[Any]], *, fraction: float, seed: int
) -> set[str]:
    """Return the names of the images that go to validation: iterative stratification (Sechidis et al., 2011).

    The class of fewest images is dealt first; each of its groups goes to the split that lacks more of them.
    """
    order = [groups[number] for number in np.random.default_rng(seed).permutation(len(groups))]
    counts = [Counter[Any](each for name in group for each in present.get(name, ())) for group in order]
    total = sum(counts, Counter[Any]())
    images = sum(map(len, groups))
    lacking = {True: {each: fraction * total[each] for each in total} | {None: fraction * images}}
    lacking[False] = {each: (1 - fraction) * total[each] for each in total} | {None: (1 - fraction) * images}
    waiting, chosen = set(range(len(order))), set[str]()
    for rarest in [*sorted(total, key=lambda each: total[each]), None]:  # None: groups without objects
        mine = [number for number in waiting if rarest is None or counts[number][rarest]]
        for number in sorted(mine, key=lambda number: (-counts[number][rarest], -len(order[number]), number)):
            here, there = lacking[True], lacking[False]
            validation = (here[rarest], here[None]) > (there[rarest], there[None])
            if validation:
                chosen.update(order[number])
            for each, count in counts[number].items():
                lacking[validation][each] -= count
            lacking[validation][None] -= len(order[number])
            waiting.discard(number)
    return chosen


def _part(content: Mapping[str, Any], ids: set[Any]) -> dict[str, Any]:
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in ids],
        "annotations": [entry for entry in content["annotations"] if entry["image_id"] in ids],
    }


def cut(collection: Collection, *, fraction: float, seed: int, group: str | None) -> Collection:
    """Cut a collection of one split into train and val; see `assign`.

    Raises:
        ValueError: it has several splits.
    """
    if len(collection.splits) != 1:
        raise ValueError(f"the source is cut already, into {', '.join(collection.splits)}: omit --fraction")
    (pictures,) = collection.splits.values()
    present = {picture.name: {box.name for box in picture.boxes} for picture in pictures}
    chosen = assign(list(present), present, fraction=fraction, seed=seed, group=group)
    parts = {
        split: [picture for picture in pictures if (picture.name in chosen) == (split == "val")]
        for split in ("train", "val")
    }
    return Collection(collection.classes, parts, collection.lost)
