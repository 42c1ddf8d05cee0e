"""Every network of the paper has the published size, or a footnote says why not."""

import csv
import io

import pytest
import torch
from torch import nn

from dettoolkit.cli.paper import paper_tables
from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.paper.counts import TABLES, Count, Latency, count, measure, network_of, published_rows, timed
from dettoolkit.paper.printing import NOTES, render

ROWS = published_rows(["3", "6", "7", "8"])
BUILT = [pytest.param(row, id=f"{row.table}-{row.name}") for row in ROWS if row.recipe is not None]


@pytest.fixture(scope="module")
def counts():
    return [count(row) for row in ROWS]


@pytest.mark.parametrize("row", BUILT)
def test_a_network_has_the_published_size(row):
    found = count(row)
    if row.parameters is not None and "V3" in row.name and row.note != "whole":
        digits = len(row.parameters.partition(".")[2])
        assert f"{found.parameters:.{digits}f}" == row.parameters
    allowed = 0.02 if not row.note else 0.06
    assert found.parameters_off is None or abs(found.parameters_off) <= allowed
    assert abs(found.madds_off) <= (TABLES[row.table].tolerance if not row.note else 0.05)


def test_the_tables_are_those_of_the_paper():
    assert [len(published_rows([number])) for number in ("3", "6", "7", "8")] == [9, 11, 11, 7]
    assert {row.note for row in ROWS} - {""} <= NOTES.keys()
    best = max(published_rows(["6"]), key=lambda row: float(row.score))
    assert (best.name, best.score, best.parameters) == ("MnasNet", "23.0", "4.88")


def test_a_block_by_hand():
    """Row 1 of V2's last stage: 96 channels at 20x20, expanded to 576, to 160 channels at 10x10."""
    (row,) = [row for row in ROWS if row.recipe == "ssdlite_mnv2"]
    block = network_of(row).backbone.blocks[13]
    block.forward = lambda x, run=block.forward: run(x)[-1]  # of expansion, depthwise, output
    expand, depthwise, project = 96 * 576, 576 * 9, 576 * 160
    wrapped = nn.Sequential(nn.Conv2d(3, 96, 1), block)
    assert count_parameters(block, norm_affine=False) == expand + depthwise + project
    assert count_madds(wrapped, (20, 20)) == 400 * 3 * 96 + 400 * expand + 100 * (depthwise + project)


def test_every_difference_beyond_the_tolerance_has_a_footnote(counts):
    text = render(counts, "text")
    assert "[1] This row is from MobileNetV2's paper" in text
    assert "V3†" in text
    for found in counts:
        if found.madds_off is None or found.row.note:
            continue
        assert abs(found.madds_off) <= TABLES[found.row.table].tolerance, found.row.name


def test_formats_agree(counts, capsys):
    assert paper_tables(["8", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["published_score"] for row in rows] == [
        "72.6",
        "72.0",
        "69.4",
        "68.3",
        "66.2",
        "62.0",
        "60.3",
    ]
    assert rows[0]["madds_b"] == "9.53321"
    assert rows[-1] == dict.fromkeys(rows[0], "") | {
        "table": "8",
        "row": "ESPNetv1",
        "metric": "mIoU",
        "published_score": "60.3",
        "published_madds_b": "4.5",
    }
    markdown = render([found for found in counts if found.row.table == "8"], "markdown")
    for row in rows:
        assert f"| {row['row']}" in markdown
    assert markdown.count("\n| ") == 2 + len(rows)  # the header and its rule


def test_csv_has_one_unit_for_all_tables(counts):
    rows = list(csv.DictReader(io.StringIO(render(counts, "csv"))))
    assert {row["table"] for row in rows} == {"3", "6", "7", "8"}
    for row in rows:
        if row["madds_b"]:
            wanted = float(row["madds_b"]) / float(row["published_madds_b"]) - 1
            assert float(row["madds_off"]) == pytest.approx(wanted, abs=2e-3)
    assert rows[0]["published_madds_b"] == "0.219"
    assert rows[0]["published_ms_on"] == "Pixel 1"


def test_an_unknown_table_is_refused(capsys):
    with pytest.raises(SystemExit):
        paper_tables(["5"])
    assert "no table 5: choose 3, 6, 7 or 8" in capsys.readouterr().err


def test_a_row_without_a_recipe_is_refused():
    (row,) = [row for row in ROWS if row.name == "Proxyless"]
    with pytest.raises(ValueError, match="Proxyless of Table 3 is not implemented"):
        network_of(row)


def test_latency_is_shown_when_it_was_measured():
    (row,) = [row for row in ROWS if row.name == "V3-Small†"]
    told = []
    (found,) = timed([count(row)], tell=told.append)
    assert told[-1] == "round 5 of 5, network 1 of 1"
    assert isinstance(found.latency, Latency)
    assert 0 < found.latency.low <= found.latency.median <= found.latency.high
    text = render([found], "text")
    assert "ms here" in text
    assert f"{found.latency.median:.1f}" in text


def test_measuring_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    found = measure({"plain": (nn.Conv2d(3, 4, 3), (16, 16))}, tell=lambda _: None)
    assert found["plain"].low > 0
    assert torch.get_num_threads() == before


def test_a_timed_row_is_in_every_format():
    (row,) = [row for row in ROWS if row.name == "V3-Small†"]
    found = Count(row=row, parameters=1.77, madds=0.16, latency=Latency(median=8.25, low=8.0, high=9.5))
    assert "8.2  8.0-9.5" in render([found], "text")
    assert "| 8.2 | 8.0-9.5 |" in render([found], "markdown")
    (line,) = csv.DictReader(io.StringIO(render([found], "csv")))
    assert (line["ms"], line["ms_10"], line["ms_90"]) == ("8.25", "8.00", "9.50")
