"""Rename torchvision's weights of whole networks to the names of ours."""

from __future__ import annotations

import re

from torch import Tensor

from dettoolkit.backbones.mobilenet import MobileNet

StateDict = dict[str, Tensor]


def is_ssdlite(state: StateDict) -> bool:
    """Tell torchvision's SSDLite by the name it gives to the backbone."""
    return any(key.startswith("backbone.features.") for key in state)


def is_lraspp(state: StateDict) -> bool:
    """Tell torchvision's LR-ASPP by its backbone, whose layers are numbers."""
    return any(re.match(r"backbone\.\d+\.", key) for key in state)


def is_classifier(state: StateDict) -> bool:
    """Tell torchvision's classification networks by their layers' names."""
    return any(re.match(r"(features|layers)\.\d+\.", key) for key in state)


def translate_backbone(state: StateDict, backbone: MobileNet) -> StateDict:
    """Rename torchvision's classification networks to this backbone's names; leave other keys.

    MobileNetV3 and V2 call their layers `features.<n>`, MnasNet `layers.<n>`.
    """
    if any(key.startswith("layers.") for key in state):
        state = _name_as_mobilenet_v2(state)
    rows = len(backbone.blocks)

    def rename(match: re.Match[str]) -> str:
        layer, rest = int(match[1]), match[2]
        if layer == 0:
            return f"stem.{rest}"
        if layer > rows:
            return f"last.{rest}" if layer == rows + 1 else match[0]
        return _rename_block(rest, f"blocks.{layer - 1}", backbone.row_parts[layer - 1]) or match[0]

    return {re.sub(r"^features\.(\d+)\.(.+)$", rename, key): value for key, value in state.items()}


def _name_as_mobilenet_v2(state: StateDict) -> StateDict:
    """Rename torchvision's MnasNet to the names that its MobileNetV2 has.

    Its first layers are the stem and the first block, written out one by one; then come stacks of blocks, and
    the last convolution.
    """
    stacks = sorted(
        {(int(m[1]), int(m[2])) for key in state if (m := re.match(r"layers\.(\d+)\.(\d+)\.layers", key))}
    )
    number = {stack: place for place, stack in enumerate(stacks, start=2)}
    last = max((stack for stack, _ in stacks), default=0) + 1
    plain = {0: "0.0", 1: "0.1", 3: "1.conv.0.0", 4: "1.conv.0.1", 6: "1.conv.1", 7: "1.conv.2"}
    plain |= {last: f"{len(stacks) + 2}.0", last + 1: f"{len(stacks) + 2}.1"}
    inner = {0: "0.0", 1: "0.1", 3: "1.0", 4: "1.1", 6: "2", 7: "3"}

    def rename(key: str) -> str:
        if match := re.fullmatch(r"layers\.(\d+)\.(\d+)\.layers\.(\d+)\.(.+)", key):
            place = number[int(match[1]), int(match[2])]
            return f"features.{place}.conv.{inner[int(match[3])]}.{match[4]}"
        match = re.fullmatch(r"layers\.(\d+)\.(\w+)", key)
        return f"features.{plain[int(match[1])]}.{match[2]}" if match else key

    return {rename(key): value for key, value in state.items()}


def _rename_block(rest: str, prefix: str, parts: list[str]) -> str | None:
    """Turn `block.1.0.weight` into `<prefix>.<second part>.0.weight`.

    MobileNetV2's `conv` has the same numbers, but for its last part, which is not grouped: `conv.2` is the
    last convolution, `conv.3` its normalization.
    """
    match = re.fullmatch(r"(block|conv)\.(\d+)\.(.+)", rest)
    if match is None:
        return None
    part, name = int(match[2]), match[3]
    if match[1] == "conv" and part >= len(parts) - 1:
        part, name = len(parts) - 1, f"{part - len(parts) + 1}.{name}"
    return f"{prefix}.{parts[part]}.{name}" if part < len(parts) else None


def translate_classifier(state: StateDict, backbone: MobileNet) -> StateDict:
    """Rename torchvision's classification networks to a classifier's `backbone.*` and `head.*`.

    Of its `classifier.<n>` the last layer with weights gives the classes; one before it is MobileNetV3's
    hidden layer.
    """
    head = [key for key in state if re.match(r"classifier\.\d+\.", key)]
    layers = sorted({int(key.split(".")[1]) for key in head})
    names = dict(zip(layers, ("hidden.0", "classifier")[-len(layers) :], strict=True)) if layers else {}
    inner = {key: value for key, value in state.items() if key not in head}
    result = {f"backbone.{key}": value for key, value in translate_backbone(inner, backbone).items()}
    for key in head:
        _, layer, name = key.split(".", 2)
        result[f"head.{names[int(layer)]}.{name}"] = state[key]
    return result


def translate_ssdlite(state: StateDict, backbone: MobileNet) -> StateDict:
    """Rename torchvision's `ssdlite320_mobilenet_v3_large` to a detector's `backbone.*` and `head.*`.

    torchvision cuts the backbone in two inside the C4 row: `features.0` ends with that row's expansion,
    `features.1` starts with the rest of the row.
    """
    plain: StateDict = {}
    c4 = backbone.c4_row
    for key, value in state.items():
        match = re.fullmatch(r"backbone\.features\.([01])\.(\d+)\.(.+)", key)
        if match is None:
            plain[key] = value
            continue
        half, layer, rest = int(match[1]), int(match[2]), match[3]
        if half == 0:
            name = f"features.{c4}.block.0.{rest}" if layer == c4 else f"features.{layer}.{rest}"
        elif layer == 0:
            name = f"features.{c4}.block.{rest}"  # a slice of a Sequential keeps its numbers
        else:
            name = f"features.{c4 + layer}.{rest}"
        plain[f"features:{name}"] = value
    inner = {key.removeprefix("features:"): v for key, v in plain.items() if key.startswith("features:")}
    result = {f"backbone.{key}": v for key, v in translate_backbone(inner, backbone).items()}
    renames = (
        (r"^backbone\.extra\.", "head.extras."),
        (r"^head\.classification_head\.module_list\.", "head.class_predictors."),
        (r"^head\.regression_head\.module_list\.", "head.box_predictors."),
    )
    rest = {key: value for key, value in plain.items() if not key.startswith("features:")}
    return result | _rename(rest, renames)


def translate_lraspp(state: StateDict, backbone: MobileNet) -> StateDict:
    """Rename torchvision's `lraspp_mobilenet_v3_large` to a segmenter's `backbone.*` and `head.*`."""
    inner = {
        key.replace("backbone.", "features.", 1): value
        for key, value in state.items()
        if key.startswith("backbone.")
    }
    result = {f"backbone.{key}": value for key, value in translate_backbone(inner, backbone).items()}
    renames = (
        (r"^classifier\.cbr\.", "head.branch."),
        (r"^classifier\.scale\.1\.", "head.gate."),
        (r"^classifier\.low_classifier\.", "head.low_classifier."),
        (r"^classifier\.high_classifier\.", "head.classifier."),
    )
    rest = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    return result | _rename(rest, renames)


def _rename(state: StateDict, renames: tuple[tuple[str, str], ...]) -> StateDict:
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in renames:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed
