"""What one network for both tasks costs, beside two: parameters, multiply-adds, time in ONNX Runtime.

    python benchmarks/joint_cost.py [--threads 1 2] [--repeats 40]

The three networks of each row have random weights, one input size and raw outputs: what comes after them is
the same. Detector and segmenter run one after the other. Turns alternate, and medians are compared, so that a
busy machine disturbs all alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch

from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import load_recipe
from dettoolkit.network import Network
from dettoolkit.tasks import spec_of

ROWS = {
    "Large, COCO and Cityscapes": ("joint_mnv3_large", "ssdlite_mnv3_large", "lraspp_mnv3_large"),
    "Small, COCO and Cityscapes": ("joint_mnv3_small", "ssdlite_mnv3_small", "lraspp_mnv3_small"),
    "Large, Cityscapes alone": ("joint_cityscapes", "ssdlite_mnv3_large", "lraspp_mnv3_large"),
}  # the joint recipe, and those of its tasks


class Cost(NamedTuple):
    """A network's parameters and multiply-adds, in millions."""

    parameters: float
    madds: float


def build(name: str, classes: int, input_hw: tuple[int, int]) -> Network:
    """Build a recipe's network for images of a size."""
    recipe = load_recipe(name, []).recipe
    if hasattr(recipe.model, "input_hw"):
        recipe = load_recipe(name, [f"model.input_hw={list(input_hw)}"]).recipe
    torch.manual_seed(0)
    return spec_of(recipe).build_network(recipe, num_classes=classes).eval()


def cost_of(network: Network, input_hw: tuple[int, int]) -> Cost:
    """Count what a network has and does."""
    madds = count_madds(network, input_hw) / 1e6
    return Cost(count_parameters(network, norm_affine=True) / 1e6, madds)


def session(
    network: Network, path: Path, input_hw: tuple[int, int], threads: int
) -> onnxruntime.InferenceSession:
    """Export a network and open it in ONNX Runtime."""
    if not path.exists():
        torch.onnx.export(network, (torch.zeros(1, 3, *input_hw),), path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def milliseconds(
    sessions: dict[str, onnxruntime.InferenceSession], image: np.ndarray, repeats: int
) -> dict[str, float]:
    """Return each session's median time for an image; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(repeats + 3):
        for name, each in sessions.items():
            start = time.perf_counter()
            each.run(None, {each.get_inputs()[0].name: image})
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(own[3:]) for name, own in times.items()}  # the first ones warm up


def main() -> int:
    """Print a line for each row and number of threads."""
    parser = argparse.ArgumentParser(description="Cost of a joint model beside two models")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"ONNX Runtime {onnxruntime.__version__}, torch {torch.__version__}")
    for title, (joint, *alone) in ROWS.items():
        model = load_recipe(joint, []).recipe.model
        input_hw = tuple(model.input_hw)  # type: ignore[attr-defined]
        boxes = 8 if joint == "joint_cityscapes" else 80
        networks = [
            build(name, classes, input_hw)
            for name, classes in zip((joint, *alone), (boxes + 19, boxes, 19), strict=True)
        ]
        costs = [cost_of(each, input_hw) for each in networks]
        both = [sum(each) for each in zip(*costs[1:], strict=True)]
        print(
            f"{title}, {input_hw[0]}x{input_hw[1]}: parameters {costs[0][0]:.2f}M of {costs[1][0]:.2f} + "
            f"{costs[2][0]:.2f} = {both[0]:.2f}M ({costs[0][0] / both[0]:.3f}); multiply-adds "
            f"{costs[0][1]:.0f}M of {both[1]:.0f}M ({costs[0][1] / both[1]:.3f})"
        )
        image = np.random.default_rng(0).standard_normal((1, 3, *input_hw), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            for threads in options.threads:
                sessions = {
                    name: session(network, Path(folder) / f"{name}.onnx", input_hw, threads)
                    for name, network in zip((joint, *alone), networks, strict=True)
                }
                took = milliseconds(sessions, image, options.repeats)
                sum_ = took[alone[0]] + took[alone[1]]
                print(
                    f"  {threads} thread(s): {took[joint]:.1f} ms of {took[alone[0]]:.1f} + "
                    f"{took[alone[1]]:.1f} = {sum_:.1f} ms ({took[joint] / sum_:.3f})"
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
