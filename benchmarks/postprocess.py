"""Time post-processing against torchvision's SSD.postprocess_detections on the same raw predictions.

    python benchmarks/postprocess.py [--repeats 40] [--threads 2]

A batch of 8 images at 320x320: 3234 default boxes, 91 slots, torchvision's SSDLite settings (softmax, scores
above 0.001, 300 candidates per class, NMS at 0.55, 300 detections). Two kinds of predictions:

- realistic, made to look like a trained detector's: 8 objects per image (COCO has 7.3), log-uniform sizes
  of 20 to 250 pixels. A default box's logit for an object's class rises and its background logit falls with
  their IoU, and its deltas point at the object, with noise; a similar class rises half as much. Elsewhere
  background leads by about 12, and each image has its own prior over the classes, so that a tail of unlikely
  classes stays above 0.001.
- random: normal logits. Nearly all of the 291,060 (default box, class) pairs of an image are above 0.001,
  which no trained detector does; the hard case.

Then one image at a time, as a program that calls a detector does: that of configs/ssdlite_mnv3_large (2034
default boxes, sigmoid scores of COCO's 80 classes, 100 detections), with the threshold that `dettoolkit.load`
takes and with that of an evaluation, by load's code and by the nodes that an exported ONNX file ends with. No
peer: torchvision has no sigmoid scores.

Both run in turns in this process, on four batches of each kind; printed are the medians and the
fastest over all runs, and whether the detections are the same. Run it on an idle machine: where other
processes want the cores, both wait for their threads, ours for longer than it computes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD

from dettoolkit.detection.anchors import cell_sizes, default_boxes
from dettoolkit.detection.box_coding import encode, pairwise_iou
from dettoolkit.detection.onnx import detections
from dettoolkit.detection.postprocess import Detections, postprocess
from dettoolkit.detection.spec import Decoding, DetectionSection, Level
from dettoolkit.formats import check_threads
from dettoolkit.formats.onnx.convert import OPSET
from dettoolkit.formats.onnx.nodes import Nodes
from dettoolkit.formats.onnx.open import open_session

IMAGES, CLASSES, INPUT_HW = 8, 90, (320, 320)
OBJECTS = 8
BATCHES = 4
GRIDS_HW = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]


def levels(*, reduce_first_level: bool) -> list[Level]:
    """Return the default boxes of 320x320, with three instead of six in a cell of the first level or not."""
    sizes = cell_sizes(
        levels=len(GRIDS_HW),
        min_scale=0.2,
        max_scale=0.95,
        aspect_ratios=[2.0, 3.0],
        reduce_first_level=reduce_first_level,
        first_scale=0.1,
        clip=True,
    )
    return [Level(grid_hw=grid, sizes=own) for grid, own in zip(GRIDS_HW, sizes, strict=True)]


ANCHORS = default_boxes(levels(reduce_first_level=False), input_hw=INPUT_HW)
DECODING = Decoding(
    activation="softmax",
    background=True,
    coder="deltas",
    score_threshold=0.001,
    nms_iou=0.55,
    candidates_per_class=300,
    max_detections=300,
)
Predictions = tuple[Tensor, Tensor]


def realistic(seed: int, anchors: Tensor = ANCHORS) -> Predictions:
    """Make class logits (N, A, K + 1) and box deltas (N, A, 4) as the module's text describes them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    size = 20 * 12.5 ** torch.rand(IMAGES, OBJECTS, 2, generator=generator)
    center = torch.rand(IMAGES, OBJECTS, 2, generator=generator) * 320
    objects = torch.cat((center - size / 2, center + size / 2), dim=-1).clamp(0, 320)
    labels = torch.randint(0, CLASSES, (IMAGES, OBJECTS), generator=generator)
    overlap, nearest = pairwise_iou(objects, anchors).max(dim=1)  # (N, A)

    logits = normal(IMAGES, len(anchors), CLASSES + 1) + 1.5 * normal(IMAGES, 1, CLASSES + 1)
    logits[..., 0] = 12 + normal(IMAGES, len(anchors)) - 8 * overlap
    label = labels.gather(1, nearest).unsqueeze(-1)  # (N, A, 1)
    logits.scatter_add_(2, 1 + label, 12 * overlap.unsqueeze(-1))
    logits.scatter_add_(2, 1 + (label + 1) % CLASSES, 6 * overlap.unsqueeze(-1))

    deltas = normal(IMAGES, len(anchors), 4)
    aimed = encode(objects.gather(1, nearest.unsqueeze(-1).expand(-1, -1, 4)), anchors)
    return logits, torch.where(overlap.unsqueeze(-1) > 0.2, aimed + 0.5 * deltas, deltas)


def random(seed: int) -> Predictions:
    """Make normal class logits and box deltas."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(IMAGES, len(ANCHORS), CLASSES + 1, generator=generator)
    return logits, torch.randn(IMAGES, len(ANCHORS), 4, generator=generator)


def ours(predictions: Predictions) -> Detections:
    return postprocess(*predictions, ANCHORS, DECODING, input_hw=INPUT_HW)


@torch.no_grad()
def torchvisions(predictions: Predictions) -> list[dict[str, Tensor]]:
    model = SimpleNamespace(
        box_coder=BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)),
        score_thresh=0.001,
        topk_candidates=300,
        nms_thresh=0.55,
        detections_per_img=300,
    )
    outputs = {"cls_logits": predictions[0], "bbox_regression": predictions[1]}
    found: list[dict[str, Tensor]] = SSD.postprocess_detections(
        model, outputs, [ANCHORS] * IMAGES, [INPUT_HW] * IMAGES
    )
    return found


def same(found: Detections, wanted: list[dict[str, Tensor]]) -> bool:
    """Compare score by score; equal scores are as good as none in these predictions."""
    for image, other in enumerate(wanted):
        count = len(other["scores"])
        if int(found.counts[image]) != count:
            return False
        if not torch.allclose(found.scores[image, :count], other["scores"], rtol=1e-5):
            return False
        if not torch.allclose(found.boxes_xyxy[image, :count], other["boxes"], atol=1e-3):
            return False
    return True


def milliseconds(run: Callable[[Predictions], Any], predictions: Predictions) -> float:
    start = time.perf_counter()
    run(predictions)
    return (time.perf_counter() - start) * 1e3


def compare(make: Callable[[int], Predictions], repeats: int) -> None:
    """Time both in turns on BATCHES batches, and print times and ratios."""
    batches = [make(seed) for seed in range(BATCHES)]
    agreed = all(same(ours(batch), torchvisions(batch)) for batch in batches)  # warms both up, too
    timed = [
        (milliseconds(ours, batch), milliseconds(torchvisions, batch))
        for batch in batches
        for _ in range(max(1, repeats // BATCHES))
    ]
    agreement = "the same" if agreed else "DIFFERENT"
    likely = [(batch[0].softmax(-1)[..., 1:] > 0.001).sum().item() / IMAGES for batch in batches]
    print(f"{make.__name__}: {statistics.mean(likely):.0f} scores > 0.001 per image, {agreement} detections")
    for name, of in (("median", statistics.median), ("fastest", min)):
        mine, theirs = (of(column) for column in zip(*timed, strict=True))
        print(f"  {name:>7}: ours {mine:.1f} ms, torchvision {theirs:.1f} ms, ratio {theirs / mine:.1f}")


def one_image(repeats: int, threads: int) -> None:
    """Time a single image of the paper's detector, by load's code and inside an ONNX file."""
    own = levels(reduce_first_level=True)
    anchors = default_boxes(own, input_hw=INPUT_HW)
    logits, deltas = realistic(0, anchors)
    logits = (logits[..., 1:81] - logits[..., :1]).contiguous()
    images = [(logits[row : row + 1], deltas[row : row + 1]) for row in range(IMAGES)]
    for what, threshold in (("load's threshold", 0.3), ("evaluation's", 1e-8)):
        facts = DetectionSection(
            class_names=tuple(f"class {number}" for number in range(80)),
            class_ids=tuple(range(80)),
            activation="sigmoid",
            background=False,
            coder="deltas",
            score_threshold=threshold,
            threshold=threshold,
            nms_iou=0.6,
            candidates_per_class=100,
            max_detections=100,
            levels=tuple(own),
        )
        session = in_a_file(facts, len(anchors), threads)

        def by_load(one: Predictions, facts: DetectionSection = facts) -> Detections:
            return postprocess(*one, anchors, facts, input_hw=INPUT_HW)

        def in_file(one: Predictions, session: Any = session) -> Any:
            return session.run(
                None, dict(zip(("logits", "deltas"), (each.numpy() for each in one), strict=True))
            )

        if [by_load(one).counts.item() for one in images] != [in_file(one)[3].item() for one in images]:
            raise SystemExit("load and the file differ")
        for name, run in (("load", by_load), ("ONNX file", in_file)):
            spent = [milliseconds(run, one) for _ in range(repeats) for one in images]
            print(
                f"one image, {len(anchors)} boxes, 80 classes, scores > {threshold:g} ({what}), {name}: "
                f"median {statistics.median(spent):.2f} ms, fastest {min(spent):.2f} ms"
            )


def in_a_file(facts: DetectionSection, boxes: int, threads: int) -> Any:
    """Open the nodes that an exported detector ends with, in ONNX Runtime."""
    shapes = {"logits": [1, boxes, 80], "deltas": [1, boxes, 4]}
    raw = [ir.val(name, ir.DataType.FLOAT, shape) for name, shape in shapes.items()]
    g = Nodes("postprocess")
    outputs = detections(g, *raw, facts=facts, input_hw=INPUT_HW)
    for output, kind in zip(outputs, [ir.DataType.FLOAT] * 2 + [ir.DataType.INT64] * 2, strict=True):
        output.type = ir.TensorType(kind)
    graph = ir.Graph(
        raw, outputs, nodes=g.nodes, initializers=g.constants, opset_imports={"": OPSET}, name="postprocess"
    )
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    return open_session(proto.SerializeToString(), threads=threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(check_threads(arguments.threads))
    print(f"torch {torch.__version__}, {arguments.threads} threads, {IMAGES} images, {len(ANCHORS)} boxes")
    compare(realistic, arguments.repeats)
    compare(random, max(1, arguments.repeats // 3))
    one_image(arguments.repeats, arguments.threads)


if __name__ == "__main__":
    main()
