"""What a classifier learns from a teacher's answers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dettoolkit.config.distillation import ClassificationDistill
from dettoolkit.manifest import Section
from dettoolkit.soft_losses import divergence
from dettoolkit.teacher import Compare, compare_nothing


def distiller(
    settings: ClassificationDistill,
    *,
    own: Section,  # noqa: ARG001
    theirs: Section,  # noqa: ARG001
    order: Sequence[int],
) -> Compare:
    """Return how logits (N, K) are compared with a teacher's; see TaskSpec.distiller."""
    section = settings.outputs
    if section is None:
        return compare_nothing

    def compare(outputs: Tensor, answers: Tensor) -> dict[str, Tensor]:
        loss = divergence(outputs, answers[:, list(order)], dim=1, temperature=section.temperature)
        return {"outputs": section.weight * loss}

    return compare
