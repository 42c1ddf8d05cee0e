"""Load weights into a network with every difference named; what a head may replace, the head says."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

from torch import nn

from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.config.sections import Model
from dettoolkit.finite import require_finite
from dettoolkit.network import Network
from dettoolkit.weights.read import read_weights
from dettoolkit.weights.translate import StateDict, translate_network, translate_state

logger = logging.getLogger(__name__)

SHOWN = 8  # differences that a message lists


@dataclass(frozen=True)
class LoadReport:
    """What a load left out, by name: in the module only, in the file only, and of another shape."""

    missing: list[str]
    surplus: list[str]
    replaced: list[str]


def load_weights(
    module: nn.Module, state: StateDict, *, source: str, replaceable: Collection[str] = (), remedy: str
) -> LoadReport:
    """Load `state` into `module` and name every difference; nothing is dropped silently.

    Args:
        module: receives the weights.
        state: tensors by the module's names.
        source: where they come from, for messages.
        replaceable: names of tensors which may have another shape in the file and then keep their fresh
            values, such as a class head of another size.
        remedy: what to do about weights that do not fit, for the error.

    Raises:
        ValueError: a tensor is missing, has a value that is not finite, or has another shape and is not
            replaceable.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in own]
    differs = [key for key in own if key in state and own[key].shape != state[key].shape]
    replaced = [key for key in differs if key in replaceable]
    refused = [
        f"{key} is {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the network"
        for key in differs
        if key not in replaced
    ]
    if missing or refused:
        raise ValueError(f"{_refusal(source, missing, surplus, refused, len(own))}\n  {remedy}")
    if replaced:
        logger.warning(
            "%s: %d tensors have another size in the file and start fresh: %s",
            source,
            len(replaced),
            "; ".join(f"{key} {tuple(state[key].shape)} -> {tuple(own[key].shape)}" for key in replaced),
        )
    if surplus:
        logger.warning(
            "%s: %d tensors of the file are not in the network: %s", source, len(surplus), ", ".join(surplus)
        )
    taken = {key: value for key, value in state.items() if key in own and key not in replaced}
    require_finite(
        taken.items(),
        source=source,
        remedy="the file is damaged or its training diverged: use an earlier checkpoint, or other weights",
    )
    module.load_state_dict(taken, strict=False)
    return LoadReport(missing, surplus, replaced)


def _refusal(source: str, missing: list[str], surplus: list[str], refused: list[str], total: int) -> str:
    lines = [f"{source} does not fit this network ({total} tensors):"]
    if missing:
        lines.append(f"  missing in the file ({len(missing)}): {_some(missing)}")
    if surplus:
        lines.append(f"  in the file only ({len(surplus)}): {_some(surplus)}")
    if refused:
        lines.append(f"  of another shape ({len(refused)}): {_some(refused, '; ')}")
    return "\n".join(lines)


def _some(items: list[str], separator: str = ", ") -> str:
    """List the first few, and count the rest."""
    more = f" … and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return separator.join(items[:SHOWN]) + more


def load_backbone(backbone: MobileNet, source: str, *, network: str) -> LoadReport:
    """Start a backbone from torchvision's classification weights or from a file.

    The rows from C4 on may have other sizes in the file: another tail then starts fresh, with a message.
    The file of a whole network, torchvision's or a checkpoint of ours, is read too; its head is surplus.
    """
    state = translate_state(read_weights(source, torchvision_model=network), backbone)
    tail = ("last.", *(f"blocks.{row}." for row in range(backbone.c4_row - 1, len(backbone.blocks))))
    return load_weights(
        backbone,
        {key.removeprefix("backbone."): value for key, value in state.items()},
        source=source,
        replaceable=[key for key in backbone.state_dict() if key.startswith(tail)],
        remedy="check model.backbone.type and width against the network of that file",
    )


def load_network(network: Network, source: str, *, torchvision_model: str) -> LoadReport:
    """Start a whole network from a checkpoint or state dict of ours, or from torchvision's file.

    Class layers for another number of classes start fresh, with a message; for other features they are
    refused as any tensor is.

    Args:
        network: receives the weights.
        source: the file, or `torchvision:NAME`.
        torchvision_model: torchvision's name of the network, whose weights `NAME` is of.
    """
    state = translate_network(read_weights(source, torchvision_model=torchvision_model), network)
    own = network.state_dict()
    return load_weights(
        network,
        state,
        source=source,
        replaceable=[
            key for key in class_tensors(network) if state.get(key, own[key]).shape[1:] == own[key].shape[1:]
        ],
        remedy="check the recipe's model against the network of that file: its type, backbone (type, width, "
        "tail), head and anchors; weights of a backbone alone go to model.backbone.weights",
    )


def class_tensors(network: Network) -> Iterator[str]:
    """Yield the names of the tensors whose first dimension counts classes, by the heads' `class_layers`."""
    for name, head in network.heads.items():
        patterns = getattr(head, "class_layers", ())
        for key in head.state_dict():
            if any(fnmatchcase(key, pattern) for pattern in patterns):
                yield f"heads.{name}.{key}"


def load_trained(network: Network, state: StateDict, *, source: str) -> None:
    """Load a checkpoint's weights, all of them and no others.

    Raises:
        ValueError: they do not fit; the message names each difference.
    """
    load_weights(
        network,
        state,
        source=source,
        remedy="use a checkpoint with its own model section: overrides must not change its tensors",
    )


def load_pretrained(network: Network, model: Model, *, torchvision_model: str, exact: str | None) -> None:
    """Start a network from the weights that its recipe names, if it names any.

    Args:
        network: with random weights.
        model: the recipe's section.
        torchvision_model: see `load_network`.
        exact: None lets class layers of another size start fresh; otherwise they are refused, and this is
            the hint at the end of the message.

    Raises:
        ValueError: the weights do not fit.
    """
    if model.backbone.weights is not None:
        load_backbone(cast(MobileNet, network.backbone), model.backbone.weights, network=model.backbone.type)
    if model.weights is None:
        return
    replaced = load_network(network, model.weights, torchvision_model=torchvision_model).replaced
    if replaced and exact is not None:
        classes = ", ".join(str(head.num_classes) for head in network.heads.values())
        raise ValueError(
            f"{model.weights} predicts another number of classes than the {classes} of the data set "
            f"({len(replaced)} tensors of another size): score it on data of its own classes; {exact}"
        )
