"""The demo's page in headless Chromium: what it shows is what Python computes, and it says what it lacks."""

import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_models import (
    BOXES,
    CLASSIFIER_CLASSES,
    COLORS,
    SEGMENTER_CLASSES,
    write_classifier,
    write_detector,
    write_joint,
    write_segmenter,
)
from joint_models import joint_model
from PIL import Image
from random_weights import write_detector_of_cats
from tiny_exports import exporting, opened, with_section

from dettoolkit.cli import main
from dettoolkit.demo import ort_web
from dettoolkit.demo.builder import build_demo
from dettoolkit.demo.server import address, make_server
from dettoolkit.drawing.boxes import class_color
from dettoolkit.export.command import export
from dettoolkit.export.request import Request
from dettoolkit.loading import load, read_manifest
from dettoolkit.tasks import spec_for
from dettoolkit.training.trained import open_model

pytest.importorskip("onnx", reason="the models of these tests are written with onnx")
pytest.importorskip("onnxruntime", reason="the page is compared with onnxruntime")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")

FLAGS = ("--no-sandbox", "--use-fake-device-for-media-stream")
SLOW_MS = 90_000  # a busy machine compiles WebAssembly slowly
PHONE = {"width": 360, "height": 740}
SIZE_HW = (120, 160)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    named = os.environ.get("DETTOOLKIT_TEST_CHROMIUM")
    path = (
        named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    )
    if path is None:
        pytest.skip("no chromium; set DETTOOLKIT_TEST_CHROMIUM to one")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def runtime() -> Path:
    """Return ONNX Runtime Web's archive: the one that is named, the cache's, or npm's."""
    if named := os.environ.get("DETTOOLKIT_TEST_ORT_WEB"):
        return Path(named)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("npm_config_fetch_retries", "0")
        patch.setattr(ort_web, "TIMEOUT_S", 120)
        try:
            return ort_web.fetch()
        except ort_web.RuntimeFilesError as error:
            pytest.skip(f"no ONNX Runtime Web; set DETTOOLKIT_TEST_ORT_WEB to its archive: {error}")


class Site:
    """A demo that is served; without a model, one that is there already."""

    def __init__(
        self,
        folder: Path,
        model: Path | None = None,
        samples: Sequence[Path] = (),
        runtime: Path | None = None,
    ) -> None:
        self.folder, self.samples = folder, samples
        if model is not None:
            build_demo(model, folder, samples=samples, runtime=runtime, title=None)
        self.server = make_server(folder, 0)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return address(self.server)

    def sample(self, number: int) -> np.ndarray:
        with Image.open(self.folder / "samples" / f"{number}.jpg") as image:
            return np.asarray(image.convert("RGB"))


def patches(path: Path, seed: int, size: int = 20) -> Path:
    """Write a picture of 6 x 8 patches of colors; JPEG, so that the demo's sample has nearly the same."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(coarse.repeat(size, 0).repeat(size, 1)).save(path, quality=95)
    return path


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory, runtime) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("segmenter")
    samples = [patches(folder / f"{seed}.jpg", seed) for seed in (1, 2, 3)]
    yield (site := Site(folder / "demo", write_segmenter(folder / "model.onnx"), samples, runtime))
    site.server.shutdown()


@pytest.fixture(scope="module")
def detector(tmp_path_factory, runtime) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("detector")
    samples = [patches(folder / "1.jpg", 1, size=80)]
    yield (site := Site(folder / "demo", write_detector(folder / "model.onnx"), samples, runtime))
    site.server.shutdown()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, runtime) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("classifier")
    samples = [patches(folder / f"{seed}.jpg", seed) for seed in (1, 2, 3)]
    yield (site := Site(folder / "demo", write_classifier(folder / "model.onnx"), samples, runtime))
    site.server.shutdown()


@pytest.fixture(scope="module")
def joint(tmp_path_factory, runtime) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("joint")
    samples = [patches(folder / "1.jpg", 1, size=80)]
    yield (site := Site(folder / "demo", write_joint(folder / "model.onnx"), samples, runtime))
    site.server.shutdown()


@pytest.fixture
def visit(browser) -> Iterator:
    """Open a demo in a fresh browser profile; at the end nothing may have been asked of another server.

    Nor may the browser have complained of anything, unless a page is `faulty`.
    """
    contexts, asked, errors, allowed = [], [], [], []

    def visit(target: str, *, ready: bool = True, faulty: bool = False, scripts=(), **options):
        context = browser.new_context(accept_downloads=True, **options)
        contexts.append(context)
        context.set_default_timeout(SLOW_MS)
        context.on("request", lambda each: asked.append(each.url))
        for script in scripts:
            context.add_init_script(script)
        page = context.new_page()
        allowed.append(target.split("/", 3)[2])
        if not faulty:
            page.on("console", lambda each: errors.append(each.text) if each.type == "error" else None)
            page.on("pageerror", lambda each: errors.append(str(each)))
        page.goto(target)
        if ready:
            page.wait_for_selector("#backend[data-state=ready]")
            settled(page)
        return page

    yield visit
    for context in contexts:
        context.close()
    elsewhere = [
        url for url in asked if not url.startswith(("blob:", "data:")) and url.split("/")[2] not in allowed
    ]
    assert not elsewhere
    assert not errors


def settled(page) -> None:
    """Wait until the page has answered."""
    page.wait_for_selector("#stage[aria-busy=false]")


def saved(page, folder: Path) -> np.ndarray:
    """Have the page save what it shows; RGB of the picture's own size."""
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(folder / "saved.png")
    with Image.open(folder / "saved.png") as image:
        return np.asarray(image.convert("RGB"))


def slide(page, value: float) -> None:
    page.locator("#slider").fill(str(value))


def labels_of(image: np.ndarray, colors) -> np.ndarray:
    """Return each pixel the label of the color that is nearest."""
    difference = image[:, :, None].astype(int) - np.asarray(colors)[None, None]
    return np.abs(difference).sum(3).argmin(2)


def rows(page) -> list[tuple[str, str]]:
    names, values = page.locator(".row-name").all_inner_texts(), page.locator(".row-value").all_inner_texts()
    return list(zip(names, values, strict=True))


# ---- the same answers


def test_every_pixel_is_labeled_as_numpy_labels_it(visit, segmenter, tmp_path):
    page = visit(segmenter.address)
    assert "milliseconds" in page.inner_text("#announcement")
    assert page.inner_text("#backend-text").startswith("WebAssembly, ")
    assert page.evaluate("crossOriginIsolated")
    slide(page, 1)
    shown = labels_of(saved(page, tmp_path), COLORS)
    wanted = segmenter.sample(1).argmax(2)
    assert shown.shape == SIZE_HW
    assert (shown == wanted).mean() >= 0.995
    share = (wanted == 0).mean()
    (value,) = [value for name, value in rows(page) if name == "reddish"]
    assert abs(int(value.split()[0]) - 100 * share) <= 1.5
    slide(page, 0)
    assert np.abs(saved(page, tmp_path).astype(int) - segmenter.sample(1)).max() <= 3  # the picture itself


def test_a_trained_segmenter_answers_as_in_python(visit, tiny_segmentation_run, tmp_path, runtime):
    wish = Request(format="onnx", batch=1, preprocessing=True, postprocessing=True, limit=3)
    model = export(tiny_segmentation_run, tmp_path / "model.onnx", wish).path
    image = tmp_path / "image.png"
    rng = np.random.default_rng(0)
    scene = np.full((96, 128, 3), (60, 150, 200), np.uint8)  # as conftest draws: sky, road, a car
    scene[48:], scene[40:58, 50:82] = (90, 40, 90), (0, 30, 140)
    Image.fromarray(scene + rng.integers(0, 20, scene.shape, np.uint8)).save(image)
    site = Site(tmp_path / "demo", model, [image], runtime)
    page = visit(site.address)
    slide(page, 1)
    shown = labels_of(saved(page, tmp_path), read_manifest(model).section.colors)
    (wanted,) = opened(model, threads=1)(torch.from_numpy(site.sample(1).copy())[None])
    assert len(wanted.unique()) > 1
    assert (shown == wanted[0].numpy()).mean() >= 0.995
    site.server.shutdown()


def test_a_real_detector_answers_as_in_python(visit, tiny, tiny_run, tmp_path, runtime):
    from dettoolkit.formats.onnx.convert import convert  # wants onnx

    manifest, network = open_model(tiny_run)
    for name, parameter in network.named_parameters():
        if (
            name.startswith("heads.detection.class_predictors")
            and name.endswith(".1.bias")
            and ".0.1." not in name
        ):
            parameter.data += 4.0  # it has hardly learnt anything, and is to find something
    model = tmp_path / "model.onnx"
    manifest = exporting(manifest, batch=1, preprocessing=True, postprocessing=True)
    convert(network, with_section(manifest, score_threshold=0.05), model, spec_for(manifest))
    site = Site(tmp_path / "demo", model, [tiny.data / "val" / "1.png"], runtime)
    page = visit(site.address)
    slide(page, 0.05)
    image = torch.from_numpy(site.sample(1).copy())[None]
    _, scores, labels, counts = (output[0] for output in opened(model, threads=1)(image))
    assert counts > 3
    shown = rows(page)
    values = [int(value.removesuffix(" %")) for _, value in shown]
    assert np.allclose(values, 100 * scores[:counts].sort(descending=True).values.numpy(), atol=0.6)
    names = [manifest.class_names[label] for label in labels[:counts]]
    assert sorted(name for name, _ in shown) == sorted(names)
    site.server.shutdown()


def test_a_model_by_name_answers_as_in_python(visit, tmp_path, runtime):
    weights, photo = write_detector_of_cats(tmp_path / "cats.pth"), patches(tmp_path / "photo.jpg", 1)
    command = ["export-demo", "ssdlite_mnv3_large_torchvision", f"model.weights={weights}"]
    command += ["--images", str(photo), "--ort-web", str(runtime), "--out", str(tmp_path / "demo")]
    assert main(command) == 0
    site = Site(tmp_path / "demo")
    found = load("ssdlite_mnv3_large_torchvision", weights=weights)(site.sample(1))
    page = visit(site.address)
    slide(page, 0.05)
    names, values = zip(*rows(page), strict=True)
    assert names[0] == "cat" == found.class_names[found.labels[0]]
    best = [int(value.removesuffix(" %")) for value in values[:3]]
    assert np.allclose(best, 100 * np.sort(found.scores)[::-1][:3], atol=0.6)
    site.server.shutdown()


def test_boxes_are_where_the_model_says(visit, detector, tmp_path):
    page = visit(detector.address)
    assert rows(page) == [("traffic light", "90 %"), ("cup", "60 %")]  # the third is below the shown score
    picture = saved(page, tmp_path)
    height, width = picture.shape[:2]
    assert (height, width) == detector.sample(1).shape[:2]
    for (left, top, right, bottom), label in zip(
        BOXES[:2] * [width, height, width, height], (1, 0), strict=True
    ):
        for x, y in ((left, (top + bottom) / 2), (right, (top + bottom) / 2), ((left + right) / 2, bottom)):
            near = picture[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].reshape(-1, 3).astype(int)
            assert np.abs(near - class_color(label)).sum(1).min() < 60, (x, y)
    slide(page, 0.2)
    assert [value for _, value in rows(page)] == ["90 %", "60 %", "30 %"]
    assert "3 objects: 2 × traffic light, 1 × cup" in page.inner_text("#summary").replace("\xa0", " ")
    slide(page, 1)
    assert rows(page) == []
    assert page.inner_text("#summary") == "Nothing above this score."


def scores_of(image: np.ndarray) -> list[tuple[str, str]]:
    """Return the rows of the handmade classifier's page."""
    logits = np.append(image.reshape(-1, 3).mean(axis=0) / 32, -1)
    scores = np.exp(logits) / np.exp(logits).sum()
    shown = [f"{100 * score:.0f} %" if score >= 0.01 else "<1 %" for score in scores]
    return [(CLASSIFIER_CLASSES[label], shown[label]) for label in np.argsort(-scores, kind="stable")]


def test_a_classifiers_best_classes_have_bars(visit, classifier, tmp_path):
    page = visit(classifier.address)
    wanted = scores_of(classifier.sample(1))
    assert rows(page) == wanted
    assert page.inner_text("#summary") == f"Most likely: {wanted[0][0]}"
    assert page.inner_text("#announcement").startswith(f"Most likely {wanted[0][0]} {wanted[0][1]}, ")
    bars = [each.bounding_box()["width"] for each in page.locator(".row-bar").all()]
    assert bars == sorted(bars, reverse=True)
    assert page.is_hidden("#slider-control")
    assert saved(page, tmp_path).shape == classifier.sample(1).shape
    page.click("#samples li:nth-child(2) button")
    page.wait_for_selector("#canvas[aria-label^='Sample 2']")
    settled(page)
    assert rows(page) == scores_of(classifier.sample(2))


def test_a_classifiers_page_works_by_keyboard_and_camera(visit, classifier):
    page = visit(classifier.address, permissions=["camera"])
    reached = []
    for _ in range(7):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["file", "camera", "save", "BUTTON", "BUTTON", "BUTTON", "SUMMARY"]
    page.focus("#samples li:nth-child(3) button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#canvas[aria-label^='Sample 3']")
    settled(page)
    assert rows(page) == scores_of(classifier.sample(3))
    page.focus("#camera")
    page.keyboard.press("Enter")
    page.wait_for_selector("#timing:has-text('frames/s')")
    assert len(rows(page)) == 4
    page.keyboard.press("Enter")
    assert page.get_attribute("#camera", "aria-pressed") == "false"


def test_a_trained_classifier_answers_as_in_python(visit, tiny_classification_run, tmp_path, runtime):
    wish = Request(format="onnx", batch=1, preprocessing=True, postprocessing=True, limit=3)
    model = export(tiny_classification_run, tmp_path / "model.onnx", wish).path
    manifest, _ = open_model(tiny_classification_run)
    image = Path(manifest.recipe["data"]["root"]) / "val" / "disc" / "1.png"
    site = Site(tmp_path / "demo", model, [image], runtime)
    page = visit(site.address)
    for source in (model, tiny_classification_run):
        wanted = list(load(source)(site.sample(1)))
        found = {name: int(value.removesuffix(" %").replace("<1", "0")) for name, value in rows(page)}
        assert found.keys() == {name for name, _ in wanted}
        for name, score in wanted:
            assert abs(found[name] - 100 * score) <= 1.5
    site.server.shutdown()


def shown_classes(picture: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return each pixel the label of the class that it is covered with, at the page's opacity of 0.6."""
    covered = [0.4 * image + 0.6 * np.asarray(color) for color in COLORS]
    return np.abs(picture[None] - np.stack(covered)).sum(3).argmin(0)


def test_a_joint_models_boxes_are_over_its_classes(visit, joint, tmp_path):
    page = visit(joint.address)
    image = joint.sample(1)
    wanted = image.argmax(2)
    both = saved(page, tmp_path)
    objects = [("traffic light", "90 %"), ("cup", "60 %")]
    names = [SEGMENTER_CLASSES[label] for label in np.argsort(-np.bincount(wanted.ravel(), minlength=3))]
    assert rows(page)[:2] == objects
    assert [name for name, _ in rows(page)[2:]] == names
    headings = page.locator(".row-heading")
    assert headings.all_inner_texts() == ["Objects, by score", "Classes, by area"]
    summary = page.inner_text("#summary").replace("\xa0", " ")
    assert summary == "2 objects: 1 × traffic light, 1 × cup; 3 classes of 3"

    page.get_by_label("Objects", exact=True).uncheck()
    classes = saved(page, tmp_path)
    assert (shown_classes(classes, image) == wanted).mean() >= 0.99
    assert [name for name, _ in rows(page)] == names
    height, width = image.shape[:2]
    left, top, right, bottom = BOXES[0] * [width, height, width, height]
    assert np.abs(both[int(bottom), int((left + right) / 2)] - np.array(class_color(1))).sum() < 60
    page.get_by_label("Classes", exact=True).uncheck()
    assert np.abs(saved(page, tmp_path).astype(int) - image).max() <= 3  # the picture itself
    assert (rows(page), page.inner_text("#summary")) == ([], "Objects and classes are hidden.")
    page.get_by_label("Objects", exact=True).check()
    alone = saved(page, tmp_path)
    assert rows(page) == objects
    inside = (slice(int(top) + 40, int(bottom) - 40), slice(int(left) + 40, int(right) - 40))
    assert np.abs(alone[inside].astype(int) - image[inside]).max() <= 3
    slide(page, 0.2)
    assert [value for _, value in rows(page)] == ["90 %", "60 %", "30 %"]


def test_pointing_at_a_joint_models_answers_says_both(visit, joint):
    page = visit(joint.address)
    box = page.locator("#canvas").bounding_box()
    image = joint.sample(1)
    height, width = image.shape[:2]

    def point(x: float, y: float) -> str:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        return SEGMENTER_CLASSES[int(image[int(y * height), int(x * width)].argmax())]

    name = point(0.69, 0.55)
    assert page.inner_text("#tip-text") == f"traffic light, 90 % · {name}"
    assert page.locator(".row.marked .row-name").all_inner_texts() == ["traffic light"]
    name = point(0.44, 0.06)
    assert page.inner_text("#tip-text") == name
    assert page.locator(".row.marked .row-name").all_inner_texts() == [name]
    row = page.locator(".row", has_text=name)
    row.click()
    assert row.get_attribute("aria-pressed") == "true"


def test_a_real_joint_model_answers_as_in_python(visit, tiny, tiny_segmentation, tmp_path, runtime):
    from dettoolkit.formats.onnx.convert import convert  # wants onnx

    network, manifest = joint_model(tiny, tiny_segmentation, tmp_path)
    model = tmp_path / "model.onnx"
    section = manifest.section
    boxes = replace(section.detection, score_threshold=0.3, threshold=0.4)
    manifest = manifest.with_section(replace(section, detection=boxes))
    manifest = exporting(manifest, batch=1, preprocessing=True, postprocessing=True)
    convert(network, manifest, model, spec_for(manifest))
    site = Site(tmp_path / "demo", model, [tiny.data / "val" / "1.png"], runtime)
    found = load(model)(site.sample(1))
    page = visit(site.address)
    objects = len(found.detection)
    assert objects
    assert [name for name, _ in rows(page)[:objects]] == list(found.detection.names)
    values = [int(value.removesuffix(" %")) for _, value in rows(page)[:objects]]
    assert np.allclose(values, 100 * found.detection.scores, atol=0.6)
    fractions = found.segmentation.fractions
    shown = {name: value.removesuffix(" %").replace("<1", "0") for name, value in rows(page)[objects:]}
    assert shown.keys() == fractions.keys()
    for name, value in shown.items():
        assert abs(int(value) - 100 * fractions[name]) <= 1.5
    site.server.shutdown()


def test_the_browser_itself_refuses_other_servers(visit, segmenter):
    page = visit(segmenter.address, faulty=True)
    told = page.evaluate(
        """() => new Promise((resolve) => {
          document.addEventListener("securitypolicyviolation", (event) => resolve(event.violatedDirective));
          fetch("http://127.0.0.1:9/").catch(() => setTimeout(() => resolve("none"), 2000));
        })"""
    )
    assert told == "connect-src"


# ---- what people do


def test_pointing_says_what_is_there(visit, detector):
    page = visit(detector.address)
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"])
    assert page.inner_text("#tip-text") == "traffic light, 90 %"
    assert page.locator(".row.marked .row-name").all_inner_texts() == ["traffic light"]
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.05 * box["height"])
    assert page.is_hidden("#tip")


def test_all_works_by_keyboard(visit, segmenter):
    page = visit(segmenter.address)
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.className || 'sample'")
        )
        if reached[-1] == "sample" and reached.count("sample") == 2:
            page.keyboard.press("Enter")
            settled(page)
    wanted = ["canvas", "file", "camera", "save", "sample", "sample", "sample", "slider", "row", "row"]
    assert reached[: len(wanted)] == wanted
    assert page.get_attribute("#samples li:nth-child(2) button", "aria-pressed") == "true"
    page.focus("#canvas")
    page.keyboard.press("ArrowRight")
    said = page.inner_text("#announcement")
    height, width = SIZE_HW
    assert (
        said == ("reddish", "greenish", "bluish")[int(segmenter.sample(2)[height // 2, width // 2].argmax())]
    )
    assert page.is_visible("#tip")
    page.keyboard.press("Escape")
    assert page.is_hidden("#tip")
    page.locator(".row").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".row").first.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Space")
    assert page.locator(".row").first.get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("kind", ["segmenter", "detector", "classifier", "joint"])
def test_a_phone_shows_all_of_it(visit, kind, request):
    page = visit(request.getfixturevalue(kind).address, viewport=PHONE, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    names = ["#file ~ span", "#camera", "#save", *(["#slider"] if kind != "classifier" else []), ".row"]
    for name in names:
        box = page.locator(name).first.bounding_box()
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= PHONE["width"], name
    page.locator("#canvas").tap()
    assert page.is_visible("#tip") or kind not in ("segmenter", "joint")
    assert page.is_visible("#switches") == (kind == "joint")


def test_pictures_of_all_kinds_are_taken_or_refused_with_a_reason(visit, segmenter, tmp_path):
    page = visit(segmenter.address)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(segmenter.samples[0]) as image:
        image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
        image.resize((6000, 4500)).save(tmp_path / "huge.jpg", quality=30)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.fromarray(np.zeros((1, 1, 4), np.uint8)).save(tmp_path / "clear.png")

    def offer(name: str) -> str:
        page.set_input_files("#file", tmp_path / name)
        page.wait_for_selector(f"#canvas[aria-label^='{name}'], #problem:not([hidden])")
        settled(page)
        return (
            page.inner_text("#problem")
            if page.is_visible("#problem")
            else page.get_attribute("#canvas", "aria-label")
        )

    assert offer("turned.jpg") == f"turned.jpg, {SIZE_HW[0]} by {SIZE_HW[1]} pixels"
    slide(page, 1)
    turned = labels_of(saved(page, tmp_path), COLORS)
    assert (turned == np.rot90(segmenter.sample(1), -1).argmax(2)).mean() > 0.98
    assert offer("huge.jpg") == "huge.jpg, 2048 by 1536 pixels, scaled down from 6000 by 4500"
    assert "cannot read the file as an image" in offer("broken.jpg")
    assert "This file is empty." in offer("empty.jpg")
    assert page.get_attribute("#canvas", "aria-label").startswith("huge.jpg")  # what was there stays
    assert offer("clear.png") == "clear.png, 1 by 1 pixels"
    assert rows(page) == [("reddish", "100 %")]  # white: the first of equals


def test_of_several_in_quick_succession_the_latest_is_shown(visit, segmenter, tmp_path):
    page = visit(segmenter.address)
    click = "const all = document.querySelectorAll('#samples button');"
    page.evaluate(f"() => {{ {click} for (const index of [1, 0, 2, 1, 0, 1, 2]) all[index].click(); }}")
    page.wait_for_selector("#canvas[aria-label^='Sample 3']")
    settled(page)
    slide(page, 1)
    shown = labels_of(saved(page, tmp_path), COLORS)
    assert (shown == segmenter.sample(3).argmax(2)).mean() >= 0.995
    assert [each.get_attribute("aria-pressed") for each in page.locator("#samples button").all()] == [
        "false",
        "false",
        "true",
    ]


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(visit, segmenter, way):
    page = visit(segmenter.address)
    page.evaluate(
        """async (way) => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 33, height: 22 });
          const blob = await new Promise((resolve) => canvas.toBlob(resolve));
          const carried = new DataTransfer();
          carried.items.add(new File([blob], "given.png", { type: "image/png" }));
          const event = way === "drop"
            ? new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: carried, bubbles: true });
          document.body.dispatchEvent(event);
        }""",
        way,
    )
    page.wait_for_selector("#canvas[aria-label='given.png, 33 by 22 pixels']")
    settled(page)


def test_the_camera_runs_and_stops(visit, segmenter):
    page = visit(segmenter.address, permissions=["camera"])
    page.click("#camera")
    page.wait_for_selector("#timing:has-text('frames/s')")
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    assert rows(page)
    page.click("#camera")
    assert page.get_attribute("#camera", "aria-pressed") == "false"
    assert page.inner_text("#announcement") == "Camera off."
    page.click("#camera")  # again, and a sample takes its place
    page.wait_for_selector("#camera[aria-pressed=true]")
    page.click("#samples button")
    page.wait_for_selector("#canvas[aria-label^='Sample 1']")
    assert page.get_attribute("#camera", "aria-pressed") == "false"


def test_a_camera_that_is_allowed_too_late_is_switched_off(visit, segmenter):
    slow = """{
      const ask = MediaDevices.prototype.getUserMedia;
      MediaDevices.prototype.getUserMedia = async function (...wishes) {
        await new Promise((resolve) => setTimeout(resolve, 500));
        return (globalThis.given = await ask.apply(this, wishes));
      };
    }"""
    page = visit(segmenter.address, permissions=["camera"], scripts=(slow,))
    page.click("#camera")
    page.click("#samples li:nth-child(2) button")
    ended = page.evaluate(
        """async () => {
          const wait = () => new Promise((resolve) => setTimeout(resolve, 50));
          while (!globalThis.given) await wait();
          await wait();
          return globalThis.given.getTracks().every((track) => track.readyState === "ended");
        }"""
    )
    assert ended
    settled(page)
    assert page.get_attribute("#camera", "aria-pressed") == "false"
    assert page.get_attribute("#canvas", "aria-label").startswith("Sample 2")


# ---- what may be missing


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "The camera was not allowed."),
        ("delete Navigator.prototype.mediaDevices", "This browser does not let pages use a camera."),
        (
            "MediaDevices.prototype.getUserMedia = async () => { throw { name: 'NotFoundError' } }",
            "no camera that the browser can find",
        ),
    ],
)
def test_a_camera_that_is_missing_or_denied_is_told(visit, segmenter, script, message):
    page = visit(segmenter.address, scripts=(script,), permissions=[])
    page.click("#camera")
    page.wait_for_selector("#problem:not([hidden])")
    assert message in page.inner_text("#problem-text")
    assert page.get_attribute("#camera", "aria-pressed") == "false"
    page.click("#problem-close")
    page.click("#samples button")
    settled(page)
    assert rows(page)


def test_a_page_that_lacks_webassembly_says_so(visit, segmenter):
    page = visit(segmenter.address, ready=False, scripts=("delete globalThis.WebAssembly",))
    assert "This browser has no WebAssembly" in page.inner_text("#unstarted")
    assert page.is_hidden("#demo")


def test_a_page_that_lacks_a_server_says_how_to_get_one(browser, segmenter):
    page = browser.new_page()
    page.goto((segmenter.folder / "index.html").as_uri())
    text = page.inner_text("#unstarted")
    assert "opened as a file" in text
    assert "dettoolkit export-demo --serve" in text
    assert page.is_visible("#unstarted")
    page.close()


def test_a_page_that_lacks_javascript_says_so(visit, segmenter):
    page = visit(segmenter.address, ready=False, java_script_enabled=False)
    page.wait_for_selector("#unstarted")
    assert "It needs JavaScript" in page.inner_text("#unstarted")


def test_a_page_that_lacks_its_model_says_so_and_tries_again(visit, segmenter):
    page = visit("http://" + segmenter.address.split("/")[2] + "/style.css", ready=False, faulty=True)
    page.route("**/model.onnx", lambda route: route.fulfill(status=404))
    page.goto(segmenter.address)
    page.wait_for_selector("#problem:not([hidden])")
    assert "model.onnx was not found (the server responded 404)" in page.inner_text("#problem-text")
    assert page.get_attribute("#backend", "data-state") == "failed"
    page.unroute("**/model.onnx")
    page.route("**/model.onnx", lambda route: route.fulfill(body=b"no model"))
    page.click("#problem-retry")
    page.wait_for_selector("#problem-text:has-text('protobuf')")
    page.unroute("**/model.onnx")
    page.click("#problem-retry")
    page.wait_for_selector("#backend[data-state=ready]")
    settled(page)
    assert rows(page)
    assert page.is_hidden("#problem")


def test_a_gpu_that_lacks_what_the_model_needs_is_left_for_webassembly(visit, segmenter):
    broken = (
        "Object.defineProperty(Navigator.prototype, 'gpu', { value: { requestAdapter: async () => ({}) } })"
    )
    page = visit(segmenter.address, faulty=True, scripts=(broken,))  # the worker's own has no adapter
    assert page.inner_text("#backend-text").startswith("WebAssembly")
    assert page.is_visible("#backend-list")
    assert rows(page)


def test_a_server_without_headers_gives_one_thread(visit, segmenter):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(segmenter.folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = visit(f"http://localhost:{server.server_address[1]}/")
        assert page.inner_text("#backend-text") == "WebAssembly, 1 thread"
        assert rows(page)
        page.click(".about summary")
        assert re.search("headers of cross-origin isolation", page.inner_text("#threads-hint"))
        server.shutdown()
