"""The blocks of a network as data, which a table of latencies is about, and the modules that they describe.

N: images, (h, w): size of a block's input, (H, W): of the image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from dettoolkit.backbones.blocks import ACTIVATIONS, InvertedResidual, SameConv2d, SqueezeExcite

Side = Annotated[int, Meta(ge=1, le=16384)]
Channels = Annotated[int, Meta(ge=0, le=1_000_000)]
Small = Annotated[int, Meta(ge=1, le=1024)]
Name = Annotated[str, Meta(max_length=32)]
VECTOR = 16  # float32 in the widest vectors of processors (AVX-512), by which runtimes block channels
Kind = Literal["bottleneck", "fused", "convolution", "depthwise"]


@dataclass(frozen=True, kw_only=True, order=True)
class Block:
    """What a runtime computes in one piece: a row of a network, or a convolution with its activation.

    `expansion` is 0 where there is none inside, as is `squeezed`, the channels between squeeze and
    excitation. `activation` is none for a linear layer. `linear` False: an activation after the projection.
    """

    kind: Kind
    in_hw: tuple[Side, Side]
    in_channels: Channels
    out_channels: Channels
    kernel: Small
    stride: Small
    activation: Name
    expansion: Channels = 0
    squeezed: Channels = 0
    gate: Name = "none"
    dilation: Small = 1
    linear: bool = True
    adds_input: bool = False
    same_padding: bool = False

    @property
    def out_hw(self) -> tuple[int, int]:
        """Return the size of the output."""
        return -(-self.in_hw[0] // self.stride), -(-self.in_hw[1] // self.stride)

    @property
    def fills_vectors(self) -> bool:
        """Return whether the channels inside fill whole vectors; some runtimes are slow where not."""
        return (self.expansion or self.out_channels) % VECTOR == 0

    @property
    def costs(self) -> tuple[float, ...]:
        """Return what its time is made of, in millions; 1 for what every block takes.

        Multiply-adds of pointwise and plain convolutions, of depthwise ones, values that are read and
        written, values that squeeze-and-excite moves, values that pass a hard swish; and once more the second
        and third where the channels inside do not fill whole vectors.
        """
        before, after = math.prod(self.in_hw), math.prod(self.out_hw)
        inside = self.expansion or self.in_channels
        window = self.kernel**2
        if self.kind == "convolution":
            dense, depthwise = self.in_channels * self.out_channels * window * after, 0
            moved = before * self.in_channels + after * self.out_channels
            activated = after * self.out_channels
        elif self.kind == "depthwise":
            dense, depthwise = 0, inside * window * after
            moved, activated = inside * (before + after), inside * after
        else:
            filtered = self.in_channels * inside * window * after if self.kind == "fused" else 0
            expands = self.kind == "bottleneck" and inside != self.in_channels
            dense = filtered + inside * self.out_channels * after
            dense += self.in_channels * inside * before if expands else 0
            depthwise = inside * window * after if self.kind == "bottleneck" else 0
            activated = inside * (after + (before if expands else 0))
            moved = activated + before * self.in_channels + after * self.out_channels
        squeezed = inside * after if self.squeezed else 0
        swish = activated if self.activation == "hardswish" else 0
        odd = not self.fills_vectors
        found = (dense, depthwise, moved, squeezed, swish, odd * depthwise, odd * moved)
        return (1.0, *(value / 1e6 for value in found))

    def __str__(self) -> str:
        height, width = self.in_hw
        parts = [f"{self.kind} {self.kernel}x{self.kernel}", f"{self.in_channels}->{self.out_channels}"]
        parts += [f"expansion {self.expansion}"] if self.expansion else []
        parts += [f"stride {self.stride}"] if self.stride > 1 else []
        parts += ["squeeze-excite"] if self.squeezed else []
        return f"{' '.join(parts)} at {height}x{width}"


def blocks_of(network: nn.Module, input_hw: tuple[int, int]) -> list[tuple[Block, nn.Module]]:
    """Return a network's blocks in the order in which they run on an image (H, W), with their modules.

    Resizing, concatenating and reshaping are in none of them. The network stays as it is.
    """
    probe = copy.deepcopy(network).to("meta").eval()  # shapes are enough
    # What the copy shares with the network is its order, so names lead from one to the other.
    originals = dict(network.named_modules())
    found: list[tuple[Block, nn.Module]] = []

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        height, width = inputs[0].shape[2:] if inputs[0].dim() == 4 else (1, 1)
        found.append((describe(module, (int(height), int(width))), originals[name]))

    for name, module in _pieces(probe):
        module.register_forward_hook(partial(note, name))
    with torch.no_grad():
        probe(torch.zeros(1, 3, *input_hw, device="meta"))
    return found


def _pieces(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that are a block each, with their names."""
    if isinstance(module, InvertedResidual | Conv2dNormActivation | nn.Conv2d | nn.Linear):
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _pieces(child, f"{name}.{child_name}" if name else child_name)


def describe(module: nn.Module, in_hw: tuple[int, int]) -> Block:
    """Return a module of `blocks_of` as data, for inputs (N, C, h, w)."""
    if isinstance(module, nn.Linear):
        return Block(
            kind="convolution",
            in_hw=(1, 1),
            in_channels=module.in_features,
            out_channels=module.out_features,
            kernel=1,
            stride=1,
            activation="none",
        )
    if not isinstance(module, InvertedResidual):
        return _convolution(module, in_hw)
    fused = isinstance(module.depthwise, nn.Identity)
    filters = module.expand if fused else module.depthwise
    first = filters if isinstance(module.expand, nn.Identity) else module.expand
    filtering, project = _convolution(filters, in_hw), _convolution(module.project, in_hw)
    squeeze = module.squeeze if isinstance(module.squeeze, SqueezeExcite) else None
    return Block(
        kind="fused" if fused else "bottleneck",
        in_hw=in_hw,
        in_channels=_layer(first).in_channels,
        out_channels=project.out_channels,
        kernel=filtering.kernel,
        stride=filtering.stride,
        activation=filtering.activation,
        expansion=filtering.out_channels,
        squeezed=squeeze.fc1.out_channels if squeeze is not None else 0,
        gate=type(squeeze.gate).__name__ if squeeze is not None else "none",
        dilation=filtering.dilation,
        linear=project.activation == "none",
        adds_input=module.adds_input,
        same_padding=filtering.same_padding,
    )


def _layer(module: nn.Module) -> nn.Conv2d:
    """Return the convolution of a module that is one, or begins with one."""
    layer = module if isinstance(module, nn.Conv2d) else next(iter(module.children()), module)
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(f"expected a convolution, got {type(module).__name__}: no block is known for it")
    return layer


def _convolution(module: nn.Module, in_hw: tuple[int, int]) -> Block:
    layer = _layer(module)
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    activations = [names[type(part)] for part in module.children() if type(part) in names]
    return Block(
        kind="depthwise" if layer.groups > 1 else "convolution",
        in_hw=in_hw,
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        kernel=max(layer.kernel_size),
        stride=max(layer.stride),
        activation=activations[0] if activations else "none",
        dilation=max(layer.dilation),
        same_padding=isinstance(layer, SameConv2d),
    )


class Probe(nn.Module):
    """A block between a 1x1 convolution and an average, so that it gets and gives what it does in a network.

    Alone its input and output would have the layout of a runtime's inputs, not that of its convolutions.
    Without a block it is what the block's time is counted from.
    """

    def __init__(self, channels: int, module: nn.Module | None) -> None:
        super().__init__()
        self.source = nn.Identity() if channels == 3 else nn.Conv2d(3, channels, 1)
        self.block = nn.Identity() if module is None else module

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, h, w) to the averages of the block's output channels (N, C, 1, 1)."""
        x = self.source(images)
        if isinstance(self.block, nn.Linear):
            x = x.flatten(1)
        y = self.block(x)
        if isinstance(y, tuple):  # of an `InvertedResidual`, whose output is the last
            y = y[-1]
        averages: Tensor = y if y.dim() == 2 else y.mean((2, 3), keepdim=True)
        return averages


def with_lively_weights(network: nn.Module) -> nn.Module:
    """Copy a network with random weights that keep the size of activations, as those of a trained one do.

    Values that fade from layer to layer end as denormal numbers, on which processors are slow.
    """
    result = copy.deepcopy(network).eval()
    for layer in result.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in")
    return result
