"""Load weights into a network with every difference named; what a head may replace, the head says."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple, cast

from torch import nn

from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.config.model import Model
from dettoolkit.finite import require_finite
from dettoolkit.network import Network
from dettoolkit.weights.read import read_weights
from dettoolkit.weights.translate import StateDict, translate_network

logger = logging.getLogger(__name__)

SHOWN = 8  # differences that a message lists


class LoadReport(NamedTuple):
    """What a load left out, by name: in the file only, and of another shape; heads that the file lacks."""

    surplus: list[str]
    replaced: list[str]
    absent: tuple[str, ...] = ()


def load_weights(
    module: nn.Module, state: StateDict, *, source: str, replaceable: Collection[str] = (), remedy: str
) -> LoadReport:
    """Load `state` into `module` and name every difference; nothing is dropped silently.

    Tensors named in `replaceable`, such as a class head of another size, may have another shape in the file
    and then keep their fresh values. `source` and `remedy`, what to do about weights that do not fit, are for
    the error: a tensor is missing, not finite or of another shape.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in own]
    shapes = {key: (tuple(state[key].shape), tuple(own[key].shape)) for key in own if key in state}
    differs = {key: pair for key, pair in shapes.items() if pair[0] != pair[1]}
    refused = [
        f"{key} is {theirs} in the file, {ours} in the network"
        for key, (theirs, ours) in differs.items()
        if key not in replaceable
    ]
    if missing or refused:
        lines = [f"{source} does not fit this network ({len(own)} tensors):"]
        for what, found, separator in (
            ("missing in the file", missing, ", "),
            ("in the file only", surplus, ", "),
            ("of a different shape", refused, "; "),
        ):
            more = f" … and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            if found:
                lines.append(f"  {what} ({len(found)}): {separator.join(found[:SHOWN])}{more}")
        raise ValueError("\n".join([*lines, f"  {remedy}"]))
    if differs:
        logger.warning(
            "%s: %d tensors have a different size in the file and are newly initialized: %s",
            source,
            len(differs),
            "; ".join(f"{key} {theirs} -> {ours}" for key, (theirs, ours) in differs.items()),
        )
    if surplus:
        logger.warning(
            "%s: %d tensors of the file are not in the network: %s", source, len(surplus), ", ".join(surplus)
        )
    taken = {key: value for key, value in state.items() if key in own and key not in differs}
    require_finite(
        taken.items(),
        source=source,
        remedy="the file is damaged or its training diverged: use an earlier checkpoint, or other weights",
    )
    module.load_state_dict(taken, strict=False)
    return LoadReport(surplus, list(differs))


def load_backbone(backbone: MobileNet, source: str, *, network: str) -> LoadReport:
    """Start a backbone from torchvision's classification weights or from a file.

    The rows from C4 on may have other sizes in the file: another tail then starts fresh, with a message.
    The file of a whole network, torchvision's or a checkpoint of ours, is read too; its head is surplus.
    """
    headless = Network(backbone=backbone, heads={})
    state = translate_network(read_weights(source, torchvision_model=network), headless)
    return load_weights(
        backbone,
        {key.removeprefix("backbone."): value for key, value in state.items()},
        source=source,
        replaceable=_tail_tensors(backbone),
        remedy="check model.backbone.type and width against the network of that file",
    )


def _tail_tensors(backbone: MobileNet) -> list[str]:
    """Return the names of the tensors from C4 on, whose sizes depend on the tail."""
    tail = ("last.", *(f"blocks.{row}." for row in range(backbone.c4_row - 1, len(backbone.blocks))))
    return [key for key in backbone.state_dict() if key.startswith(tail)]


def load_network(network: Network, source: str, *, torchvision_model: str) -> LoadReport:
    """Start a whole network from a checkpoint or state dict of ours, or from torchvision's file.

    Class layers for another number of classes start fresh, with a message; for other features they are
    refused as any tensor is. A network of several heads starts from the file of a network with some of them:
    the other heads, and a tail of another size, start fresh, with a message. Of `torchvision:NAME`,
    `torchvision_model` is torchvision's name of the network.
    """
    state = translate_network(read_weights(source, torchvision_model=torchvision_model), network)
    own = network.state_dict()
    replaceable = [
        key for key in _class_tensors(network) if state.get(key, own[key]).shape[1:] == own[key].shape[1:]
    ]
    absent = tuple(
        name for name in network.heads if not any(key.startswith(f"heads.{name}.") for key in state)
    )
    if 0 < len(absent) < len(network.heads):
        fresh = tuple(f"heads.{name}." for name in absent)
        logger.warning("%s has no head for %s: it starts with random weights", source, ", ".join(absent))
        state = {key: value for key, value in own.items() if key.startswith(fresh)} | state
        replaceable += [f"backbone.{key}" for key in _tail_tensors(cast(MobileNet, network.backbone))]
    report = load_weights(
        network,
        state,
        source=source,
        replaceable=replaceable,
        remedy="check the recipe's model against the network of that file: its type, backbone (type, width, "
        "tail), head and anchors; weights of a backbone alone go to model.backbone.weights",
    )
    return report._replace(absent=absent)


def _class_tensors(network: Network) -> Iterator[str]:
    """Yield the names of the tensors whose first dimension counts classes, by the heads' `class_layers`."""
    for name, head in network.heads.items():
        patterns = getattr(head, "class_layers", ())
        for key in head.state_dict():
            if any(fnmatchcase(key, pattern) for pattern in patterns):
                yield f"heads.{name}.{key}"


def load_trained(network: Network, state: StateDict, *, source: str) -> None:
    """Load a checkpoint's weights, all of them; the error names each difference."""
    remedy = "use a checkpoint with its own model section: overrides must not change its tensors"
    load_weights(network, state, source=source, remedy=remedy)


def load_pretrained(network: Network, model: Model, *, torchvision_model: str, exact: str | None) -> None:
    """Start a network from the weights that its recipe names, if it names any.

    With `exact` None, class layers of another size start fresh; otherwise they are refused, and `exact` is a
    hint that ends the message.
    """
    if model.backbone.weights is not None:
        load_backbone(cast(MobileNet, network.backbone), model.backbone.weights, network=model.backbone.type)
    if model.weights is None:
        return
    report = load_network(network, model.weights, torchvision_model=torchvision_model)
    if exact is None:
        return
    if report.absent:
        raise ValueError(
            f"{model.weights} has no head for {', '.join(report.absent)}: evaluate it with the recipe of its "
            "own task, or train with it first"
        )
    if report.replaced:
        classes = ", ".join(str(head.num_classes) for head in network.heads.values())
        raise ValueError(
            f"{model.weights} predicts a different number of classes than the {classes} of the data "
            f"set ({len(report.replaced)} tensors differ in size): evaluate it on data with its own classes; "
            f"{exact}"
        )
