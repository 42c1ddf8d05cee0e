"""Real learning: ours and torchvision's LR-ASPP on the same small data set, weights, augmentation and steps.

    python benchmarks/camvid.py --data CAMVID --weights mobilenet_v3_large_features.pth

CAMVID is CamVid in Cityscapes' layout. Ours is the recipe lraspp_mnv3_large with the overlays
finetune_segmentation and camvid, with cross-entropy only and without rare crops. Theirs is torchvision's own
lraspp_mobilenet_v3_large, module for module, put in the place of our network: everything else (images in the
same order, crops, loss, optimizer, schedule, average of the weights, scores) is the same code and the same
settings. Both are scored on the validation and the test split, at the labels' own size.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.segmentation.lraspp import LRASPP, _lraspp_mobilenetv3

from dettoolkit.config import Recipe, load_recipe
from dettoolkit.segmentation.build import build_network
from dettoolkit.training import commands

OVERLAYS = ("finetune_segmentation.yaml", "camvid.yaml")
PLAIN = (  # as the overlay was when docs/performance.md was measured: the networks are what is compared
    "model.loss.lovasz=null",
    "data.augment.rare_crops=0",
    "data.augment.copy_paste=null",
)


class Peer(nn.Module):
    """torchvision's network, from a file of `features.*`, with our signature: images to logits."""

    def __init__(self, weights: Path, num_classes: int) -> None:
        super().__init__()
        backbone = mobilenet_v3_large(dilated=True)
        result = backbone.load_state_dict(torch.load(weights, weights_only=True), strict=False)
        if any(not key.startswith("classifier") for key in result.missing_keys) or result.unexpected_keys:
            raise ValueError(f"{weights} is not features.* of mobilenet_v3_large: {result}")
        self.model: LRASPP = _lraspp_mobilenetv3(backbone, num_classes)
        self.heads = nn.ModuleDict()  # as our networks have them; nothing is loaded into them

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, K, H, W)."""
        logits: Tensor = self.model(images)["out"]
        return logits


def resolve(options: argparse.Namespace, *more: str) -> Any:
    """Read the recipe with this benchmark's settings."""
    extras = [
        *OVERLAYS,
        *PLAIN,
        f"data.root={options.data}",
        f"data.workers={options.workers}",
        f"model.backbone.weights={options.weights}",
        f"trainer.max_epochs={options.epochs}",
        f"trainer.seed={options.seed}",
        f"trainer.out={options.out}",
        "trainer.val_every_epochs=5",
        "trainer.log_every_steps=20",
        *options.extras,
        *more,
    ]
    return load_recipe("lraspp_mnv3_large", extras)


def train(name: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train one of the two, and score its best checkpoint on both splits."""

    def build_peer(_recipe: Any, *, num_classes: int, **_: Any) -> Peer:
        return Peer(options.weights, num_classes)

    build = build_peer if name == "torchvision" else build_network
    with patch("dettoolkit.segmentation.run.build_network", build):
        resolved = resolve(options)
        run_dir, val = commands.train(f"camvid_{name}", resolved.recipe, config_yaml=resolved.to_yaml())
        test_recipe: Recipe = resolve(
            options, "data.val={images: leftImg8bit/test, labels: gtFine/test}", "model.backbone.weights=null"
        ).recipe
        _, test = commands.evaluate(run_dir, recipe=test_recipe, out=run_dir / "test")
    for split, score in (("val", val), ("test", test)):
        print(f"\n{name}, {split}\n{score.table()}", flush=True)
    return {"val": val.numbers, "test": test.numbers}


def main() -> int:
    """Train both, or one, and print their scores beside each other."""
    parser = argparse.ArgumentParser(description="Ours and torchvision's LR-ASPP on CamVid")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--only", choices=("ours", "torchvision"), help="train one of the two")
    parser.add_argument("extras", nargs="*", help="further overrides, for both")
    options = parser.parse_args()
    scores = {}
    for name in ("ours", "torchvision"):
        if options.only in (None, name):
            started = time.perf_counter()
            scores[name] = train(name, options)
            print(f"{name}: {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    print(json.dumps(scores, indent=1))
    for name, found in scores.items():
        print(
            f"{name}: " + ", ".join(f"{split} mIoU {numbers['mIoU']:.4f}" for split, numbers in found.items())
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
