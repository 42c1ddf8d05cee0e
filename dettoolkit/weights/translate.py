"""Rename torchvision's weights to the names of ours: backbones by their layers, heads as they say."""

from __future__ import annotations

import re
from typing import TypeVar, cast

from torch import Tensor

from dettoolkit.backbones.blocks import InvertedResidual
from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.network import Network

StateDict = dict[str, Tensor]
Value = TypeVar("Value")


def translate_network(state: StateDict, network: Network) -> StateDict:
    """Rename a network of torchvision's to `backbone.*` and `heads.<name>.*`; leave ours as it is.

    Each head has `torchvision_names`: how a name begins there, and how it begins in the head.
    """
    backbone = cast(MobileNet, network.backbone)
    layers = {key: name for key in state if (name := _plain_name(key, backbone.c4_row)) is not None}
    if not layers:
        return state
    renamed = translate_backbone({name: name for name in layers.values()}, backbone)
    own = {plain: name for name, plain in renamed.items()}
    heads = [
        (theirs, f"heads.{name}.{ours}")
        for name, head in network.heads.items()
        for theirs, ours in getattr(head, "torchvision_names", ())
    ]

    def rename(key: str) -> str:
        if key in layers:
            return f"backbone.{own.get(layers[key], key)}"
        found = (ours + key.removeprefix(theirs) for theirs, ours in heads if key.startswith(theirs))
        return next(found, key)

    return {rename(key): value for key, value in state.items()}


def _plain_name(key: str, c4: int) -> str | None:
    """Return the name that a backbone's tensor has in torchvision's classification networks; None of others.

    LR-ASPP numbers the backbone's layers. SSDLite cuts the backbone in two inside the C4 row: `features.0`
    ends with that row's expansion, `features.1` starts with the rest of the row.
    """
    if re.match(r"(features|layers)\.\d+\.", key):
        return key
    if re.match(r"backbone\.\d+\.", key):
        return key.replace("backbone.", "features.", 1)
    match = re.fullmatch(r"backbone\.features\.([01])\.(\d+)\.(.+)", key)
    if match is None:
        return None
    half, layer, rest = int(match[1]), int(match[2]), match[3]
    if half == 0:
        return f"features.{c4}.block.0.{rest}" if layer == c4 else f"features.{layer}.{rest}"
    # A slice of a Sequential keeps its numbers.
    return f"features.{c4}.block.{rest}" if layer == 0 else f"features.{c4 + layer}.{rest}"


def translate_backbone(state: dict[str, Value], backbone: MobileNet) -> dict[str, Value]:
    """Rename torchvision's `features.<n>` (MnasNet's `layers.<n>`) to this backbone's names."""
    if any(key.startswith("layers.") for key in state):
        state = _name_as_mobilenet_v2(state)
    rows = len(backbone.blocks)

    def rename(match: re.Match[str]) -> str:
        layer, rest = int(match[1]), match[2]
        if layer == 0:
            return f"stem.{rest}"
        if layer > rows:
            return f"last.{rest}" if layer == rows + 1 else match[0]
        parts = cast(InvertedResidual, backbone.blocks[layer - 1]).parts
        return _rename_block(rest, f"blocks.{layer - 1}", parts) or match[0]

    return {re.sub(r"^features\.(\d+)\.(.+)$", rename, key): value for key, value in state.items()}


def _name_as_mobilenet_v2(state: dict[str, Value]) -> dict[str, Value]:
    """Rename torchvision's MnasNet to the names that its MobileNetV2 has.

    Its first layers are the stem and the first block, written out one by one; then come stacks of blocks, and
    the last convolution.
    """
    inside = [re.match(r"layers\.(\d+)\.(\d+)\.layers", key) for key in state]
    stacks = sorted({(int(match[1]), int(match[2])) for match in inside if match})
    last = max((stack for stack, _ in stacks), default=0) + 1
    plain = {0: "0.0", 1: "0.1", 3: "1.conv.0.0", 4: "1.conv.0.1", 6: "1.conv.1", 7: "1.conv.2"}
    plain |= {last: f"{len(stacks) + 2}.0", last + 1: f"{len(stacks) + 2}.1"}
    inner = {0: "0.0", 1: "0.1", 3: "1.0", 4: "1.1", 6: "2", 7: "3"}

    def rename(key: str) -> str:
        if match := re.fullmatch(r"layers\.(\d+)\.(\d+)\.layers\.(\d+)\.(.+)", key):
            place = stacks.index((int(match[1]), int(match[2]))) + 2
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
