"""Rename torchvision's weights of whole networks to the names of ours."""

from __future__ import annotations

import re

from torch import Tensor

from dettoolkit.backbones.mobilenet import MobileNetV3

StateDict = dict[str, Tensor]


def is_ssdlite(state: StateDict) -> bool:
    """Tell torchvision's SSDLite by the name it gives to the backbone."""
    return any(key.startswith("backbone.features.") for key in state)


def is_lraspp(state: StateDict) -> bool:
    """Tell torchvision's LR-ASPP by its backbone, whose layers are numbers."""
    return any(re.match(r"backbone\.\d+\.", key) for key in state)


def translate_backbone(state: StateDict, backbone: MobileNetV3) -> StateDict:
    """Rename torchvision's `features.*` of a MobileNetV3 to this backbone's names; leave other keys."""
    rows = len(backbone.blocks)

    def rename(match: re.Match[str]) -> str:
        layer, rest = int(match[1]), match[2]
        if layer == 0:
            return f"stem.{rest}"
        if layer > rows:
            return f"last.{rest}" if layer == rows + 1 else match[0]
        return _rename_block(rest, f"blocks.{layer - 1}", backbone.row_parts[layer - 1]) or match[0]

    return {re.sub(r"^features\.(\d+)\.(.+)$", rename, key): value for key, value in state.items()}


def _rename_block(rest: str, prefix: str, parts: list[str]) -> str | None:
    """Turn `block.1.0.weight` into `<prefix>.<second part>.0.weight`."""
    match = re.fullmatch(r"block\.(\d+)\.(.+)", rest)
    if match is None or int(match[1]) >= len(parts):
        return None
    return f"{prefix}.{parts[int(match[1])]}.{match[2]}"


def translate_ssdlite(state: StateDict, backbone: MobileNetV3) -> StateDict:
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


def translate_lraspp(state: StateDict, backbone: MobileNetV3) -> StateDict:
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
