"""What a detector learns from a teacher's answers: class scores of the default boxes, and boxes.

N: images, A: default boxes of all levels, S: class slots, K: classes, B: boxes of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dettoolkit.config.distillation import DetectionDistill
from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.box_coding import CODERS
from dettoolkit.detection.losses import giou_loss
from dettoolkit.detection.spec import Decoding, DetectionSection, Level

FOCUS = 2.0  # exponent of a score that weights a box: of thousands of background boxes little remains
UNIT = 1000  # boxes are compared in thousandths of the image's sides, far above the epsilon of their IoU
MAX_SCORE = 1 - 1e-6  # of a softmax: keeps its logit finite


def distiller(
    settings: DetectionDistill, *, own: DetectionSection, theirs: DetectionSection, order: Sequence[int]
) -> Comparer:
    """Return how outputs are compared with a teacher's; see TaskSpec.distiller.

    Raises:
        ValueError: scores or boxes are to be learned, but the default boxes of the two are others.
    """
    if settings.outputs is not None or settings.boxes is not None:
        shapes, others = ([level.sizes for level in each.levels] for each in (own, theirs))
        if shapes != others:
            ours, counts = ([len(sizes) for sizes in each] for each in (shapes, others))
            raise ValueError(
                f"distill.outputs and distill.boxes compare default boxes one by one, but the teacher's are "
                f"others ({counts} in a cell of each level, the network's {ours}; sizes must agree too): "
                "use a teacher with the same model.anchors and levels, or learn from its features alone: "
                "distill.outputs=null distill.boxes=null distill.features.type=pkd"
            )
    return Comparer(settings, own, theirs, list(order))


@dataclass(frozen=True)
class Comparer:
    """Compare the outputs of a detector, class logits (N, A, S) and boxes (N, A, 4), with a teacher's."""

    settings: DetectionDistill
    own: DetectionSection
    theirs: DetectionSection
    order: list[int]  # the teacher's label of each class

    def __call__(self, outputs: tuple[Tensor, Tensor], answers: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the losses "outputs" and "boxes" that are asked for; the teacher's grid may be finer."""
        parts = {}
        logits = class_logits(answers[0].detach(), self.theirs)[..., self.order]
        if (section := self.settings.outputs) is not None:
            heat = section.temperature
            scores = on_grid((logits / heat).sigmoid(), self.theirs.levels, self.own.levels)
            ours = class_logits(outputs[0], self.own) / heat
            loss = quality_focal(ours, scores, gamma=section.gamma) * heat**2
            parts["outputs"] = section.weight * loss
        if self.settings.boxes is not None:
            best = logits.sigmoid().amax(dim=-1)  # (N, A)
            parts["boxes"] = self.settings.boxes.weight * self._box_loss(outputs[1], answers[1], best)
        return parts

    def _box_loss(self, boxes: Tensor, answers: Tensor, best: Tensor) -> Tensor:
        """Return the mean GIoU loss over the boxes, each weighted by the square of the teacher's best score.

        Where several of the teacher's cells are one of the student's, that weight averages their boxes.
        """
        ours, theirs = (
            CODERS[section.coder].decode(coded.float(), _anchors(section).to(coded.device))
            for section, coded in ((self.own, boxes), (self.theirs, answers.detach()))
        )
        weights = best.pow(FOCUS).unsqueeze(-1)  # (N, A, 1)
        pooled = on_grid(torch.cat((theirs * weights, weights), -1), self.theirs.levels, self.own.levels)
        weights = pooled[..., 4]
        targets = pooled[..., :4] / pooled[..., 4:].clamp(min=1e-12)
        losses = giou_loss(ours, targets)  # (N, A)
        return (losses * weights).sum() / weights.sum().clamp(min=1)


def _anchors(section: DetectionSection) -> Tensor:
    return default_boxes(section.levels, input_hw=(UNIT, UNIT))


def class_logits(logits: Tensor, decoding: Decoding) -> Tensor:
    """Return logits (N, A, K), float32, whose sigmoid is the score of each class, of a head's (N, A, S)."""
    first, exact = int(decoding.background), logits.float()
    if decoding.activation == "sigmoid":
        return exact[..., first:]
    logs = exact.log_softmax(dim=-1)[..., first:]
    return logs - torch.log1p(-logs.exp().clamp(max=MAX_SCORE))


def quality_focal(logits: Tensor, scores: Tensor, *, gamma: float) -> Tensor:
    """Compute quality focal loss (Li et al. 2020, arXiv 2006.04388, equation 2) of logits (N, A, K).

    The targets are the teacher's scores (N, A, K). Binary cross-entropy is weighted by |score - target| to
    the power `gamma`: where both agree, nothing counts, and most is where one of the two is sure. The sum is
    divided by that of the teacher's best score of each box, to the same power: about the number of boxes in
    which it sees an object; 1 at least.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, scores, reduction="none")
    weights = (logits.sigmoid() - scores).abs().pow(gamma)
    return (weights * entropy).sum() / scores.amax(dim=-1).pow(gamma).sum().clamp(min=1)


def on_grid(values: Tensor, theirs: Sequence[Level], own: Sequence[Level]) -> Tensor:
    """Average values (N, A, C) of a teacher's default boxes, level by level, to the student's cells.

    The levels have the same boxes in a cell; each box of a cell gets the mean over the cells that share its
    place (`adaptive_avg_pool2d`).
    """
    if [level.grid_hw for level in theirs] == [level.grid_hw for level in own]:
        return values
    images, _, count = values.shape
    parts, start = [], 0
    for level, target in zip(theirs, own, strict=True):
        rows, columns = level.grid_hw
        stop = start + rows * columns * len(level.sizes)
        cells = values[:, start:stop].reshape(images, rows, columns, -1)  # (N, h, w, B * C)
        pooled = F.adaptive_avg_pool2d(cells.movedim(3, 1), target.grid_hw)
        parts.append(pooled.movedim(1, 3).reshape(images, -1, count))
        start = stop
    return torch.cat(parts, dim=1)
