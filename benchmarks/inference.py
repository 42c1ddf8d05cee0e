"""Time inference, one image after the other: ours in PyTorch and exported to ONNX, beside torchvision.

    python benchmarks/inference.py --images FOLDER [--detector RUN] [--segmenter RUN] [--paper RUN]
        [--threads 2] [--repeats 40]

Each model given is measured; the same weights are in torchvision's model and in ours:

- --detector: a run of configs/ssdlite_mnv3_large_torchvision, beside `ssdlite320_mobilenet_v3_large`. From a
  JPEG file's bytes to boxes in its pixels: decoding, resizing, network, scores above 0.001, class-wise NMS.
- --segmenter: a run of configs/lraspp_mnv3_large_torchvision, beside `lraspp_mobilenet_v3_large`. From pixels
  of 512x1024 to a label map of that size; torchvision upsamples all logits and takes the argmax.
- --paper: a run of configs/lraspp_mnv3_large with as many classes, the network of the paper's Table 7, beside
  torchvision's of --segmenter.

Exported files have raw outputs of a detector, whose post-processing `load` does (at thresholds as low as
torchvision's that is faster than inside the file), and label maps of a segmenter. OpenVINO is measured where
it is installed, torchvision under `torch.compile` with --compiled.

What time post-processing takes depends on the predictions, so the weights should be trained ones; the images
may be those of the training. For example, within minutes:

    python tools/train.py configs/ssdlite_mnv3_large_torchvision.yaml model.weights=null \\
        model.backbone.weights=mobilenet_v3_large.pth data.root=COCO data.augment=none data.batch_size=16 \\
        'optim={type: adamw, lr: 0.0015, decay_on: kernels, lr_batch_size: null, \\
          schedule: {type: cosine, warmup_steps: 50, warmup_factor: 0.01}}' trainer.max_epochs=60

Variants take turns in blocks of BLOCK images, with a pause between them, since a runtime's threads go on
looking for work for a while after it is done. Printed are the medians over all images and repeats, and how
much of torchvision's answer ours agree with. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
import torchvision
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from torchvision.ops import box_iou
from torchvision.transforms.v2.functional import normalize, to_dtype

from dettoolkit.datasets.images import RAW, decode, resize_image
from dettoolkit.formats import NAMES, check_threads, open_engine
from dettoolkit.formats.pytorch import PytorchEngine
from dettoolkit.inference.predictor import Predictor
from dettoolkit.manifest import ExportFacts, Manifest
from dettoolkit.network import Network
from dettoolkit.tasks import spec_for
from dettoolkit.training.trained import open_model
from dettoolkit.weights.translate import translate_network

IMAGE_HW = (512, 1024)  # of segmentation
BLOCK, PAUSE = 8, 0.05  # images; seconds
SURE = 0.3  # detections of this score or above are compared

Variants = dict[str, Callable[[Any], Any]]


@dataclass
class Ours:
    """One of our models: a checkpoint's manifest and network, and the ways to run them."""

    manifest: Manifest
    network: Network
    predictors: dict[str, Predictor]  # by the runtime


RUNTIMES = {"ONNX": "onnx", "OpenVINO": "openvino"}


def ours(run: Path, folder: Path, *, threads: int, final: bool, **changes: Any) -> Ours:
    """Open a run and export it into `folder`; `final` says whether what comes after the network is inside."""
    manifest, network = open_model(run)
    manifest = replace(manifest, **changes)
    spec = spec_for(manifest)
    if hasattr(manifest.section, "max_detections"):  # torchvision's number; the recipe has COCO's
        manifest = manifest.with_section(replace(manifest.section, max_detections=300))
    names = spec.final_outputs if final else spec.raw_outputs
    engine = PytorchEngine(network, torch.device("cpu"))
    predictors = {"PyTorch": Predictor(manifest, engine, source=str(run))}
    for runtime, name in RUNTIMES.items():
        kind = NAMES[name]
        if find_spec(kind.libraries[0]) is None:
            continue
        facts = ExportFacts(format=name, outputs=names, batch=1, postprocessing=final)
        exported, file = replace(manifest, export=facts), folder / f"{manifest.name}{kind.ending}"
        kind.module("convert").convert(network, exported, file, spec)
        opened = open_engine(file, outputs=names, threads=threads)
        predictors[runtime] = Predictor(exported, opened, source=str(file))
    return Ours(manifest=manifest, network=network, predictors=predictors)


def with_weights_of(network: Network, peer: nn.Module) -> None:
    """Copy a network of ours into torchvision's of the same layout."""
    state = network.state_dict()
    named = translate_network(peer.state_dict(), network)  # torchvision's own tensors by our names
    if named.keys() != state.keys():
        raise SystemExit(
            f"these are other layers than torchvision's: {sorted(named.keys() ^ state.keys())[:5]}"
        )
    for name, tensor in named.items():
        tensor.copy_(state[name])


def detectors(run: Path, folder: Path, threads: int, *, compiled: bool) -> Variants:
    """Make functions from a JPEG file's bytes to boxes (D, 4), scores and labels."""
    mine = ours(run, folder, threads=threads, final=False)
    peer = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    with_weights_of(mine.network, peer)

    def of_peer(model: nn.Module) -> Callable[[bytes], tuple[Tensor, ...]]:
        @torch.inference_mode()
        def run(data: bytes) -> tuple[Tensor, ...]:
            pixels = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
            (found,) = model([to_dtype(pixels, torch.float32, scale=True)])
            return found["boxes"], found["scores"], found["labels"] - 1

        return run

    def of(predictor: Predictor) -> Callable[[bytes], tuple[Tensor, ...]]:
        def run(data: bytes) -> tuple[Tensor, ...]:
            found: Any = predictor.predict_batch([decode(data, RAW)], threshold=0.0)[0]
            return tuple(map(torch.from_numpy, (found.boxes_xyxy, found.scores, found.labels)))

        return run

    variants: Variants = {"torchvision": of_peer(peer)}
    if compiled:  # of the whole model each size of image would be compiled anew
        fast = copy.deepcopy(peer)
        for part in (fast.backbone, fast.head):
            part.compile()
        variants["torchvision, compiled"] = of_peer(fast)
    return variants | {f"ours, {name}": of(each) for name, each in mine.predictors.items()}


def segmenters(run: Path, paper: Path | None, folder: Path, threads: int, *, compiled: bool) -> Variants:
    """Make functions from uint8 pixels (H, W, 3) to labels (H, W)."""
    mine = ours(run, folder, threads=threads, final=True, input_hw=IMAGE_HW)
    classes = len(mine.manifest.class_names)
    peer = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes).eval()
    with_weights_of(mine.network, peer)

    def of_peer(model: Callable[[Tensor], Any]) -> Callable[[np.ndarray], np.ndarray]:
        @torch.inference_mode()
        def run(pixels: np.ndarray) -> np.ndarray:
            image = to_dtype(torch.from_numpy(pixels).permute(2, 0, 1), torch.float32, scale=True)
            batch = normalize(image, list(mine.manifest.mean), list(mine.manifest.std)).unsqueeze(0)
            labels: np.ndarray = model(batch)["out"].argmax(dim=1)[0].numpy()
            return labels

        return run

    def of(predictor: Predictor) -> Callable[[np.ndarray], np.ndarray]:
        def run(pixels: np.ndarray) -> np.ndarray:
            found: Any = predictor.predict_batch([pixels])[0]
            labels: np.ndarray = found.labels
            return labels

        return run

    variants: Variants = {"torchvision": of_peer(peer)}
    if compiled:
        variants["torchvision, compiled"] = of_peer(torch.compile(peer))
    variants |= {f"ours, {name}": of(each) for name, each in mine.predictors.items()}
    if paper is not None:
        theirs = ours(paper, folder, threads=threads, final=True, input_hw=IMAGE_HW)
        if len(theirs.manifest.class_names) != classes:
            raise SystemExit(f"{paper} has {len(theirs.manifest.class_names)} classes, {run} has {classes}")
        variants |= {f"paper's network, {name}": of(each) for name, each in theirs.predictors.items()}
    return variants


def boxes_agree(wanted: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> tuple[int, int]:
    """Count the sure detections of torchvision, and those that ours have: IoU from 0.9, score within 0.05."""
    sure = wanted[1] >= SURE
    boxes, scores, labels = (each[sure] for each in wanted)
    alike = (box_iou(boxes, found[0]) >= 0.9) & (labels[:, None] == found[2])
    alike &= (scores[:, None] - found[1]).abs() <= 0.05
    return int(alike.any(dim=1).sum()), len(boxes)


def labels_agree(wanted: np.ndarray, found: np.ndarray) -> tuple[int, int]:
    """Count the pixels of torchvision's labels, and those that ours have."""
    return int((wanted == found).sum()), wanted.size


def compare(
    title: str,
    variants: Variants,
    inputs: Sequence[Any],
    repeats: int,
    agree: Callable[[Any, Any], tuple[int, int]],
) -> None:
    """Time the variants in turns and print medians and agreement with the first one."""
    answers = {name: [run(each) for each in inputs] for name, run in variants.items()}  # warms up, too
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(repeats):
        block = [inputs[(turn * BLOCK + step) % len(inputs)] for step in range(BLOCK)]
        for name, run in variants.items():
            time.sleep(PAUSE)
            for each in block:
                start = time.perf_counter()
                run(each)
                spent[name].append((time.perf_counter() - start) * 1e3)
    reference = next(iter(variants))
    print(f"\n{title}\n{'':26}median     fastest    times torchvision's speed   agreement")
    for name, values in spent.items():
        median, least = statistics.median(values), min(values)
        ratio = statistics.median(spent[reference]) / median
        pairs = zip(answers[reference], answers[name], strict=True)
        same, all_ = (sum(counts) for counts in zip(*(agree(*pair) for pair in pairs), strict=True))
        agreement = f"{same / max(all_, 1):.4f} of {all_}"
        print(f"{name:24}{median:7.1f} ms {least:7.1f} ms {ratio:10.1f} {agreement:>28}")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description="Inference beside torchvision's")
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--detector", type=Path, help="run of ssdlite_mnv3_large_torchvision")
    parser.add_argument("--segmenter", type=Path, help="run of lraspp_mnv3_large_torchvision")
    parser.add_argument("--paper", type=Path, help="run of lraspp_mnv3_large with as many classes")
    parser.add_argument("--segmenter-images", type=Path, help="folder of JPEG files, if others than --images")
    parser.add_argument("--compiled", action="store_true", help="torchvision under torch.compile, too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=40, help=f"blocks of {BLOCK} images")
    options = parser.parse_args()
    torch.set_num_threads(check_threads(options.threads))
    cv2.setNumThreads(options.threads)
    print(
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, ONNX Runtime "
        f"{onnxruntime.__version__}, {options.threads} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        if options.detector is not None:
            files = some_files(options.images)
            variants = detectors(options.detector, Path(folder), options.threads, compiled=options.compiled)
            title = f"JPEG bytes to boxes, SSDLite 320x320, {len(files)} files"
            compare(title, variants, [file.read_bytes() for file in files], options.repeats, boxes_agree)
        if options.segmenter is not None:
            files = some_files(options.segmenter_images or options.images)
            pixels = [resize_image(decode(file.read_bytes(), RAW), IMAGE_HW) for file in files]
            variants = segmenters(
                options.segmenter, options.paper, Path(folder), options.threads, compiled=options.compiled
            )
            compare("Pixels of 512x1024 to labels, LR-ASPP", variants, pixels, options.repeats, labels_agree)


def some_files(folder: Path) -> list[Path]:
    """List up to 64 JPEG files of a folder, spread over it."""
    files = sorted(folder.rglob("*.jpg"))
    if not files:
        raise SystemExit(f"no JPEG files in {folder}")
    return files[:: -(-len(files) // 64)]


if __name__ == "__main__":
    main()
