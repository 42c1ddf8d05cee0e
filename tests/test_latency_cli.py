"""`dettoolkit latency` from the outside, and the file of its table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import refused

from dettoolkit.cli import latency
from dettoolkit.latency import clock, runtimes
from dettoolkit.latency.runtimes import Runtime
from dettoolkit.latency.table import LatencyTable, TableError, default_path, here, load_table, table_for

pytestmark = pytest.mark.usefixtures("alone")

MODEL = ["ssdlite_mnv3_small_full", "model.backbone.width=0.35", "--size", "64", "64", "--runtime", "pytorch"]
PYTORCH = Runtime(name="pytorch", threads=1)


@pytest.fixture(autouse=True)
def quick_and_on_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clock, "BURST", 0.0)
    monkeypatch.setattr(clock, "RUNS", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Return the table of a run of the command."""
    table = tmp_path / "table.json"
    assert latency([*MODEL, "--table", str(table)]) == 0
    capsys.readouterr()
    return table


Change = Callable[..., None]


def change(path: Path, **values: Any) -> None:
    """Change what a table says of where it was measured."""
    content = json.loads(path.read_text())
    content["measured_on"] |= values
    path.write_text(json.dumps(content))


def test_a_network_and_its_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    assert latency([*MODEL, "--json", str(out), "--validate", "3", "--blocks", "5"]) == 0
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    assert found["newly_measured"] == len({json.dumps(each, sort_keys=True) for each in found["blocks"]})
    assert found["interpolated"] == 0
    assert found["sum"] == pytest.approx(sum(each["milliseconds"] for each in found["blocks"]))
    assert re.search(rf"whole network +{found['whole']['median']:.3f} ", printed)
    assert found["conditions"] == {
        "processor": here(PYTORCH).processor,
        "runtime": "pytorch",
        "version": PYTORCH.version,
        "threads": 1,
    }
    assert Path(found["table"]) == default_path(here(PYTORCH))
    assert Path(found["table"]).is_relative_to(tmp_path / "cache")
    correction = found["validation"]["correction"]
    assert correction["agreement"]["networks"] == 3
    assert f"rank correlation {correction['agreement']['rank_correlation']:.3f} on 3 networks" in printed
    assert "the goal is at most 7 % and at least 0.95" in printed

    assert latency([*MODEL, "--json", "-"]) == 0
    later = json.loads(capsys.readouterr().out)
    assert later["newly_measured"] == 0
    assert later["correction"] == correction
    slope, per_block, constant = (correction[key] for key in ("slope", "per_block", "constant"))
    assert later["predicted"] == pytest.approx(
        slope * later["sum"] + per_block * len(later["blocks"]) + constant
    )
    assert latency([*MODEL, "--json", str(out)]) == 2
    assert "is not overwritten" in refused(capsys)


@pytest.mark.parametrize(
    ("name", "other"),
    [("processor", "Cortex-A76"), ("version", "1.2.3"), ("threads", 8), ("runtime", "onnx")],
)
def test_a_table_of_other_conditions_is_refused(
    measured: Path, name: str, other: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    change(measured, **{name: other})
    content = measured.read_bytes()
    assert latency([*MODEL, "--table", str(measured)]) == 2
    error = refused(capsys)
    assert f"was measured under other conditions ({name} '{other}', here" in error
    assert "or use its milliseconds with --reuse-table" in error

    assert latency([*MODEL, "--table", str(measured), "--reuse-table", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert f"warning: {measured} was measured under other conditions ({name} '{other}'" in captured.err
    found = json.loads(captured.out)
    assert "whole" not in found
    assert found["predicted"] > 0
    assert measured.read_bytes() == content


def test_blocks_that_are_not_in_a_reused_table_are_interpolated(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(measured, processor="Cortex-A76")
    other = ["ssdlite_mnv3_small_full", *MODEL[2:], "--table", str(measured), "--reuse-table"]
    assert latency(other) == 0
    printed = capsys.readouterr().out
    count = printed.count(" interpolated\n")
    assert count > 10
    assert f" blocks, {count} of them interpolated)" in printed


def test_a_reused_table_needs_no_runtime(
    measured: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(measured, runtime="litert", version="2.3")
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    options = [*MODEL[:-1], "litert", "--table", str(measured)]
    assert latency(options) == 2
    wanted = "the runtime litert needs the Python package 'litert_torch', which is not installed: "
    assert f"{wanted}pip install 'dettoolkit[litert]'" in refused(capsys)
    assert latency([*options, "--reuse-table"]) == 0
    assert "version '2.3', here 'none'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runtime", "tensorrt"], "there is no runtime 'tensorrt': choose from onnx, openvino, litert"),
        (["--threads", "0"], "threads=0: expected an integer from 1 to"),
        (["--validate", "1"], "--validate 1: expected 2 to 500 networks"),
        (["--blocks", "0"], "--blocks 0: expected 1 or more"),
        (["--size", "16", "64"], "--size 16 64: expected sides from 32 to 8192"),
        (["--reuse-table"], "--reuse-table needs the table of the other machine: give it with --table"),
        (["--table", "no.json", "--reuse-table"], "no.json does not exist: give the table to reuse"),
    ],
)
def test_wrong_options(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert latency([*MODEL, *options]) == 2
    assert message in refused(capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("weights", "is not a table of latencies that dettoolkit can read"),
        ('{"latency_table": 1}', "is not a table of latencies that dettoolkit can read"),
        (
            json.dumps(
                {
                    "latency_table": 9,
                    "blocks": [],
                    "measured_on": {"processor": "a", "runtime": "b", "version": "c", "threads": 1},
                }
            ),
            "has the layout version 9, and this version of dettoolkit reads 1",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_table(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(TableError, match=re.escape(f"{path} {message}")):
        load_table(path)


@pytest.mark.parametrize("value", [-1, 10**9, "many", 1.5])
def test_a_block_beyond_its_bounds_is_refused(measured: Path, value: Any) -> None:
    content = json.loads(measured.read_text())
    content["blocks"][0]["block"]["out_channels"] = value
    measured.write_text(json.dumps(content))
    with pytest.raises(TableError, match="is not a table of latencies"):
        load_table(measured)


def test_two_processes_add_to_one_table(measured: Path, tmp_path: Path) -> None:
    whole = load_table(measured)
    blocks = sorted(whole.times)
    path = tmp_path / "cache" / "both.json"
    for half in (blocks[::2], blocks[1::2]):
        table = LatencyTable(whole.conditions)  # neither knows of the other
        table.add({block: whole.times[block] for block in half})
        table.save(path)
    assert load_table(path).times == whole.times
    assert table_for(PYTORCH, path)[1] is None


def test_every_condition_has_a_file_of_its_own() -> None:
    paths = {default_path(here(Runtime(name="pytorch", threads=threads))) for threads in (1, 2)}
    assert len(paths) == 2
