"""What the networks of all tasks are built with; no Lightning, so that a model loads without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.config.sections import Backbone
from dettoolkit.weights.pretrained import LoadReport


def build_backbone(
    section: Backbone, *, task: Literal["detection", "segmentation", "classification"]
) -> MobileNet:
    """Build the backbone with random weights; a reduced tail is the task's own; classification has none."""
    return MobileNet(
        network=section.type,
        width=section.width,
        tail=task if section.reduced_tail and task != "classification" else "full",
        last_conv=section.last_conv,
        rounding=section.rounding,
        output_stride=section.output_stride,
        dilate_c4=section.dilate_c4,
        norm_eps=section.norm_eps,
        norm_momentum=section.norm_momentum,
    )
