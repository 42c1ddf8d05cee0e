"""Real learning: ours and torchvision's SSDLite on the same small data set, weights, epochs and batch size.

    python benchmarks/facemask.py --data DIR --weights mobilenet_v3_large_features.pth

Ours is the recipe ssdlite_mnv3_large with the overlay finetune. Theirs is torchvision's own model and its
reference recipe (references/detection, `--data-augmentation ssdlite`): SGD at 0.15 for 192 images scaled to
the batch, weight decay 4e-5, one epoch of warm-up from 1/1000, cosine over the epochs, IoU crop and flip,
images without boxes left out. Both are scored on the validation split by the same COCO evaluation.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection import _utils as detection_utils
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead, _mobilenet_extractor
from torchvision.transforms import v2

from dettoolkit.config import load_recipe
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.images import read_image
from dettoolkit.detection.run import ground_truth_of
from dettoolkit.evaluation.coco_ap import CocoScores, DetectionArrays, evaluate_coco
from dettoolkit.training import commands

OVERLAYS = ("finetune.yaml",)


class PeerDataset(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images as torchvision's references serve them: RGB in [0, 1] at their own size, labels from 1."""

    def __init__(self, annotations: CocoAnnotations, *, train: bool) -> None:
        self.annotations = annotations
        self.rows = [
            row for row in range(len(annotations)) if not train or annotations.usable[self._of(row)].any()
        ]
        steps: list[nn.Module] = []
        if train:
            steps += [v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), v2.SanitizeBoundingBoxes()]
        self.transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()])

    def _of(self, row: int) -> slice:
        return slice(int(self.annotations.offsets[row]), int(self.annotations.offsets[row + 1]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        row = self.rows[index]
        image = read_image(self.annotations.image_path(row))
        keep = self.annotations.usable[self._of(row)]
        boxes = torch.tensor(self.annotations.boxes_xywh[self._of(row)][keep], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        target: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[:2]),
            "labels": torch.tensor(self.annotations.labels[self._of(row)][keep]) + 1,
        }
        pixels, target = self.transform(v2.functional.to_image(image), target)
        target["image_id"] = torch.tensor(int(self.annotations.image_ids[row]))
        return pixels, target


def peer_model(weights: Path | None, num_classes: int) -> SSD:
    """Assemble ssdlite320_mobilenet_v3_large as torchvision does for a pretrained backbone, or none."""
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    network = mobilenet_v3_large(norm_layer=norm)
    if weights is not None:
        result = network.load_state_dict(torch.load(weights, weights_only=True), strict=False)
        assert all(key.startswith("classifier") for key in result.missing_keys), result
    backbone = _mobilenet_extractor(network, 6, norm)
    anchors = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    channels = detection_utils.retrieve_out_channels(backbone, (320, 320))
    slots = num_classes + 1
    return SSD(
        backbone,
        anchors,
        (320, 320),
        slots,
        head=SSDLiteHead(channels, anchors.num_anchors_per_location(), slots, norm),
        score_thresh=0.001,
        nms_thresh=0.55,
        detections_per_img=300,
        topk_candidates=300,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def train_peer(options: argparse.Namespace) -> CocoScores:
    """Train torchvision's model by its reference recipe and score it."""
    torch.manual_seed(options.seed)
    train, val = (
        CocoAnnotations.load(
            options.data / f"annotations/instances_{split}2017.json",
            images=options.data / f"{split}2017",
            label_map="contiguous",
        )
        for split in ("train", "val")
    )
    model = peer_model(options.weights, len(train.class_names))
    loader = DataLoader(
        PeerDataset(train, train=True),
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        collate_fn=lambda samples: tuple(zip(*samples, strict=True)),
    )
    lr = 0.15 * options.batch_size / 192
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=4e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options.epochs)
    for epoch in range(options.epochs):
        warmup = None
        if epoch == 0:
            steps = min(1000, len(loader) - 1)
            warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 1000, total_iters=steps)
        model.train()
        total, started = 0.0, time.perf_counter()
        for images, targets in loader:
            loss = sum(model(list(images), list(targets)).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss)
            if warmup is not None:
                warmup.step()
        schedule.step()
        speed = len(loader) * options.batch_size / (time.perf_counter() - started)
        print(
            f"torchvision epoch {epoch + 1}: loss {total / len(loader):.3f}, {speed:.1f} images/s", flush=True
        )
    return score_peer(model, val)


@torch.no_grad()
def score_peer(model: SSD, val: CocoAnnotations) -> CocoScores:
    """Score torchvision's detections, in original pixels, with the file's ids."""
    model.eval()
    parts = []
    for pixels, target in PeerDataset(val, train=False):  # type: ignore[attr-defined]
        found = model([pixels])[0]
        boxes = found["boxes"].double().numpy()
        boxes[:, 2:] -= boxes[:, :2]
        parts.append(
            DetectionArrays(
                image_ids=np.full(len(boxes), int(target["image_id"]), np.int64),
                category_ids=np.asarray(val.category_ids, np.int64)[found["labels"].numpy() - 1],
                boxes_xywh=boxes,
                scores=found["scores"].double().numpy(),
            )
        )
    return evaluate_coco(ground_truth_of(val), DetectionArrays.concatenate(parts), max_detections=100)


def train_ours(options: argparse.Namespace) -> CocoScores:
    """Train ours by the shipped recipe and overlays."""
    extras = [
        *OVERLAYS,
        f"data.root={options.data}",
        f"data.batch_size={options.batch_size}",
        f"data.workers={options.workers}",
        f"model.backbone.weights={options.weights}",
        f"trainer.max_epochs={options.epochs}",
        f"trainer.seed={options.seed}",
        f"trainer.out={options.out}",
        "trainer.val_every_epochs=5",
    ]
    resolved = load_recipe("ssdlite_mnv3_large", extras)
    print("ours: tools/train.py ssdlite_mnv3_large " + " ".join(extras), flush=True)
    score = commands.train("facemask", resolved.recipe, config_yaml=resolved.to_yaml())[1]
    assert isinstance(score, CocoScores)
    return score


def main() -> int:
    """Train both, or one, and print their scores beside each other."""
    parser = argparse.ArgumentParser(description="Ours and torchvision's SSDLite on one small data set")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--only", choices=("ours", "torchvision"), help="train one of the two")
    options = parser.parse_args()
    scores: dict[str, CocoScores] = {}
    for name, train in (("ours", train_ours), ("torchvision", train_peer)):
        if options.only in (None, name):
            started = time.perf_counter()
            scores[name] = train(options)
            minutes = (time.perf_counter() - started) / 60
            print(f"{name}, {minutes:.1f} minutes\n{scores[name].table()}", flush=True)
    print(json.dumps({name: score.numbers for name, score in scores.items()}, indent=1))
    print("val AP: " + ", ".join(f"{name} {score.numbers['AP']:.4f}" for name, score in scores.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
