"""Whole images, windows, scales and mirroring against networks whose answer is known everywhere."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dettoolkit.segmentation import predict as inference
from dettoolkit.segmentation.spec import SegmentationSection

CLASSES = 7
SIZES = [(32, 48), (33, 47), (17, 90), (8, 8), (3, 5), (1, 1)]


def predict_labels(forward, images, *, out_hw, options):
    """Return the labels of images, (N, H, W), all of one size."""
    found = inference.predict_labels(forward, images, sizes_hw=[out_hw] * len(images), options=options)
    return torch.stack(found) if found else torch.zeros(0, *out_hw, dtype=torch.uint8)


@torch.no_grad()
def full_logits(forward, images, *, out_hw, options):
    """Return what predict_labels takes the argmax of, (N, K, H, W): logits, or log mean probabilities."""
    found = []
    for logits in inference._logits(forward, images, options):
        if len(options.scales) == 1 and not options.flip:
            found.append(inference._upsampled(*logits, out_hw, options))
        else:
            found.append(inference._mean_probabilities(logits, out_hw, options).log())
    return torch.cat(found)


def options(**changes):
    settings = {
        "class_names": ("a", "b"),
        "class_ids": (0, 1),
        "mode": "whole",
        "window_hw": (16, 24),
        "stride_hw": (9, 13),
        "scales": (1.0,),
        "flip": False,
        "align_corners": False,
    }
    return SegmentationSection(**{**settings, **changes})


def images_of(size_hw, count=2, seed=0):
    return torch.randn(count, 3, *size_hw, generator=torch.Generator().manual_seed(seed))


def network(stride=1, kernel=1, seed=0):
    """A convolution, at stride 1 or so that it answers more coarsely, as heads do."""
    torch.manual_seed(seed)
    return nn.Conv2d(3, CLASSES, kernel, stride=stride, padding=kernel // 2).eval().requires_grad_(False)


def upsampled(logits, size_hw, *, align_corners=False):
    return F.interpolate(logits, size=size_hw, mode="bilinear", align_corners=align_corners)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("out_hw", [(32, 48), (33, 49), (64, 96), (4, 6), (11, 150)])
def test_whole_is_exactly_the_argmax_of_upsampled_logits(out_hw, align_corners):
    images, net = images_of((32, 48)), network(stride=8, kernel=3)
    wanted = upsampled(net(images), out_hw, align_corners=align_corners)
    for memory_format in (torch.contiguous_format, torch.channels_last):

        def forward(image, memory_format=memory_format):
            return net(image).contiguous(memory_format=memory_format)

        chosen = options(align_corners=align_corners)
        labels = predict_labels(forward, images, out_hw=out_hw, options=chosen)
        assert labels.dtype == torch.uint8
        assert torch.equal(labels.long(), wanted.argmax(dim=1))
        assert torch.equal(full_logits(forward, images, out_hw=out_hw, options=chosen), wanted)


def test_equal_logits_give_the_first_class():
    logits = torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0]).view(1, 5, 1, 1).expand(2, 5, 2, 2)
    for chosen in (options(), options(flip=True), options(mode="slide")):
        labels = predict_labels(
            lambda x: logits[: len(x)], images_of((16, 24)), out_hw=(16, 24), options=chosen
        )
        assert labels.eq(1).all()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size_hw", SIZES)
def test_one_window_over_everything_is_the_whole(size_hw, kernel):
    images, net = images_of(size_hw, count=1), network(stride=2, kernel=kernel)
    slide = options(mode="slide", window_hw=size_hw, stride_hw=size_hw)
    whole = full_logits(net, images, out_hw=size_hw, options=options())
    assert torch.equal(full_logits(net, images, out_hw=size_hw, options=slide), whole)
    labels = predict_labels(net, images, out_hw=size_hw, options=slide)
    assert torch.equal(labels, predict_labels(net, images, out_hw=size_hw, options=options()))


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "slide"},
        {"mode": "slide", "stride_hw": (16, 24)},
        {"mode": "slide", "stride_hw": (5, 3)},
        {"mode": "slide", "flip": True},
        {"flip": True},
        {"scales": (1.0, 1.0)},
    ],
)
def test_where_pixels_stand_alone_windows_make_no_difference(size_hw, changes):
    images, net = images_of(size_hw), network()
    wanted = net(images)
    logits = full_logits(net, images, out_hw=size_hw, options=options(**changes))
    torch.testing.assert_close(logits.softmax(1), wanted.softmax(1))
    labels = predict_labels(net, images, out_hw=size_hw, options=options(**changes))
    assert torch.equal(labels.long(), wanted.argmax(dim=1))


def by_columns(image):
    """A network that says where in its input a pixel is: 0, 1, 2, … by columns, and 0 for another class."""
    columns = torch.arange(image.shape[3], dtype=torch.float32).expand(image.shape[2:])
    return torch.stack((columns, torch.zeros_like(columns))).unsqueeze(0)


def test_windows_are_averaged_where_they_overlap():
    # Windows of 4 at 0, 3 and, aligned to the border, 5.
    slide = options(mode="slide", window_hw=(2, 4), stride_hw=(2, 3))
    logits = full_logits(by_columns, images_of((2, 9), count=1), out_hw=(2, 9), options=slide)
    wanted = torch.tensor([0, 1, 2, (3 + 0) / 2, 1, (2 + 0) / 2, (3 + 1) / 2, 2, 3])
    torch.testing.assert_close(logits[0, 0], wanted.expand(2, 9))
    assert logits[0, 1].eq(0).all()


def test_windows_see_the_image_and_nothing_else():
    seen = []

    def forward(image):
        seen.append(image.clone())
        return image[:, :2]

    image = images_of((5, 7), count=1)
    slide = options(mode="slide", window_hw=(4, 4), stride_hw=(2, 3))
    predict_labels(forward, image, out_hw=(5, 7), options=slide)
    wanted = [image[:, :, top : top + 4, left : left + 4] for top in (0, 1) for left in (0, 3)]
    assert len(seen) == 4
    assert all(torch.equal(one, other) for one, other in zip(seen, wanted, strict=True))


def test_an_image_smaller_than_the_window_is_padded_with_its_mean_color():
    seen = []

    def forward(image):
        seen.append(image.clone())
        return network()(image)

    image = images_of((10, 30), count=1)  # as wide as two windows, not as high as one
    slide = options(mode="slide", window_hw=(16, 24), stride_hw=(16, 24))
    labels = predict_labels(forward, image, out_hw=(10, 30), options=slide)
    assert labels.shape == (1, 10, 30)
    assert [each.shape for each in seen] == [(1, 3, 16, 24)] * 2
    assert torch.equal(seen[0][..., :10, :], image[..., :24])
    assert torch.equal(seen[1][..., :10, :], image[..., 6:])
    assert all(each[..., 10:, :].eq(0).all() for each in seen)
    assert torch.equal(labels.long(), network()(image).argmax(dim=1))


def test_flip_averages_probabilities_with_the_mirrored_image():
    image = images_of((2, 3), count=1)
    logits = full_logits(by_columns, image, out_hw=(2, 3), options=options(flip=True))
    ahead = torch.tensor([0.0, 1.0, 2.0]).sigmoid()  # of two classes, one of them at 0
    torch.testing.assert_close(logits[0, 0].exp(), ((ahead + ahead.flip(0)) / 2).expand(2, 3))
    torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(1, 2, 3))


def test_flip_makes_the_answer_symmetric():
    images, net = images_of((20, 31)), network(stride=2, kernel=3)
    chosen = options(flip=True, scales=(0.75, 1.0, 1.5))
    one = full_logits(net, images, out_hw=(20, 31), options=chosen)
    other = full_logits(net, images.flip(3), out_hw=(20, 31), options=chosen).flip(3)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_scales_resize_the_image_and_average_probabilities(mode):
    sizes = []

    def forward(image):
        """The image's width decides, the same at every pixel."""
        sizes.append(tuple(image.shape[2:]))
        return torch.tensor([image.shape[3] / 10, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3)

    chosen = options(mode=mode, window_hw=(100, 100), stride_hw=(50, 50), scales=(0.5, 1.0, 1.75))
    logits = full_logits(forward, images_of((11, 21), count=1), out_hw=(13, 17), options=chosen)
    if mode == "slide":
        assert sizes == [(100, 100)] * 3  # padded
    else:
        assert sizes == [(6, 10), (11, 21), (19, 37)]
    fractions = torch.tensor([width / 10 for _, width in sizes]).sigmoid()
    torch.testing.assert_close(logits[0, 0].exp(), fractions.mean().expand(13, 17))


@pytest.mark.parametrize("changes", [{}, {"mode": "slide"}, {"flip": True, "scales": (0.5, 1.0, 2.0)}])
def test_a_network_that_says_one_thing_everywhere(changes):
    scores = torch.randn(CLASSES, generator=torch.Generator().manual_seed(0))

    def forward(image):
        return scores.view(1, -1, 1, 1).expand(
            len(image), CLASSES, -(-image.shape[2] // 8), -(-image.shape[3] // 8)
        )

    for size_hw in SIZES:
        labels = predict_labels(forward, images_of(size_hw), out_hw=(9, 11), options=options(**changes))
        assert labels.eq(scores.argmax()).all()


def test_whole_images_enter_the_network_together_and_windows_one_by_one():
    seen, net = [], network(stride=4)

    def forward(images):
        seen.append(len(images))
        return net(images)

    images = images_of((16, 30), count=3)
    for changes, wanted in (
        ({}, [3]),
        ({"flip": True, "scales": (0.5, 1.0)}, [3] * 4),
        ({"mode": "slide"}, [1] * 6),
    ):
        seen.clear()
        inference.predict_labels(
            forward, images, sizes_hw=[(16, 30), (8, 9), (33, 31)], options=options(**changes)
        )
        assert seen == wanted


@pytest.mark.parametrize("changes", [{}, {"mode": "slide"}, {"flip": True}, {"scales": (0.5, 1.25)}])
def test_labels_do_not_depend_on_the_batch(changes):
    images, net = images_of((33, 47), count=5), network(stride=4, kernel=5)
    together = predict_labels(net, images, out_hw=(33, 47), options=options(**changes))
    for size in (1, 2, 3):
        parts = [
            predict_labels(net, part, out_hw=(33, 47), options=options(**changes))
            for part in images.split(size)
        ]
        assert torch.equal(torch.cat(parts), together)


def test_no_images():
    for chosen in (options(), options(mode="slide", flip=True)):
        labels = predict_labels(network(), images_of((8, 9), count=0), out_hw=(16, 18), options=chosen)
        assert labels.shape == (0, 16, 18)
        assert labels.dtype == torch.uint8


def test_half_precision_and_gradients_stay_outside():
    net, images = network(stride=2).requires_grad_(True), images_of((16, 24))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for changes in ({}, {"mode": "slide"}, {"flip": True}):
            logits = full_logits(net, images, out_hw=(16, 24), options=options(**changes))
            assert logits.dtype == torch.float32
            assert not logits.requires_grad
            labels = predict_labels(net, images, out_hw=(16, 24), options=options(**changes))
            assert torch.equal(labels.long(), logits.argmax(dim=1))


def test_too_many_classes_for_bytes():
    with pytest.raises(ValueError, match="at most 255 classes"):
        predict_labels(
            lambda x: torch.zeros(len(x), 256, 2, 2), images_of((4, 4)), out_hw=(4, 4), options=options()
        )
    logits = torch.arange(255.0).view(1, 255, 1, 1)
    labels = predict_labels(
        lambda x: logits.expand(len(x), -1, -1, -1), images_of((4, 4)), out_hw=(4, 4), options=options()
    )
    assert labels.eq(254).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "slide", "stride_hw": (17, 9)}, r"at most window_hw \(16, 24\), got \(17, 9\).*two thirds"),
        ({"mode": "slide", "stride_hw": (9, 0)}, r"at least 1 .*got \(9, 0\)"),
        ({"mode": "slide", "window_hw": None}, "at most window_hw None"),
        ({"colors": (None,)}, "2 class names and 1 colors"),
    ],
)
def test_wrong_options(changes, message):
    with pytest.raises(ValueError, match=message):
        options(**changes)
