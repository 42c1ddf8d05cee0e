"""Print where a detector's time goes, from JPEG bytes to boxes: ours in PyTorch and ONNX, torchvision's.

    python benchmarks/inference_profile.py --images FOLDER --detector RUN [--threads 2] [--rounds 12]

RUN is one of configs/ssdlite_mnv3_large_torchvision, as for benchmarks/inference.py. Printed are the
milliseconds of each step, median and fastest over images and rounds; what PyTorch's waiting threads cost ONNX
Runtime, the whole way with images that are normalized by PyTorch and by NumPy; and what the operators take of
the networks' time. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
from inference import BLOCK, PAUSE, Ours, ours, some_files, with_weights_of
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.transforms.v2.functional import to_dtype

from dettoolkit.datasets.images import RAW, decode, resize_image
from dettoolkit.formats import check_threads
from dettoolkit.inference.predictor import Predictor
from dettoolkit.preprocessing import normalize, normalize_on_cpu

MOST = 6  # operators that are named

Step = tuple[str, Callable[[Any], Any]]


def peer_steps(peer: Any) -> list[Step]:
    """Take torchvision's detector apart; each step gets what the one before gave."""

    def network(images: Any) -> tuple[Any, ...]:
        features = list(peer.backbone(images.tensors).values())
        return images, features, peer.head(features)

    def boxes(found: tuple[Any, ...]) -> Any:
        images, features, outputs = found
        anchors = peer.anchor_generator(images, features)
        return peer.postprocess_detections(outputs, anchors, images.image_sizes)

    return [
        (
            "JPEG to pixels",
            lambda data: decode_image(
                torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
            ),
        ),
        (
            "resizing, normalizing",
            lambda pixels: peer.transform([to_dtype(pixels, torch.float32, scale=True)])[0],
        ),
        ("network", network),
        ("boxes", boxes),
    ]


def own_steps(predictor: Predictor) -> list[Step]:
    """Take our detector apart, in one of the runtimes."""

    def boxes(outputs: tuple[Tensor, ...]) -> Any:
        blank = np.zeros((*(predictor.manifest.input_hw or (1, 1)), 3), np.uint8)
        return predictor._decode(lambda _: outputs, outputs[0], [blank], min_score=0.0)

    return [
        ("JPEG to pixels", lambda data: decode(data, RAW)),
        ("resizing, normalizing", lambda pixels: predictor._inputs([pixels])),
        ("network", predictor.engine),
        ("boxes", boxes),
    ]


def ways_to_normalize(model: Ours) -> dict[str, list[Step]]:
    """Return the whole way to ONNX Runtime's answer, by PyTorch's normalization and by NumPy's."""
    manifest, engine = model.manifest, model.predictors["ONNX"].engine
    if manifest.input_hw is None:
        raise SystemExit("the detector has no input size")
    size = manifest.input_hw

    def by_torch(data: bytes) -> Any:
        pixels = torch.from_numpy(resize_image(decode(data, RAW), size)).permute(2, 0, 1)[None]
        return engine(normalize(pixels.contiguous(), manifest.mean, manifest.std))

    def by_numpy(data: bytes) -> Any:
        pixels = resize_image(decode(data, RAW), size)
        return engine(torch.from_numpy(normalize_on_cpu([pixels], manifest.mean, manifest.std)))

    return {
        "ONNX, normalized by PyTorch": [("in all", by_torch)],
        "ONNX, normalized by NumPy": [("in all", by_numpy)],
    }


@torch.inference_mode()
def time_steps(ways: dict[str, list[Step]], inputs: Sequence[bytes], rounds: int) -> None:
    """Time the steps of each way in turns, and print them."""
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for turn in range(-1, rounds):  # the first warms up
        block = [inputs[(turn * BLOCK + step) % len(inputs)] for step in range(BLOCK)]
        for way, steps in ways.items():
            time.sleep(PAUSE)
            for data in block:
                value: Any = data
                for name, step in steps:
                    start = time.perf_counter()
                    value = step(value)
                    if turn >= 0:
                        spent[way, name].append((time.perf_counter() - start) * 1e3)
    print(f"\n{'':52}{'median':>10}{'fastest':>12}")
    for (way, name), values in spent.items():
        print(f"{way:28}{name:24}{statistics.median(values):7.1f} ms {min(values):8.1f} ms")


def onnx_operators(file: Path, threads: int, image: Tensor) -> None:
    """Print what ONNX Runtime's operators take."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = threads, True
    options.profile_file_prefix = str(file.with_suffix(""))
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    for _ in range(30):
        session.run(None, {session.get_inputs()[0].name: image.numpy()})
    events = json.loads(Path(session.end_profiling()).read_text())
    taken: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[f"{event['args']['op_name']} {event['name']}"].append(event["dur"])
    sums: dict[str, float] = defaultdict(float)
    for name, values in taken.items():
        sums[name.split()[0]] += float(np.median(values))
    _print_shares("ONNX Runtime's operators, network", sums)


def torch_operators(model: Ours, image: Tensor) -> None:
    """Print what PyTorch's operators take."""
    engine = model.predictors["PyTorch"].engine
    for _ in range(5):
        engine(image)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(20):
            engine(image)
    _print_shares(
        "PyTorch's operators, network", {e.key: e.self_cpu_time_total for e in profile.key_averages()}
    )


def _print_shares(title: str, taken: dict[str, float]) -> None:
    whole = sum(taken.values())
    largest = sorted(taken.items(), key=lambda pair: -pair[1])[:MOST]
    print(f"\n{title}: " + ", ".join(f"{name} {value / whole:.0%}" for name, value in largest))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Where a detector's time goes")
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--detector", type=Path, required=True, help="run of ssdlite_mnv3_large_torchvision")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12, help=f"of {BLOCK} images")
    options = parser.parse_args()
    torch.set_num_threads(check_threads(options.threads))
    cv2.setNumThreads(options.threads)
    inputs = [file.read_bytes() for file in some_files(options.images)]
    with tempfile.TemporaryDirectory() as folder:
        model = ours(options.detector, Path(folder), threads=options.threads, final=False)
        peer = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
        with_weights_of(model.network, peer)
        ways = {
            "torchvision": peer_steps(peer),
            **{f"ours, {name}": own_steps(each) for name, each in model.predictors.items()},
        }
        time_steps(ways, inputs, options.rounds)
        time_steps(ways_to_normalize(model), inputs, options.rounds)
        image = model.predictors["PyTorch"]._inputs([decode(inputs[0], RAW)])
        onnx_operators(Path(folder) / f"{model.manifest.name}.onnx", options.threads, image)
        torch_operators(model, image)


if __name__ == "__main__":
    main()
