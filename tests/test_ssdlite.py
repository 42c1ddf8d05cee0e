"""The whole detector: torchvision's numbers for its weights, the order of boxes, export, the start."""

import numpy as np
import pytest
import torch
from random_weights import randomize
from torch import nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.image_list import ImageList

from dettoolkit.backbones.initialize import initialize
from dettoolkit.config import load_recipe
from dettoolkit.datasets.images import resize_image
from dettoolkit.detection.detectors import level_grids, ssdlite
from dettoolkit.detection.matching import Objects, match, targets_of
from dettoolkit.detection.postprocess import postprocess
from dettoolkit.detection.spec import Decoding, DetectionSpec
from dettoolkit.heads.ssdlite import SSDLiteHead
from dettoolkit.preprocessing import normalize
from dettoolkit.weights.load import load_pretrained

RECIPES = (
    "ssdlite_mnv3_large",
    "ssdlite_mnv3_large_full",
    "ssdlite_mnv3_large_torchvision",
    "ssdlite_mnv3_small",
)
GRIDS_320 = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]


def model_of(recipe, *overrides):
    return load_recipe(recipe, overrides).recipe.model


def detector_of(recipe, *overrides, num_classes=90, pretrained=False):
    resolved = load_recipe(recipe, overrides).recipe
    network = DetectionSpec().build_network(resolved, num_classes=num_classes)
    if pretrained:
        load_pretrained(
            network, resolved.model, torchvision_model=ssdlite(resolved.model).torchvision_model, exact=None
        )
    return network


def anchors_of(detector):
    return detector.heads["detection"].anchors_xyxy


def random_bytes(*shape, seed=1):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def head_of(**changes):
    settings = {
        "in_channels": (8, 8),
        "extra_channels": [16, 8],
        "boxes_per_cell": [3, 6, 6, 6],
        "anchors_xyxy": torch.zeros(0, 4),
        "num_classes": 2,
        "init": "normal",
        "init_std": 0.03,
        "class_bias": 0.0,
        "norm_eps": 1e-3,
        "norm_momentum": 0.03,
    }
    return SSDLiteHead(**(settings | changes)).eval()


# torchvision's ssdlite320_mobilenet_v3_large as a whole


@pytest.fixture(scope="module")
def theirs():
    return randomize(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91))


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "ssdlite.pth"
    torch.save(theirs.state_dict(), path)
    return detector_of("ssdlite_mnv3_large_torchvision", f"model.weights={path}", pretrained=True).eval()


def outputs_of_torchvision(theirs, images):
    """Return logits, deltas and default boxes of a normalized batch."""
    with torch.no_grad():
        features = list(theirs.backbone(images).values())
        heads = theirs.head(features)
        hw = images.shape[2:]
        boxes = theirs.anchor_generator(ImageList(images, [hw] * len(images)), features)[0]
    return heads["cls_logits"], heads["bbox_regression"], boxes


def assert_same_outputs(detector, theirs, images):
    with torch.no_grad():
        logits, deltas = detector(images)
    their_logits, their_deltas, their_boxes = outputs_of_torchvision(theirs, images)
    assert their_logits.std() > 0.1
    assert their_deltas.std() > 0.1
    torch.testing.assert_close(logits, their_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(deltas, their_deltas, rtol=0, atol=1e-5)
    torch.testing.assert_close(anchors_of(detector), their_boxes, rtol=0, atol=1e-5)


def test_outputs_and_default_boxes_equal_torchvisions(ours, theirs):
    photo = np.asarray(random_bytes(213, 345, 3))
    resized = torch.from_numpy(resize_image(photo, (320, 320))).permute(2, 0, 1)
    images = torch.stack([random_bytes(3, 320, 320), resized])
    assert_same_outputs(ours, theirs, normalize(images, (0.5,) * 3, (0.5,) * 3))
    assert anchors_of(ours).shape == (3234, 4)


def test_outputs_equal_torchvisions_at_another_input_size(ours, theirs):
    detector = detector_of("ssdlite_mnv3_large_torchvision", "model.input_hw=[161, 240]").eval()
    detector.load_state_dict(ours.state_dict())
    assert_same_outputs(detector, theirs, normalize(random_bytes(1, 3, 161, 240), (0.5,) * 3, (0.5,) * 3))


@pytest.mark.parametrize("score_threshold", [0.001, 0.9, 0.9999])
def test_final_detections_are_torchvisions(ours, theirs, score_threshold, monkeypatch):
    monkeypatch.setattr(theirs, "score_thresh", score_threshold)
    photos = [random_bytes(3, 320, 320, seed=seed).float() / 255 for seed in range(2)]
    photos.append(torch.full((3, 320, 320), 0.5))
    with torch.no_grad():
        expected = theirs(photos)
        images = theirs.transform(photos)[0].tensors
        assert images.shape == (3, 3, 320, 320)  # the resize changed nothing
        logits, deltas = ours(images)
    model = model_of("ssdlite_mnv3_large_torchvision")
    found = postprocess(
        logits,
        deltas,
        anchors_of(ours),
        Decoding(
            activation="softmax",
            background=True,
            coder="deltas",
            score_threshold=score_threshold,
            nms_iou=model.postprocess.nms_iou,
            candidates_per_class=model.postprocess.candidates_per_class,
            max_detections=300,
        ),
        input_hw=model.input_hw,
    )
    assert found.counts.tolist() == [len(each["scores"]) for each in expected]
    for image, each in enumerate(expected):
        count = int(found.counts[image])
        assert torch.equal(found.labels[image, :count] + 1, each["labels"])
        torch.testing.assert_close(found.scores[image, :count], each["scores"], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.boxes_xyxy[image, :count], each["boxes"], rtol=0, atol=1e-3)
    # All that an image may have, some, and none.
    assert {0.001: 300, 0.9: 290, 0.9999: 0}[score_threshold] == pytest.approx(max(found.counts), abs=5)
    assert score_threshold > 0.001 or len(found.labels.unique()) > 10


def test_normalization_is_torchvisions(theirs):
    images = random_bytes(2, 3, 320, 320)
    expected = theirs.transform([image.float() / 255 for image in images])[0].tensors
    torch.testing.assert_close(normalize(images, (0.5,) * 3, (0.5,) * 3), expected, rtol=0, atol=1e-6)
    assert torch.equal(
        normalize(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1), (0.5,) * 3, (0.5,) * 3)[:, 0],
        torch.tensor([-1.0, 1.0]).view(2, 1, 1),
    )


# the head


class Coded(nn.Module):
    """Stand in for a predictor: each number says level, row, column, box and value."""

    def __init__(self, level, boxes, values):
        super().__init__()
        self.level, self.boxes, self.values = level, boxes, values

    def forward(self, x):
        n, _, h, w = x.shape
        channel = torch.arange(self.boxes * self.values).view(1, -1, 1, 1)
        box, value = channel // self.values, channel % self.values
        row, column = torch.arange(h).view(1, 1, h, 1), torch.arange(w).view(1, 1, 1, w)
        code = self.level * 10_000 + row * 1000 + column * 100 + box * 10 + value
        return code.float().expand(n, -1, h, w)


def test_boxes_run_over_levels_rows_columns_boxes():
    cells, grids = [3, 6, 6, 6], [(3, 4), (2, 2), (1, 1), (1, 1)]
    head = head_of(boxes_per_cell=cells)
    head.class_predictors = nn.ModuleList(Coded(level, boxes, 3) for level, boxes in enumerate(cells))
    head.box_predictors = nn.ModuleList(Coded(level, boxes, 4) for level, boxes in enumerate(cells))
    logits, deltas = head(torch.zeros(2, 8, 3, 4), torch.zeros(2, 8, 2, 2))

    def expected(values):
        return torch.tensor(
            [
                [level * 10_000 + row * 1000 + column * 100 + box * 10 + value for value in range(values)]
                for level, (rows, columns) in enumerate(grids)
                for row in range(rows)
                for column in range(columns)
                for box in range(cells[level])
            ]
        ).float()

    for image in range(2):
        assert torch.equal(logits[image], expected(3))
        assert torch.equal(deltas[image], expected(4))


def test_outputs_belong_to_the_default_boxes_of_their_cell():
    """A single hot cell of C4 shows at the default boxes around its center and nowhere else."""
    detector = detector_of("ssdlite_mnv3_small", "model.input_hw=[160, 320]", num_classes=1).eval()
    for level in range(6):
        for predictors in (
            detector.heads["detection"].class_predictors,
            detector.heads["detection"].box_predictors,
        ):
            depthwise, pointwise = predictors[level][0][0], predictors[level][1]
            depthwise.weight.data.zero_()[:, :, 1, 1] = 1
            pointwise.weight.data.fill_(1)
            pointwise.bias.data.zero_()
    c4, c5 = torch.zeros(1, 288, 10, 20), torch.zeros(1, 288, 5, 10)
    c4[:, :, 3, 7] = 1
    with torch.no_grad():
        logits, deltas = detector.heads["detection"](c4, c5)
    for output in (logits, deltas):
        hot = output[0].abs().sum(1).nonzero().squeeze(1)
        assert len(hot) == 3
        boxes = anchors_of(detector)[hot]
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        torch.testing.assert_close(centers, torch.tensor([[7.5 * 16, 3.5 * 16]]).expand(3, 2))


@pytest.mark.parametrize("cells", [[6], [3, 6, 6], [3, 6, 6, 6, 6], []])
def test_boxes_per_cell_for_another_number_of_levels_are_refused(cells):
    message = rf"boxes_per_cell needs 4 entries \(C4, C5 and 2 extra layers\), got {len(cells)}: \["
    with pytest.raises(ValueError, match=message):
        head_of(boxes_per_cell=cells)


def test_layers_are_those_of_tensorflow():
    head = head_of(in_channels=(672, 480), extra_channels=[512, 256, 256, 128], boxes_per_cell=[6] * 6)
    # 1x1 to half the depth, depthwise 3x3 of stride 2, 1x1, each with BN and ReLU6.
    shapes = [[tuple(step[0].weight.shape) for step in extra] for extra in head.extras]
    assert shapes[0] == [(256, 480, 1, 1), (256, 1, 3, 3), (512, 256, 1, 1)]
    assert shapes[3] == [(64, 256, 1, 1), (64, 1, 3, 3), (128, 64, 1, 1)]
    for layer in (*head.extras, *head.class_predictors, *head.box_predictors):
        kinds = {type(part) for part in layer.modules() if not list(part.children())}
        assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.ReLU6}
    for predictor in (*head.class_predictors, *head.box_predictors):
        assert predictor[0][0].bias is None
        assert predictor[1].bias is not None
    assert head.slots == 3


def test_an_empty_batch_and_a_single_cell_pass():
    head = head_of()
    for images, rows in ((0, 4), (1, 1)):
        logits, deltas = head(torch.zeros(images, 8, rows, rows), torch.zeros(images, 8, rows, rows))
        assert logits.shape[::2] == (images, 3)
        assert deltas.shape[::2] == (images, 4)


# the detector


def test_grids_at_320():
    assert level_grids(input_hw=(320, 320), strides=(16, 32), extra_levels=4) == GRIDS_320


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("output_stride", [16, 32])
def test_every_input_size_has_as_many_outputs_as_default_boxes(recipe, output_stride):
    for hw in [(32, 32), (33, 65)]:
        overrides = [f"model.input_hw=[{hw[0]}, {hw[1]}]", f"model.backbone.output_stride={output_stride}"]
        detector = detector_of(recipe, *overrides, "model.backbone.width=0.35", num_classes=3).eval()
        with torch.no_grad():
            logits, deltas = detector(torch.zeros(2, 3, *hw))
        boxes = len(anchors_of(detector))
        assert logits.shape == (2, boxes, 4)
        assert deltas.shape == (2, boxes, 4)


def test_default_boxes_are_no_weights():
    detector = detector_of("ssdlite_mnv3_small")
    assert not any("anchors" in name for name in detector.state_dict())
    assert not anchors_of(detector).requires_grad
    assert anchors_of(detector.to(torch.device("meta"))).device.type == "meta"  # they move along


def test_forward_passes_strict_export():
    detector = randomize(detector_of("ssdlite_mnv3_small", "model.input_hw=[96, 128]"))
    example = torch.zeros(2, 3, 96, 128)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(detector, (example,), dynamic_shapes={"images": {0: batch}}, strict=True)
    images = normalize(random_bytes(3, 3, 96, 128), (0.5,) * 3, (0.5,) * 3)
    with torch.no_grad():
        exported, eager = program.module()(images), detector(images)
    assert type(exported) is type(eager) is tuple
    for ours, expected in zip(exported, eager, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("loss", ["focal", "multibox"])
@pytest.mark.parametrize("count", [0, 2])
def test_every_parameter_gets_a_gradient_even_without_objects(loss, count):
    recipe = {"focal": "ssdlite_mnv3_small", "multibox": "ssdlite_mnv3_large_torchvision"}[loss]
    model = model_of(recipe, "model.input_hw=[64, 64]")
    detector = detector_of(recipe, "model.input_hw=[64, 64]", num_classes=4).train()
    boxes = torch.tensor([[[8.0, 8.0, 40.0, 40.0], [0.0, 0.0, 64.0, 30.0]]]).repeat(2, 1, 1)[:, :count]
    labels = torch.tensor([[0, 3]]).repeat(2, 1)[:, :count]
    anchors, objects = anchors_of(detector), Objects(boxes, labels)
    assignment = match(None, anchors, objects, iou_threshold=0.5, force_match=True)
    outputs = detector(normalize(random_bytes(2, 3, 64, 64), (0.5,) * 3, (0.5,) * 3))
    losses = ssdlite(model).losses_of(outputs, anchors, targets_of(assignment, anchors, objects))
    sum(losses.values()).backward()
    assert losses.keys() == {"class", "box"}
    assert all(loss.isfinite() for loss in losses.values())
    gradients = {name: parameter.grad for name, parameter in detector.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    # Box predictors learn on the levels with matches, and only there.
    grids = level_grids(input_hw=(64, 64), strides=(16, 32), extra_levels=4)
    cells = [predictor[1].out_channels // 4 for predictor in detector.heads["detection"].box_predictors]
    counts = [rows * columns * boxes for (rows, columns), boxes in zip(grids, cells, strict=True)]
    for level, of_level in enumerate(assignment.matched.split(counts, dim=1)):
        moved = gradients[f"heads.detection.box_predictors.{level}.1.weight"].any()
        assert moved == (of_level >= 0).any()
    assert (assignment.matched >= 0).any() == (count > 0)
    assert gradients["heads.detection.class_predictors.0.1.weight"].any() == (loss == "focal" or count > 0)


# the start


def convolutions(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def test_the_papers_start_is_tensorflows():
    torch.manual_seed(0)
    detector = detector_of("ssdlite_mnv3_large")
    extractor = convolutions(detector.backbone) + convolutions(detector.heads["detection"].extras)
    kernels = torch.cat([layer.weight.flatten() for layer in extractor])
    assert kernels.abs().max() <= 2 * 0.03
    # Cut at two standard deviations a normal keeps 0.8796 of its own (sqrt(1 - 4 phi(2) / (2 Phi(2) - 1))).
    assert kernels.std().item() == pytest.approx(0.8796 * 0.03, rel=0.01)
    assert abs(kernels.mean().item()) < 1e-4
    predictors = convolutions(detector.heads["detection"].class_predictors) + convolutions(
        detector.heads["detection"].box_predictors
    )
    kernels = torch.cat([layer.weight.flatten() for layer in predictors])
    assert kernels.std().item() == pytest.approx(0.03, rel=0.01)
    assert kernels.abs().max() > 3 * 0.03
    for predictor in detector.heads["detection"].class_predictors:
        assert torch.equal(predictor[1].bias, torch.full_like(predictor[1].bias, -4.6))
    others = [layer.bias for layer in extractor if layer.bias is not None]
    others += [predictor[1].bias for predictor in detector.heads["detection"].box_predictors]
    assert len(others) == 2 * 8 + 6  # two for each squeeze-and-excite of Table 1
    assert all(not bias.any() for bias in others)
    for norm in detector.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert (norm.weight == 1).all()
            assert not norm.bias.any()


def test_the_first_scores_are_a_hundredth():
    torch.manual_seed(0)
    detector = detector_of("ssdlite_mnv3_small", "model.input_hw=[96, 96]").train()
    with torch.no_grad():
        logits, _ = detector(normalize(random_bytes(4, 3, 96, 96), (0.5,) * 3, (0.5,) * 3))
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)


def test_torchvisions_start_is_a_plain_normal():
    torch.manual_seed(0)
    detector = detector_of("ssdlite_mnv3_large_torchvision")
    kernels = torch.cat([layer.weight.flatten() for layer in convolutions(detector)])
    assert kernels.std().item() == pytest.approx(0.03, rel=0.01)
    assert kernels.abs().max() > 3 * 0.03
    assert all(not layer.bias.any() for layer in convolutions(detector) if layer.bias is not None)


def test_a_start_is_reproducible_and_a_module_without_convolutions_stays():
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(detector_of("ssdlite_mnv3_small", num_classes=2).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    norm = nn.BatchNorm2d(3)
    initialize(norm, init="truncated_normal", std=0.03)
    assert (norm.weight == 1).all()


def norm_settings(detector):
    norms = [layer for layer in detector.modules() if isinstance(layer, nn.BatchNorm2d)]
    return {(norm.eps, norm.momentum) for norm in norms}


@pytest.mark.parametrize("recipe", RECIPES)
def test_norm_settings_are_tensorflows_and_torchvisions(recipe):
    assert norm_settings(detector_of(recipe, "model.backbone.width=0.35")) == {(0.001, 0.03)}  # decay 0.97


def test_norm_settings_of_the_recipe_reach_every_layer():
    other = ("model.backbone.norm_eps=0.02", "model.backbone.norm_momentum=0.4")
    assert norm_settings(detector_of("ssdlite_mnv3_small", *other)) == {(0.02, 0.4)}
