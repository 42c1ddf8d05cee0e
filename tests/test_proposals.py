"""Proposals of NetAdapt: which channels belong together, and how they are cut."""

from dataclasses import replace

import pytest

from dettoolkit.adaptation.proposals import Space, propose, smallest, spaces, widths, with_channels
from dettoolkit.backbones.tables import TABLES, V3_LARGE, V3_SMALL, Table


def test_spaces_are_expansions_groups_and_the_last_convolution():
    names = [space.name(V3_LARGE) for space in spaces(V3_LARGE)]
    assert names[:2] == ["expansion of row 2", "expansion of row 3"]  # row 1 has none
    assert names[14:] == [
        "outputs of the stem and row 1",
        "outputs of rows 2 to 3",
        "outputs of rows 4 to 6",
        "outputs of rows 7 to 10",
        "outputs of rows 11 to 12",
        "outputs of rows 13 to 15",
        "last convolution",
    ]
    assert [space.name(V3_SMALL) for space in spaces(V3_SMALL)][10] == "outputs of the stem"


@pytest.mark.parametrize("network", TABLES)
def test_a_cut_changes_its_space_alone_and_keeps_the_form(network):
    table = TABLES[network]
    for space in spaces(table):
        for count in list(widths(space.channels(table), 8))[:2]:
            cut = with_channels(table, space, count)
            if cut is None:
                continue
            assert cut.groups == table.groups
            others = [each for each in spaces(table) if each != space]
            assert [each.channels(cut) for each in others] == [each.channels(table) for each in others]
            assert space.channels(cut) == count
            for row, inputs, old, old_inputs in zip(
                cut.rows, cut.inputs, table.rows, table.inputs, strict=False
            ):
                assert (row.expansion == inputs) == (old.expansion == old_inputs)
    least = smallest(table, 8)
    assert max(space.channels(least) for space in spaces(table)) <= 40


def test_a_width_that_would_make_a_residual_or_lose_an_expansion_is_left_out():
    rows = list(V3_SMALL.rows)
    table = replace(V3_SMALL, rows=tuple(rows))
    seventh = Space("outputs", 7)  # 48 channels after 40 at stride 1
    assert with_channels(table, seventh, 40) is None
    assert with_channels(table, seventh, 32) is not None
    assert with_channels(table, Space("expansion", 2), 16) is None


def total(table: Table) -> float:
    return float(sum(row.expansion + row.channels for row in table.rows) + (table.last_channels or 0))


def test_each_proposal_is_the_widest_that_is_fast_enough():
    at_most = total(V3_SMALL) - 30
    found = propose(V3_SMALL, total, at_most=at_most, divisor=8)
    assert {each.space for each in found} <= set(spaces(V3_SMALL))
    assert len(found) > 10
    for each in found:
        assert each.milliseconds == total(each.table) <= at_most
        wider = with_channels(V3_SMALL, each.space, each.channels + 8)
        assert wider is None or total(wider) > at_most
    assert propose(V3_SMALL, total, at_most=0, divisor=8) == []
