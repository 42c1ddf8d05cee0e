"""Start a network from one with other blocks: fewer or more channels, other kernels, other depths.

NetAdapt (arXiv 1804.03230, section 3.2) keeps the filters with the largest L2 norm, and removes the same
channels from what reads them. What has other kernels is mapped as FNA does (arXiv 2001.02525, section 3.2).

A space of channels is an expansion, a squeeze, the last convolution, or all outputs that a residual adds up.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal, cast

import torch
from torch import Tensor, nn

from dettoolkit.backbones.blocks import InvertedResidual
from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.backbones.tables import Table
from dettoolkit.network import Network

Criterion = Literal["norm", "scale"]
"""What says which channels are kept: the L2 norm of their filters, or batch normalization's scale."""


@torch.no_grad()
def inherit(
    network: Network, start: Network, *, by: Criterion = "norm", ancestors: Sequence[int | None] | None = None
) -> None:
    """Copy the weights of `start` into `network`, whose blocks may differ, where there is an ancestor.

    Of a space with fewer channels the best are kept, in their order; of one with more, the first ones are
    those of `start`, and the others keep their random weights. A block without an ancestor that adds its
    input starts as the identity. With the same blocks, the outputs are the same to the last bit.

    Args:
        network: the new one, built by its recipe. Its heads must be those of `start` in everything but the
            backbone's channels.
        start: a trained network.
        by: which channels are kept.
        ancestors: the row of `start` that each row of `network` comes from, 1-based; None for a new row.
            Without it, `matching_rows` of both tables.
    """
    if list(network.heads) != list(start.heads):
        raise ValueError(
            f"the new network has heads for {', '.join(network.heads)}, the start for "
            f"{', '.join(start.heads)}: only blocks may differ"
        )
    ours, theirs = cast(MobileNet, network.backbone), cast(MobileNet, start.backbone)
    rows = matching_rows(ours.table, theirs.table) if ancestors is None else ancestors
    if len(rows) != len(ours.table.rows):
        raise ValueError(f"ancestors must have {len(ours.table.rows)} rows, got {len(rows)}")
    channels = _Channels(theirs, by)
    _inherit_backbone(ours, theirs, channels, rows)
    features = _features(ours, channels, rows)
    for name, head in network.heads.items():
        _inherit_head(head, start.heads[name], features, f"heads.{name}")


def matching_rows(ours: Table, theirs: Table) -> list[int | None]:
    """Return which row of one table each row of another comes from, 1-based; None where there is none.

    Between two halvings, the first group of rows that share a residual comes from the first one there, and so
    on, and inside a group the first row from the first.
    """
    found = {place: number for number, place in enumerate(_places(theirs), start=1)}
    return [found.get(place) for place in _places(ours)]


def _places(table: Table) -> list[tuple[int, int, int]]:
    """Return of each row: halvings before, groups since the halving, rows since the group began."""
    places: list[tuple[int, int, int]] = []
    halvings, group, inside = 0, 0, 0
    for number, row in enumerate(table.rows, start=1):
        if row.stride == 2:
            halvings, group, inside = halvings + 1, 0, 0
        elif table.groups[number] == number:
            group, inside = group + 1, 0
        else:
            inside += 1
        places.append((halvings, group, inside))
    return places


class _Channels:
    """Which channels of a network's spaces are kept, by the space and the number wanted."""

    def __init__(self, backbone: MobileNet, by: Criterion) -> None:
        self.backbone, self.by = backbone, by
        self.table, self.blocks = backbone.table, cast(list[InvertedResidual], list(backbone.blocks))
        self.outputs = cache(self._outputs)
        self.expansion = cache(self._expansion)

    def _outputs(self, number: int, wanted: int) -> Tensor:
        """Keep outputs of the stem (0) or a row, with all that are added to them."""
        group = self.table.groups[number]
        writers = [at for at, each in enumerate(self.table.groups) if each == group]
        layers = [self.backbone.stem if at == 0 else self.blocks[at - 1].project for at in writers]
        return self._best(layers, wanted)

    def _expansion(self, number: int, wanted: int) -> Tensor:
        """Keep channels inside a row; those of one without an expanding convolution are its input's."""
        block = self.blocks[number - 1]
        if isinstance(block.expand, nn.Identity):
            return self.outputs(number - 1, wanted)
        parts = [part for part in (block.expand, block.depthwise) if not isinstance(part, nn.Identity)]
        return self._best(parts if self.by == "scale" else parts[:1], wanted)

    def squeezed(self, number: int, wanted: int) -> Tensor:
        """Keep channels between squeeze and excitation; no normalization follows them."""
        layer = cast(nn.Conv2d, cast(nn.Module, self.blocks[number - 1].squeeze).fc1)
        return _largest(layer.weight.flatten(1).norm(dim=1), wanted)

    def last(self, wanted: int) -> Tensor:
        """Keep outputs of the last convolution, or of the last row where there is none."""
        if isinstance(self.backbone.last, nn.Identity):
            return self.outputs(len(self.blocks), wanted)
        return self._best([self.backbone.last], wanted)

    def _best(self, layers: Sequence[nn.Module], wanted: int) -> Tensor:
        """Keep the channels that several layers, of convolution and normalization each, score highest."""
        pairs = [(cast(nn.Conv2d, layer[0]), cast(nn.BatchNorm2d, layer[1])) for layer in layers]  # type: ignore[index]
        if self.by == "scale":
            return _largest(sum((norm.weight.abs() for _, norm in pairs), torch.zeros(())), wanted)
        squares = sum((conv.weight.flatten(1).square().sum(1) for conv, _ in pairs), torch.zeros(()))
        return _largest(squares, wanted)


def _largest(scores: Tensor, wanted: int) -> Tensor:
    """Return the indices of the largest scores in rising order; of equal ones the first."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:wanted].sort().values


def _inherit_backbone(
    ours: MobileNet, theirs: MobileNet, channels: _Channels, ancestors: Sequence[int | None]
) -> None:
    table = ours.table
    _copy_pair(ours.stem, theirs.stem, out=channels.outputs(0, table.stem_channels))
    for row, inputs, block, ancestor in zip(table.rows, table.inputs, ours.blocks, ancestors, strict=False):
        block = cast(InvertedResidual, block)
        if ancestor is None:
            if block.adds_input:
                nn.init.zeros_(cast(nn.BatchNorm2d, block.project[1]).weight)
            continue
        before, out = channels.outputs(ancestor - 1, inputs), channels.outputs(ancestor, row.channels)
        expansion, old = channels.expansion(ancestor, row.expansion), channels.blocks[ancestor - 1]
        _copy_pair(block.expand, old.expand, out=expansion, inputs=before)
        _copy_pair(block.depthwise, old.depthwise, out=expansion)
        _copy_pair(block.project, old.project, out=out, inputs=expansion)
        if not isinstance(block.squeeze, nn.Identity) and not isinstance(old.squeeze, nn.Identity):
            squeezed = channels.squeezed(ancestor, block.squeeze.fc1.out_channels)
            _copy(block.squeeze.fc1, old.squeeze.fc1, out=squeezed, inputs=expansion)
            _copy(block.squeeze.fc2, old.squeeze.fc2, out=expansion, inputs=squeezed)
    if not isinstance(ours.last, nn.Identity):
        read = channels.outputs(ancestors[-1] or len(channels.blocks), table.rows[-1].channels)
        _copy_pair(ours.last, theirs.last, out=channels.last(ours.channels["c5"]), inputs=read)


def _features(ours: MobileNet, channels: _Channels, ancestors: Sequence[int | None]) -> dict[str, Tensor]:
    """Return the channels of the start that each feature has."""
    table = ours.table
    rows = dict(zip(("low_first", "low", "c4"), table.taps, strict=True))
    old = dict(zip(rows, channels.table.taps, strict=True))  # of a row without an ancestor
    origin = {name: ancestors[number - 1] or old[name] for name, number in rows.items()}
    return {
        "low_first": channels.outputs(origin["low_first"], ours.channels["low_first"]),
        "low_depthwise": channels.expansion(origin["low"], ours.channels["low_depthwise"]),
        "low": channels.outputs(origin["low"], ours.channels["low"]),
        "c4": channels.expansion(origin["c4"], ours.channels["c4"]),
        "c5": channels.last(ours.channels["c5"]),
    }


def _inherit_head(head: nn.Module, start: nn.Module, features: dict[str, Tensor], name: str) -> None:
    patterns: dict[str, tuple[str, ...]] = getattr(head, "feature_layers", {})
    for path, layer in head.named_modules():
        theirs = start.get_submodule(path)
        read = [f for f, layers in patterns.items() if any(fnmatchcase(path, each) for each in layers)]
        kept = features[read[0]] if read else None
        depthwise = isinstance(layer, nn.BatchNorm2d) or getattr(layer, "groups", 1) > 1
        index = {"out": kept} if depthwise else {"inputs": kept}
        try:
            _copy(layer, theirs, **index)
        except ValueError as error:
            raise ValueError(
                f"{name}.{path}: {error}. Only blocks may differ, and the head's feature_layers must name "
                "the layers that read the backbone's features"
            ) from None


def _copy_pair(ours: nn.Module, theirs: nn.Module, *, out: Tensor, inputs: Tensor | None = None) -> None:
    """Copy a convolution and its normalization, if both networks have them."""
    if isinstance(ours, nn.Sequential) and isinstance(theirs, nn.Sequential):
        _copy(ours[0], theirs[0], out=out, inputs=inputs)
        _copy(ours[1], theirs[1], out=out)


def _copy(
    ours: nn.Module, theirs: nn.Module, *, out: Tensor | None = None, inputs: Tensor | None = None
) -> None:
    """Copy the kept outputs and inputs of a layer's own tensors; None takes all, where sizes are equal."""
    own = ours.state_dict(keep_vars=True)
    for name, target in ((name, tensor) for name, tensor in own.items() if "." not in name):
        source = cast(Tensor, getattr(theirs, name))
        if out is not None and source.dim() > 0:
            source = source.index_select(0, out)
        if inputs is not None and source.dim() > 1:
            source = source.index_select(1, inputs)
        if source.dim() == 4:
            source = _resize_kernel(source, target.shape[2])
        more = (out is not None, inputs is not None, False, False)  # the dimensions that may have more
        fits = [
            have == want or (have < want and may)
            for have, want, may in zip(source.shape, target.shape, more, strict=False)
        ]
        if source.dim() != target.dim() or not all(fits):
            raise ValueError(
                f"{name} is {tuple(source.shape)} in the start and {tuple(target.shape)} in the new network"
            )
        target[tuple(slice(size) for size in source.shape)] = source


def _resize_kernel(weight: Tensor, side: int) -> Tensor:
    """Return kernels (O, I, k, k) of another side: their middle, or with zeros around them."""
    margin = (side - weight.shape[2]) // 2
    return nn.functional.pad(weight, (margin,) * 4)
