"""A recipe's backbone; no Lightning, so that a model loads without it."""

from __future__ import annotations

from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.config.sections import Backbone


def build_backbone(section: Backbone) -> MobileNet:
    """Build the backbone with random weights."""
    return MobileNet(
        network=section.type,
        width=section.width,
        tail=section.tail,
        last_conv=section.last_conv,
        rounding=section.rounding,
        output_stride=section.output_stride,
        dilate_c4=section.dilate_c4,
        norm_eps=section.norm_eps,
        norm_momentum=section.norm_momentum,
    )
