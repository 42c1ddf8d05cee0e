"""A teacher: a trained network that another one learns from (knowledge distillation, arXiv 1503.02531)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dettoolkit.manifest import Manifest, SizeHW, nearest_hw
from dettoolkit.network import Features, Network, Outputs

Compare = Callable[[Any, Any], dict[str, Tensor]]
"""(the student's outputs, the teacher's) -> the parts of the loss, by name; `TaskSpec.distiller` makes it."""
FeatureLoss = Callable[[Tensor, Tensor], Tensor]
"""(a feature of the student, the teacher's) -> its weighted loss."""


class Stopwatch:
    """Add up the time that blocks take on a device, without waiting for a GPU before it is asked for."""

    def __init__(self) -> None:
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self.blocks, self._seconds = 0, 0.0
        self._pending.clear()

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Measure a block."""
        self.blocks += 1
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            yield
            end.record()
            self._pending.append((start, end))
        else:
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started

    @property
    def seconds(self) -> float:
        """Return the time so far."""
        for start, end in self._pending:
            end.synchronize()
            self._seconds += start.elapsed_time(end) / 1000
        self._pending.clear()
        return self._seconds


@dataclass(kw_only=True, eq=False)
class Teacher:
    """A frozen network and what is learned from it.

    It is given the images that the student is given, as augmentation and mixing have made them, normalized
    and resized as it was trained. A network for images of any size gets them `scale` times as large.
    """

    network: Network  # in evaluation mode, without gradients
    manifest: Manifest
    description: Mapping[str, str]  # where it is from, its name, and a checksum of its weights
    mean: Sequence[float]  # of the student's images, as `normalize` takes them
    std: Sequence[float]
    input_hw: SizeHW | None  # that it takes; None: any
    scale: float
    compare: Compare
    feature_losses: Mapping[str, FeatureLoss]  # by the features' names
    clock: Stopwatch = field(default_factory=Stopwatch)

    def __post_init__(self) -> None:
        self._answer = self.network.with_features

    def __deepcopy__(self, memo: Any) -> Self:
        """Return the teacher itself: copies of a student, such as an average of its weights, share it."""
        return self

    def compile(self) -> None:
        """Compile the network."""
        self._answer = torch.compile(self.network.with_features)

    @torch.no_grad()
    def answer(self, images: Tensor) -> tuple[Outputs, Features]:
        """Return its outputs and features for the student's normalized images (N, 3, H, W)."""
        own = (self.manifest.mean, self.manifest.std)
        if own != (tuple(self.mean), tuple(self.std)):
            mean, std, own_mean, own_std = (
                torch.tensor(each, device=images.device).view(1, 3, 1, 1)
                for each in (self.mean, self.std, *own)
            )
            images = (images * std + mean - own_mean) / own_std
        scaled = (round(self.scale * images.shape[2]), round(self.scale * images.shape[3]))
        own_hw = self.input_hw or nearest_hw(scaled, self.manifest.multiple)
        if own_hw != images.shape[2:]:
            images = F.interpolate(images, list(own_hw), mode="bilinear", align_corners=False, antialias=True)
        return self._answer(images)

    def losses(
        self, images: Tensor, outputs: Outputs, features: Features, adapters: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """Return what the student loses by differing, as "distill_…".

        `images` are the student's normalized ones, (N, 3, H, W); `outputs` and `features` what it made of
        them. Adapters map features to the teacher's channels, by `adapter_of`.
        """
        with self.clock.running(images.device):
            answers, theirs = self.answer(images)
        parts = self.compare(outputs, answers)
        if self.feature_losses:
            losses = []
            for name, loss_of in self.feature_losses.items():
                key = adapter_of(name)
                ours = adapters[key](features[name]) if key in adapters else features[name]
                losses.append(loss_of(ours, theirs[name]))
            parts["features"] = torch.stack(losses).sum()
        return {f"distill_{name}": part for name, part in parts.items()}


def adapter_of(feature: str) -> str:
    """Return the name of a feature's adapter among a task's auxiliary parts."""
    return f"distill_{feature}"


def compare_nothing(outputs: object, answers: object) -> dict[str, Tensor]:  # noqa: ARG001
    """Return no loss: outputs are not learned from."""
    return {}
