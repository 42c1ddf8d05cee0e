"""Post-processing finds what torchvision's SSD.postprocess_detections finds, and nothing in nothing."""

from types import SimpleNamespace

import pytest
import torch
from ssd_boxes import ssd_levels
from torch.nn.functional import pad
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD
from torchvision.ops import boxes as torchvision_boxes
from torchvision.ops import nms

from dettoolkit.detection import best_batched, best_of_image
from dettoolkit.detection import nms as nms_module
from dettoolkit.detection import postprocess as module
from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.box_coding import clip_to, decode
from dettoolkit.detection.spec import Decoding
from dettoolkit.manifest import ManifestError

INPUT_HW = (320, 288)
ANCHORS = default_boxes(ssd_levels([(10, 9), (5, 5), (3, 3), (2, 2), (1, 1)]), input_hw=INPUT_HW)
SETTINGS = {
    "background": True,
    "coder": "deltas",
    "activation": "softmax",
    "score_threshold": 0.001,
    "nms_iou": 0.55,
    "candidates_per_class": 300,
    "max_detections": 300,
}


def batched(logits, deltas, anchors, **settings):
    return module.postprocess(logits, deltas, anchors, Decoding(**settings), input_hw=INPUT_HW)


def one_by_one(logits, deltas, anchors, **settings):
    """Let each image be a batch of its own, and put the detections together."""
    parts = [
        batched(*image, anchors, **settings) for image in zip(logits.split(1), deltas.split(1), strict=True)
    ]
    most = max((part.scores.shape[1] for part in parts), default=0)
    padded = [
        module.Detections(
            boxes_xyxy=pad(part.boxes_xyxy, (0, 0, 0, most - part.scores.shape[1])),
            scores=pad(part.scores, (0, most - part.scores.shape[1])),
            labels=pad(part.labels, (0, most - part.labels.shape[1]), value=-1),
            counts=part.counts,
        )
        for part in parts
    ]
    return module.Detections(*map(torch.cat, zip(*padded, strict=True)))


@pytest.fixture(params=[batched, one_by_one])
def postprocess(request):
    """Return both ways: of a batch, and of a single image on a CPU."""
    return request.param


@pytest.fixture(autouse=True)
def exact_torchvision(monkeypatch):
    """Let torchvision run NMS class by class: shifting coordinates rounds them to 2e-3 pixels."""
    monkeypatch.setattr(
        torchvision_boxes, "_batched_nms_coordinate_trick", torchvision_boxes._batched_nms_vanilla
    )


def predictions(seed, *, images=3, classes=20, lead=2.0, noise=1.0, scale=2.0):
    """Logits where background leads by `lead`; small `noise` makes neighboring boxes overlap."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, len(ANCHORS), classes + 1, generator=generator) * scale
    logits[..., 0] += lead
    return logits, torch.randn(images, len(ANCHORS), 4, generator=generator) * noise


def torchvisions(logits, deltas, **settings):
    model = SimpleNamespace(
        box_coder=BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)),
        score_thresh=settings["score_threshold"],
        topk_candidates=settings["candidates_per_class"],
        nms_thresh=settings["nms_iou"],
        detections_per_img=settings["max_detections"],
    )
    outputs = {"cls_logits": logits, "bbox_regression": deltas}
    return SSD.postprocess_detections(model, outputs, [ANCHORS] * len(logits), [INPUT_HW] * len(logits))


def sigmoids(logits, deltas, **settings):
    """Do the same with sigmoid scores, the plain way: image by image and class by class."""
    found = []
    for image in range(len(logits)):
        boxes = clip_to(decode(deltas[image], ANCHORS), image_hw=INPUT_HW)
        parts = []
        for slot in range(1, logits.shape[2]):
            score = logits[image, :, slot].sigmoid()
            index = (score > settings["score_threshold"]).nonzero().squeeze(1)
            index = index[score[index].argsort(descending=True)][: settings["candidates_per_class"]]
            index = index[nms(boxes[index], score[index], settings["nms_iou"])]
            parts.append((boxes[index], score[index], torch.full_like(index, slot)))
        all_boxes, scores, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        best = scores.argsort(descending=True)[: settings["max_detections"]]
        found.append({"boxes": all_boxes[best], "scores": scores[best], "labels": labels[best]})
    return found


def assert_same(found, wanted):
    """Compare as sets of (class, score, box)."""
    assert found.counts.tolist() == [len(image["scores"]) for image in wanted]
    assert found.scores.shape[1] == max(found.counts.tolist(), default=0)
    for image, other in enumerate(wanted):
        count = len(other["scores"])
        scores, labels = found.scores[image], found.labels[image]
        torch.testing.assert_close(scores[:count], other["scores"], rtol=1e-5, atol=0)
        assert not scores[count:].any()
        assert (labels[count:] == -1).all()
        assert not found.boxes_xyxy[image, count:].any()
        # Near-equal scores may change places, so each detection looks for its like on the other side.
        alike = (labels[:count, None] + 1 == other["labels"]) & torch.isclose(
            scores[:count, None], other["scores"], rtol=1e-5, atol=0
        )
        boxes = found.boxes_xyxy[image, :count]
        alike &= ((boxes[:, None] - other["boxes"]).abs() < 1e-3).all(dim=-1)
        assert alike.any(dim=0).all()
        assert alike.any(dim=1).all()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("made", "changed"),
    [
        ({}, {}),
        ({"classes": 40, "noise": 0.2, "images": 2}, {}),  # many overlapping boxes of every class
        ({"classes": 2, "noise": 0.3}, {"max_detections": 20}),  # few classes, so long groups
        ({"classes": 1}, {"score_threshold": 0.3}),
        ({"noise": 8.0}, {"candidates_per_class": 7}),
        ({"lead": 9.0}, {"score_threshold": 0.01, "max_detections": 5}),
        ({"lead": 40.0}, {}),  # hardly anything
        ({"noise": 0.1}, {"nms_iou": 0.1, "max_detections": 50}),  # nearly everything is dropped
    ],
)
def test_equals_torchvision(postprocess, seed, made, changed):
    logits, deltas = predictions(seed, **made)
    settings = SETTINGS | changed
    assert_same(postprocess(logits, deltas, ANCHORS, **settings), torchvisions(logits, deltas, **settings))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"score_threshold": 1e-8, "nms_iou": 0.6, "candidates_per_class": 100, "max_detections": 100},
        {"score_threshold": 0.0, "nms_iou": 0.2, "max_detections": 40},
        {"score_threshold": 0.9, "candidates_per_class": 5},
    ],
)
def test_sigmoid_equals_the_plain_way(postprocess, seed, changed):
    logits, deltas = predictions(seed, lead=0.0, noise=0.3)
    settings = SETTINGS | {"activation": "sigmoid"} | changed
    found = postprocess(logits - 1, deltas, ANCHORS, **settings)
    assert_same(found, sigmoids(logits - 1, deltas, **settings))


@pytest.mark.parametrize(("depth", "rounds", "block"), [(1, 0, 64), (1, 1, 1), (100, 3, 1 << 21)])
def test_speed_settings_do_not_change_the_detections(postprocess, monkeypatch, depth, rounds, block):
    monkeypatch.setattr(best_batched, "FIRST_DEPTH", depth)
    monkeypatch.setattr(best_of_image, "FIRST_DEPTH", depth)
    monkeypatch.setattr(best_batched, "FIRST_CELLS", 1)
    monkeypatch.setattr(nms_module, "FEW", 0)
    monkeypatch.setattr(nms_module, "ROUNDS", rounds)
    monkeypatch.setattr(nms_module, "PAIRS_PER_BLOCK", block)
    for seed in range(3):
        logits, deltas = predictions(seed, noise=0.3, classes=5)
        logits[1] -= torch.arange(6) * 3.0  # images need different depths
        settings = SETTINGS | {"max_detections": 60}
        found = postprocess(logits, deltas, ANCHORS, **settings)
        assert_same(found, torchvisions(logits, deltas, **settings))


def test_images_of_a_batch_do_not_touch_each_other():
    logits, deltas = predictions(0, images=4)
    together = batched(logits, deltas, ANCHORS, **SETTINGS)
    for image in range(4):
        alone = batched(logits[image : image + 1], deltas[image : image + 1], ANCHORS, **SETTINGS)
        count = int(alone.counts)
        torch.testing.assert_close(alone.scores[0], together.scores[image, :count], rtol=1e-6, atol=0)
        assert torch.equal(alone.boxes_xyxy[0], together.boxes_xyxy[image, :count])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_nothing_above_the_threshold(postprocess, activation):
    logits, deltas = predictions(0)
    for threshold in (0.999999, 1.0):
        settings = SETTINGS | {"activation": activation, "score_threshold": threshold}
        found = postprocess(logits, deltas, ANCHORS, **settings)
        assert found.counts.tolist() == [0, 0, 0]
        assert found.boxes_xyxy.shape == (3, 0, 4)
        assert found.scores.shape == found.labels.shape == (3, 0)
        assert found.labels.dtype == torch.int64


def test_no_images_and_no_default_boxes():
    found = batched(torch.zeros(0, len(ANCHORS), 3), torch.zeros(0, len(ANCHORS), 4), ANCHORS, **SETTINGS)
    assert found.boxes_xyxy.shape == (0, 0, 4)
    assert found.counts.shape == (0,)
    found = batched(torch.zeros(2, 0, 3), torch.zeros(2, 0, 4), torch.zeros(0, 4), **SETTINGS)
    assert found.counts.tolist() == [0, 0]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_default_boxes_with_a_nan_are_left_out(postprocess, activation):
    logits, deltas = predictions(0, images=2)
    settings = SETTINGS | {"activation": activation}
    clean = logits.clone()
    clean[0, :50] = torch.tensor([1e4] + [-1e4] * 20)  # no score there
    wanted = postprocess(clean, deltas, ANCHORS, **settings)
    for place in ("logits", "deltas"):
        bad_logits, bad_deltas = logits.clone(), deltas.clone()
        {"logits": bad_logits, "deltas": bad_deltas}[place][0, :50, 2] = torch.nan
        found = postprocess(bad_logits, bad_deltas, ANCHORS, **settings)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)
    found = postprocess(torch.full_like(logits, torch.nan), deltas, ANCHORS, **settings)
    assert found.counts.tolist() == [0, 0]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_extremes_give_finite_boxes_inside_the_input(postprocess, activation):
    logits, deltas = predictions(0)
    deltas *= 1e6
    deltas[0, ::3] = torch.inf
    deltas[1, ::3] = -torch.inf
    found = postprocess(logits * 1e4, deltas, ANCHORS, **SETTINGS | {"activation": activation})
    assert found.counts.min() > 0
    assert found.scores.isfinite().all()
    height, width = INPUT_HW
    assert found.boxes_xyxy.isfinite().all()
    assert torch.equal(found.boxes_xyxy, found.boxes_xyxy.clamp(min=0))
    assert (found.boxes_xyxy <= torch.tensor([width, height, width, height])).all()


def test_equal_scores_are_all_looked_at(postprocess):
    """An untrained detector says the same everywhere; NMS then keeps one box of each overlapping set."""
    found = postprocess(torch.zeros(1, len(ANCHORS), 4), torch.zeros(1, len(ANCHORS), 4), ANCHORS, **SETTINGS)
    assert found.counts.tolist() == [300]
    torch.testing.assert_close(found.scores, torch.full((1, 300), 0.25))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(postprocess, dtype):
    logits, deltas = (part.to(dtype) for part in predictions(0))
    found = postprocess(logits, deltas, ANCHORS, **SETTINGS)
    wanted = postprocess(logits.float(), deltas.float(), ANCHORS, **SETTINGS)
    assert found.scores.dtype == torch.float32
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_the_inputs_are_left_as_they_were(postprocess):
    logits, deltas = predictions(0)
    for activation in ("softmax", "sigmoid"):
        before = logits.clone(), deltas.clone()
        postprocess(logits, deltas, ANCHORS, **SETTINGS | {"activation": activation})
        assert torch.equal(logits, before[0])
        assert torch.equal(deltas, before[1])
    # Heads permute channels to the end, so their outputs need not be contiguous.
    shuffled = logits.transpose(1, 2).contiguous().transpose(1, 2)
    for one, other in zip(
        postprocess(shuffled, deltas, ANCHORS, **SETTINGS),
        postprocess(logits, deltas, ANCHORS, **SETTINGS),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_shapes_that_do_not_belong_together_are_an_error():
    logits, deltas = predictions(0)
    for bad in (
        (logits[0], deltas, ANCHORS),
        (logits, deltas[:, 1:], ANCHORS),
        (logits, deltas, ANCHORS[1:]),
    ):
        with pytest.raises(ValueError, match=r"expects class_logits .* got .*compute the default boxes"):
            batched(*bad, **SETTINGS)
    with pytest.raises(ValueError, match="K >= 1"):
        batched(logits[..., :1], deltas, ANCHORS, **SETTINGS)


def test_without_a_background_every_slot_is_a_class(postprocess):
    logits, deltas = predictions(0)
    settings = SETTINGS | {"activation": "sigmoid"}
    with_background = postprocess(logits, deltas, ANCHORS, **settings)
    without = postprocess(logits[..., 1:], deltas, ANCHORS, **settings | {"background": False})
    assert with_background.counts.min() > 0
    assert all(torch.equal(one, other) for one, other in zip(with_background, without, strict=True))
    with pytest.raises(ValueError, match=r"\(N, A, K \+ 0\) with K >= 1"):
        postprocess(logits[..., :0], deltas, ANCHORS, **settings | {"background": False})
    with pytest.raises(ManifestError, match="softmax without a background"):
        Decoding(**SETTINGS | {"background": False})


def test_distances_become_boxes_of_no_negative_size(postprocess):
    logits, _ = predictions(0)
    distances = torch.randn(*logits.shape[:2], 4, generator=torch.Generator().manual_seed(1))
    found = postprocess(logits, distances, ANCHORS, **SETTINGS | {"coder": "distances"})
    assert found.counts.min() > 0
    assert (found.boxes_xyxy[..., 2:] >= found.boxes_xyxy[..., :2]).all()
