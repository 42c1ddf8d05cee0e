"""From one forward of a network with both heads, raw or final, to objects and label maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from dettoolkit.detection.result import DetectionResult
from dettoolkit.joint.result import JointResult
from dettoolkit.joint.single_tasks import part
from dettoolkit.joint.spec import BOXES, MAPS
from dettoolkit.manifest import Manifest
from dettoolkit.results import Image, Result
from dettoolkit.segmentation.result import SegmentationResult
from dettoolkit.spec import Decoder

Output = TypeVar("Output")


def split_outputs(outputs: Sequence[Output], *, final: bool) -> list[Sequence[Output]]:
    """Return the outputs of each head, of those of a network or, `final`, of a file that gives answers."""
    boxes = len(BOXES.final_outputs if final else BOXES.raw_outputs)
    return [outputs[:boxes], outputs[boxes:]]


def decoder(manifest: Manifest, device: torch.device) -> Decoder:
    """Return what turns the outputs of one forward into objects and label maps."""
    decoders = [spec.decoder(part(manifest, spec.name), device) for spec in (BOXES, MAPS)]

    def decode(forward: Any, inputs: Tensor, images: Sequence[Image], *, min_score: float) -> list[Result]:
        outputs = forward(inputs)

        def of(head: int) -> Callable[[Tensor], Sequence[Tensor]]:
            # Label maps may be asked for mirrored images too, which are a forward of their own.
            return lambda batch: split_outputs(
                outputs if batch is inputs else forward(batch), final=manifest.final
            )[head]

        found = [each(of(head), inputs, images, min_score=min_score) for head, each in enumerate(decoders)]
        return [
            JointResult(
                path=None,
                image=image,
                class_names=manifest.class_names,
                class_ids=manifest.section.class_ids,
                detection=cast(DetectionResult, objects),
                segmentation=cast(SegmentationResult, classes),
            )
            for image, objects, classes in zip(images, *found, strict=True)
        ]

    return decode
