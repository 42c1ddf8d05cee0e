"""Readers of data under hypothesis: nothing but the errors that they promise, within bounds of memory.

Seeded, so that a run is the same everywhere.
"""

import io
import json
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.image_folder import read_names
from dettoolkit.datasets.images import RAW, decode, header_hw
from dettoolkit.datasets.label_classes import LabelClasses, LabelError, read_instances, read_labels
from dettoolkit.detection.run import ground_truth_of
from dettoolkit.inference.inputs import as_rgb
from dettoolkit.inference.jobs.image_ids import ImageIds
from dettoolkit.inference.jobs.sources import Sources, open_found

fuzz = settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LIMIT = 0.05  # megapixels


@contextmanager
def memory(megabytes: float) -> Iterator[None]:
    """Fail when Python and numpy, OpenCV's arrays included, hold more than this at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * 1e6, f"{peak / 1e6:.1f} MB"


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


IMAGES = [
    encoded("JPEG"),
    encoded(
        "JPEG",
        "CMYK",
        progressive=True,
        exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0",
    ),
    encoded("PNG"),
    encoded("PNG", "P", transparency=3),
    encoded("PNG", "1"),
    encoded("WEBP"),
    encoded("WEBP", lossless=True),
    encoded("BMP", "P"),
    encoded("TIFF"),
    encoded("TIFF", compression="tiff_lzw"),
    encoded("GIF"),
    encoded("PPM"),
    encoded("JPEG2000"),
    encoded("AVIF"),
]
SIZES = [
    struct.pack(order + kind, value) for order in "<>" for kind in "HI" for value in (0, 1, 0x7FFF, 0xFFFF)
]


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """Draw a file with some of its bytes changed, cut out or put in; headers more often than pixels."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 6))):
        end = draw(st.sampled_from([30, 100, 700, len(data)]))
        at = draw(st.integers(0, max(0, min(end, len(data)) - 1)))
        new = draw(st.one_of(st.binary(max_size=4), st.sampled_from(SIZES)))
        data[at : at + draw(st.sampled_from([0, len(new), len(new), 3]))] = new
    return bytes(data[: draw(st.sampled_from([len(data), len(data), len(data) // 2]))])


image_bytes = st.one_of(damaged(IMAGES), st.binary(max_size=64))


@fuzz
@given(data=image_bytes)
def test_image_bytes(data: bytes) -> None:
    with memory(3 * LIMIT * 4 + 2):
        for read in (
            lambda: decode(data, RAW, max_megapixels=LIMIT),
            lambda: as_rgb(data, max_megapixels=LIMIT)[1],
        ):
            with suppress(BadImageError):
                image = read()
                assert image.dtype == np.uint8
                assert image.shape[0] * image.shape[1] <= LIMIT * 1e6


@fuzz
@given(data=image_bytes)
def test_image_headers(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    with memory(2):
        hw = header_hw(path)
    assert hw is None or (len(hw) == 2 and min(hw) >= 0)


def label_file(values: np.ndarray, palette: bool = False) -> bytes:
    if not palette:
        return cv2.imencode(".png", values)[1].tobytes()
    file = io.BytesIO()
    image = Image.fromarray(values.astype(np.uint8), "P")
    image.putpalette([value for color in range(256) for value in (color, 0, 0)])
    image.save(file, "PNG")
    return file.getvalue()


MAP = np.arange(24 * 32).reshape(24, 32)
np.unique(MAP)  # what is imported at a first call is no reader's memory
Image.init()
LABELS = [
    label_file((MAP % 3).astype(np.uint8)),
    label_file((MAP % 3 + 1000).astype(np.uint16)),
    label_file(MAP % 3, palette=True),
    encoded("PNG", "1"),
]


@fuzz
@given(data=damaged(LABELS))
def test_label_files(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "labels.png"
    path.write_bytes(data)
    classes = LabelClasses.from_table([("a", [0], None), ("b", [1, 1001], None)], ignore=[2])
    with memory(4 * LIMIT * 4 + 2):
        with suppress(BadImageError, LabelError):
            labels = read_labels(path, classes, max_megapixels=LIMIT)
            assert set(np.unique(labels)) <= {0, 1, 255}
        with suppress(BadImageError, LabelError):
            assert read_instances(path, max_megapixels=LIMIT).dtype == np.int32


numbers = st.one_of(
    st.integers(-3, 50),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**400, 1e308, True, None, "7"]),
)
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["a.jpg", "a\0.jpg", "\ud800", "../a.jpg", "/dev/zero", "", "N/A", "x" * 300]),
)
anything = st.recursive(
    st.one_of(numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)


def records(**fields: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Draw a list of mappings: mostly of these fields, some absent, some of any kind."""
    optional = {name: st.one_of(value, value, value, anything) for name, value in fields.items()}
    return st.lists(st.fixed_dictionaries({}, optional=optional), max_size=4)


ids = st.integers(1, 4)
documents = st.fixed_dictionaries(
    {
        "images": records(id=ids, file_name=texts, width=numbers, height=numbers),
        "annotations": records(
            id=numbers, image_id=ids, category_id=ids, iscrowd=numbers, area=numbers,
            bbox=st.lists(numbers, min_size=3, max_size=5),
        ),
        "categories": records(id=ids, name=texts),
    },
    optional={"info": anything},
)  # fmt: skip
whole = {
    "images": [{"id": 1, "file_name": "a\0.jpg"}, {"id": 2, "file_name": "\ud800"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 1e308, 1e308]}],
    "categories": [{"id": 1, "name": "a"}],
}


@fuzz
@given(document=st.one_of(documents, anything), cut=st.one_of(st.none(), st.integers(0, 200)))
@example(document=whole, cut=None)
def test_coco_json(document: object, cut: int | None, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(json.dumps(document).encode()[:cut])
    for label_map in ("contiguous", "ids"):
        with memory(5), suppress(ValueError):
            loaded = CocoAnnotations.load(path, images=tmp_path, label_map=label_map)
            truth = ground_truth_of(loaded)
            assert len(truth.images) == len(truth.categories) == len(loaded.labels)
            json.dumps(loaded.problems.to_json())
            assert np.isfinite(loaded.boxes_xywh[loaded.usable]).all()
    with memory(5), suppress(ValueError):
        ImageIds(path).find("a.jpg")


@fuzz
@given(text=st.one_of(st.binary(max_size=60), st.lists(texts, max_size=4).map("\n".join).map(
    lambda text: text.encode("utf-8", "surrogatepass"))))  # fmt: skip
def test_lists_and_tables_of_names(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    for name in ("list.txt", "names.txt"):
        (tmp_path / name).write_bytes(text)
    with memory(2):
        with suppress(ValueError):
            found = list(Sources([str(tmp_path / "list.txt")]))
            for each in found:
                assert ".." not in each.name.split("/")
                if each.kind == "image":
                    (item,) = open_found(each)
                    with pytest.raises(BadImageError):
                        item.read()
        with suppress(ValueError):
            assert all(read_names(tmp_path / "names.txt").values())
