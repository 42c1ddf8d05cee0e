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


def listing(names: Sequence[str]) -> str:
    """Name up to eight, and count the rest."""
    shown = ", ".join(names[:8])
    return f"{shown} … {len(names) - 8} more" if len(names) > 8 else shown or "none"


def refuse_replaced(report: LoadReport, weights: str, *, num_classes: int, hint: str) -> None:
    """Refuse to score weights whose class layers had another size and would start fresh.

    Raises:
        ValueError: with the hint as its end.
    """
    if report.replaced:
        raise ValueError(
            f"{weights} predicts another number of classes than the {num_classes} of the data set "
            f"({len(report.replaced)} tensors of another size): score it on data of its own classes; {hint}"
        )
