"""What was predicted on what, counted on the device: whole numbers, the same in any order of the images.

H, W: a label map, N: images, K: classes, I: instances. `evaluation/segmentation_counts.py` counts the same
from arrays and files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.evaluation.segmentation_counts import (
    INSTANCE_STEP,
    SegmentationCounts,
    category_numbers,
    mean_iou,
)


def count_image(
    predicted: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    image_id: int,
    instances: Tensor | None,
    label_ids: Sequence[int],
    categories: Sequence[str] | None,
) -> SegmentationCounts:
    """Count one image, on its device; see `confusion_matrix` and `instance_counts`.

    Predictions are uint8 or int64 (H, W), labels uint8 (H, W). `instances` is int32 (H, W), Cityscapes'
    instance ids; None, or -1 in the first pixel, without a file. Without categories each class is its own.
    """
    matrix = confusion_matrix(predicted, labels, num_classes).cpu().numpy()
    if instances is not None and instances.numel() and int(instances[0, 0]) < 0:
        instances = None
    rows = np.zeros((0, 5), np.int64)
    if instances is not None:
        label_of_id = torch.full((max(label_ids) + 1,), -1, device=instances.device)
        label_of_id[list(label_ids)] = torch.arange(num_classes, device=instances.device)
        category_of = torch.from_numpy(category_numbers(categories, num_classes)).to(instances.device)
        found = instance_counts(predicted, instances, label_of_id=label_of_id, category_of=category_of)
        rows = np.insert(found.cpu().numpy(), 0, image_id, axis=1)
    return SegmentationCounts(
        matrix=matrix,
        image_ids=np.array([image_id], np.int64),
        image_scores=np.array([mean_iou(matrix)]),
        instances=rows,
        without_instances=int(instances is None),
    )


@torch.no_grad()
def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count pixels by label (row) and prediction (column): int64 (K, K).

    Labels are uint8, 0 to K - 1, and 255 for pixels to leave out; predictions uint8 or int64, 0 to K - 1
    where there is a label.
    """
    if predicted.shape != labels.shape:
        raise ValueError(
            f"confusion_matrix expects predictions and labels of one size, got {tuple(predicted.shape)} and "
            f"{tuple(labels.shape)}: predict at the size of the label file"
        )
    # One more column for what is no class. Few bins fit a GPU's shared memory, and int32 takes half as long
    # as int64 on a CPU.
    columns = num_classes + 1
    if predicted.dtype != torch.uint8:
        predicted = predicted.masked_fill(predicted < 0, num_classes)
    index = labels.int().mul_(columns).add_(predicted.clamp(max=num_classes))
    # Every value of a byte has its row, so that nothing is mistaken for something else.
    table = torch.bincount(index.flatten(), minlength=(VOID + 1) * columns).view(-1, columns)[:VOID]
    matrix = table[:num_classes, :num_classes]
    if matrix.sum() != table.sum():
        what = f"{int(table[:, num_classes].sum())} pixels predicted as {num_classes} or more"
        if len(no_label := table[num_classes:].sum(dim=1).nonzero()):
            pixels = int(table[num_classes:].sum())
            what = f"{pixels} pixels with labels such as {int(no_label[0]) + num_classes}"
        raise ValueError(
            f"confusion_matrix expects 0 to {num_classes - 1}, and {VOID} for ignored labels, got {what}: "
            "map label ids to classes first, and build the network with the data set's number of classes"
        )
    return matrix.clone()


@torch.no_grad()
def instance_counts(
    predicted: Tensor, instances: Tensor, *, label_of_id: Tensor, category_of: Tensor
) -> Tensor:
    """Count the pixels of each labeled object, and those predicted as its class and as its category.

    As Cityscapes' evalPixelLevelSemanticLabeling: instance ids, int32 (H, W), are 1000 * label id + number;
    ids up to 1000 are no objects, nor are groups of them; all of an object's pixels count, whatever the label
    map says. Predictions of K or more are no class. `label_of_id` (L,) has -1 for ids that are not scored, as
    are those beyond it. Returned is int64 (I, 4), by rising instance id: label, pixels, pixels predicted as
    that label, pixels predicted as any label of its category.
    """
    if predicted.shape != instances.shape:
        raise ValueError(
            f"instance_counts expects predictions and instances of one size, got {tuple(predicted.shape)} "
            f"and {tuple(instances.shape)}: check that the instance file belongs to the label file"
        )
    owners = F.pad(label_of_id, (0, 1), value=-1)  # (L + 1,): the last stands for all beyond
    pixel = (instances.flatten() > INSTANCE_STEP).nonzero().squeeze(1)  # (P,)
    ids = instances.flatten().index_select(0, pixel).long()
    owner = owners.index_select(0, (ids // INSTANCE_STEP).clamp(max=len(label_of_id)))
    scored = (owner >= 0).nonzero().squeeze(1)
    ids, owner, pixel = (each.index_select(0, scored) for each in (ids, owner, pixel))
    found = predicted.flatten().index_select(0, pixel).long()
    categories = F.pad(category_of, (0, VOID + 1 - len(category_of)), value=-1)
    related = categories.index_select(0, found) == categories.index_select(0, owner)
    # 0: predicted as another category, 1: as the object's, 2: as its label, which is of that category.
    degree = related.long() + (found == owner).long()
    counts = torch.bincount(ids * 3 + degree)
    counts = F.pad(counts, (0, -len(counts) % 3)).view(-1, 3)
    present = counts.any(dim=1).nonzero().squeeze(1)  # (I,) instance ids
    label = owners.index_select(0, present // INSTANCE_STEP)
    other, category, own = counts.index_select(0, present).unbind(dim=1)
    return torch.stack((label, other + category + own, own, category + own), dim=1)
