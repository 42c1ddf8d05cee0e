"""Pages of one file: what is in them, what is not, and that nothing is executed or fetched."""

import re

import numpy as np
import pytest

from dettoolkit.pages.charts import chart_svg, ticks
from dettoolkit.pages.html import MAX_IMAGE_BYTES, render, thumbnails
from dettoolkit.pages.parts import Chart, Facts, Gallery, Listing, Matrix, Picture, Section, Series, Table


def noise(count, hw=(300, 480)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*hw, 3), np.uint8) for _ in range(count)]


def section(*blocks):
    return Section(title="Part", blocks=blocks)


def test_a_page_of_every_block():
    page = render(
        "Report",
        [
            section(Facts(title="Score", rows=[("AP", 0.41234), ("images", 12), ("iIoU", float("nan"))])),
            section(Table(title="Classes", columns=["class", "AP"], rows=[["car", 0.5], ["bus", None]])),
            section(
                Chart(title="Loss", x_label="step", y_label="loss", series=[Series("loss", [0, 1], [2, 1])])
            ),
            section(Matrix(title="M", corner="truth", rows=["a"], columns=["a"], counts=np.array([[3]]))),
            section(Gallery(title="Worst", pictures=[Picture(noise(1)[0], "F1 0.2")])),
            section(Listing(title="Recipe", text="a: 1", folded=True)),
            Section(title="Nothing in it"),
        ],
        footer="made by a test",
    )
    for text in (
        "0.412",
        ">12<",
        "–",
        "car",
        "0.500",
        "<svg",
        "F1 0.2",
        "a: 1",
        "<details ",
        "made by a test",
    ):
        assert text in page
    assert "Nothing in it" not in page
    assert len(re.findall("<img ", page)) == 1


def test_a_page_fetches_nothing_and_runs_nothing():
    nasty = "<script>alert(1)</script>"
    page = render(
        nasty,
        [section(Facts(title=nasty, note=nasty, rows=[(nasty, nasty)]), Listing(title="x", text=nasty))],
    )
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:image/jpeg|#)", page)
    svg = chart_svg(
        Chart(title=nasty, x_label=nasty, y_label=nasty, series=[Series(nasty, [0, 1], [0, 1])] * 2)
    )
    assert "<script" not in svg


def test_thumbnails_keep_a_page_below_its_limit():
    urls = thumbnails(noise(200))
    assert sum(len(url) for url in urls if url) <= MAX_IMAGE_BYTES
    assert urls[0] is not None
    assert thumbnails([]) == []
    assert thumbnails(noise(1, (1, 2000)))[0] is not None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (3, 97, [20, 40, 60, 80]),
        (0, 1e-5, [0, 2e-6, 4e-6, 6e-6, 8e-6, 1e-5]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_charts_of_little():
    def chart(*series, **options):
        return chart_svg(Chart(title="t", x_label="x", y_label="y", series=series, **options))

    assert "nothing to draw" in chart()
    assert "nothing to draw" in chart(Series("a", [1], [float("nan")]))
    assert "<circle" in chart(Series("a", [1], [1.0]))  # one point
    assert "<circle" not in chart(Series("a", [1, 2], [1.0, 2.0]))
    assert chart(Series("a", [0, 1, 2], [0, float("nan"), 1])).count("M") >= 2  # a gap
    long = chart(Series("a", list(range(100_000)), [float(each % 7) for each in range(100_000)]))
    assert len(long) < 20_000
    assert "and 8 more" in chart(*(Series(str(each), [0, 1], [0, each]) for each in range(20)))
