"""`dettoolkit search` from the outside, on a tiny detector."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import refused

from dettoolkit.cli import search
from dettoolkit.config import load_recipe
from dettoolkit.latency import clock
from dettoolkit.latency.clock import Timing
from dettoolkit.latency.network_blocks import blocks_of
from dettoolkit.latency.runtimes import Runtime
from dettoolkit.latency.subjects import subject_of
from dettoolkit.latency.table import LatencyTable, here

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("alone")

SPACE = """\
kernel: [3, 5]
stages:
  - {stage: 1, fused: [true, false]}
  - {stage: 3, depth: [-3, -2, 0]}
  - {stage: 4, squeeze_excite: [true, false]}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "BURST", 0.0)
    monkeypatch.setattr(clock, "RUNS", 1)


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path / "space.yaml"


@pytest.fixture
def table(tiny_run: Path, tmp_path: Path) -> Path:
    """Return a table in which a block's milliseconds are its millions of multiply-adds."""
    subject, runtime = subject_of(tiny_run), Runtime(name="pytorch", threads=1)
    made = LatencyTable(here(runtime))
    for block, _ in blocks_of(subject.network(shapes_only=True), subject.input_hw):
        value = sum(block.costs[1:3]) + 0.01
        made.add({block: Timing(median=value, low=value, high=value)})
    made.save(tmp_path / "table.json")
    return tmp_path / "table.json"


@pytest.fixture
def options(tiny: Any, tiny_run: Path, space: Path, table: Path, tmp_path: Path) -> list[str]:
    return [
        *(str(tiny.recipe), f"data.root={tiny.data}", "trainer.max_epochs=1", "--space", str(space)),
        *("--start", str(tiny_run), "--target-ms", "1000", "--runtime", "pytorch", "--table", str(table)),
        *("--blocks", "1", "--steps", "2", "--best", "1", "--out", str(tmp_path / "found")),
    ]


def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def trials_of(folder: Path, name: str) -> list[Any]:
    from dettoolkit.search.search_settings import load_settings
    from dettoolkit.search.study import study_of

    return study_of(folder, load_settings(folder)[0], name).trials


@pytest.mark.timeout(900)
def test_a_search_has_random_search_and_the_papers_network_beside_it(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "found"
    assert search([*options, "--trials", "2", "--sampler", "evolution"]) == 0
    printed, found = capsys.readouterr().out, results(folder)
    assert [each["name"] for each in found["networks"]] == ["evolution_1", "random_1", "paper"]
    for name in ("evolution", "random"):
        counts = found["trials"][name]
        assert counts["finished"] + counts["given_up"] == 2
        assert {trial.state.name for trial in trials_of(folder, name)} <= {"COMPLETE", "PRUNED"}
    assert -1 <= found["rank_correlation"] <= 1
    assert f"rank correlation of short and full scores: {found['rank_correlation']:.3f}" in printed
    for each in found["networks"]:
        run = Path(each["run"])
        assert run.parent == folder / "full" / each["name"]
        evaluation = json.loads((run / "evaluation.json").read_text())
        assert each["full"] == evaluation["numbers"][evaluation["about"]["monitor"]]
        assert each["measured_ms"] > 0
        recipe = load_recipe(str(folder / "recipes" / f"{each['name']}.yaml")).recipe
        assert (recipe.model.backbone.blocks is None) == (each["name"] == "paper")
    scores = [point["score"] for point in found["front"]]
    assert scores == sorted(set(scores))
    assert not any((folder / "trials").iterdir())

    # All is done: going on trains nothing again.
    kept = {path: path.stat().st_mtime_ns for path in (folder / "full").rglob("evaluation.json")}
    assert search(["--resume", str(folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "full").rglob("evaluation.json")} == kept
    capsys.readouterr()
    assert search(options) == 2
    assert "already exists and is not overwritten" in refused(capsys)


@pytest.mark.timeout(900)
def test_two_processes_killed_once_and_resumed(options: list[str], tmp_path: Path) -> None:
    """Trials that were interrupted fail, others take their place, and both studies get all of theirs."""
    folder = tmp_path / "found"
    code = "import sys; from dettoolkit.cli import search; sys.exit(search(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *options, "--trials", "3", "--sampler", "random", "--jobs", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 500
        while time.monotonic() < until and process.poll() is None:
            if (folder / "trials.log").is_file() and any(
                trial.state.name in ("COMPLETE", "PRUNED") for trial in trials_of(folder, "random")
            ):
                break
            time.sleep(0.2)
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = {trial.number: trial.state.name for trial in trials_of(folder, "random")}
    assert search(["--resume", str(folder)]) == 0
    after = {trial.number: trial.state.name for trial in trials_of(folder, "random")}
    assert all(after[number] == state for number, state in before.items() if state != "RUNNING")
    assert all(after[number] == "FAIL" for number, state in before.items() if state == "RUNNING")
    assert sum(state != "FAIL" for state in after.values()) == 3
    assert [each["name"] for each in results(folder)["networks"]] == ["random_1", "paper"]
    assert results(folder)["rank_correlation"] is None  # of two networks there is none


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--trials", "0"], "--trials 0: expected 1 or more"),
        (["--target-ms", "-1"], "--target-ms -1: expected a number above 0"),
        (["--sampler", "grid"], "--sampler grid: choose from random, tpe, evolution"),
        (["--objective", "speed"], "--objective speed: choose from mnasnet, absolute, pareto"),
        (["--exponents", "0.1", "0"], "must be 0 or less: a slower network is not better"),
        (["--resume", "found"], "omit the recipe"),
        (["--runtime", "tensorrt"], "there is no runtime 'tensorrt'"),
    ],
)
def test_wrong_options(
    changes: list[str], message: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search([*options, *changes]) == 2
    assert message in refused(capsys)
    assert not (tmp_path / "found").exists()


def test_a_target_below_the_smallest_network(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search([*options, "--target-ms", "0.001"]) == 2
    error = refused(capsys)
    assert "--target-ms 0.001: the smallest network of " in error
    assert "set a target of at least that" in error
    assert not (tmp_path / "found").exists()


def test_an_impossible_block_is_refused_with_its_line(
    options: list[str], space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space.write_text("kernel: [3, 5]\nfused: [true, false]\n")
    assert search(options) == 2
    assert f"{space}:2: fused: stage 4 cannot be fused" in refused(capsys)


def test_what_a_new_search_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert search(["ssdlite_scenes.yaml"]) == 2
    assert "a new search needs --space, --start, --target-ms, --out" in refused(capsys)
    assert search(["--resume", str(tmp_path)]) == 2
    assert f"{tmp_path} has no search (search.json)" in refused(capsys)
