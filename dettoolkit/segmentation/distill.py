"""What a segmenter learns from a teacher's answers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dettoolkit.config.distillation import SegmentationDistill
from dettoolkit.manifest import Section
from dettoolkit.soft_losses import channel_wise, divergence, resized
from dettoolkit.teacher import Compare, compare_nothing


def distiller(
    settings: SegmentationDistill,
    *,
    own: Section,  # noqa: ARG001
    theirs: Section,  # noqa: ARG001
    order: Sequence[int],
) -> Compare:
    """Return how logits (N, K, h, w) are compared with a teacher's; see TaskSpec.distiller.

    Those of another size are resized to the student's. Pixels without a label count too: the teacher has an
    answer for them.
    """
    section = settings.outputs
    if section is None:
        return compare_nothing

    def compare(outputs: Tensor, answers: Tensor) -> dict[str, Tensor]:
        answers = resized(answers[:, list(order)], outputs)
        if section.type == "cwd":
            loss = channel_wise(outputs, answers, temperature=section.temperature)
        else:
            loss = divergence(outputs, answers, dim=1, temperature=section.temperature)
        return {"outputs": section.weight * loss}

    return compare
