"""`dettoolkit benchmark` from the outside."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import refused

from dettoolkit import load
from dettoolkit.cli import benchmarking
from dettoolkit.cli.benchmarking import benchmark
from dettoolkit.inference.benchmark import STEPS, ClockedEngine, Times, measure

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(autouse=True)
def threads_as_before() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_models_are_measured_in_turns(
    tiny_run: Path, tiny_segmentation_run: Path, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models, out = [str(tiny_run), str(tiny_segmentation_run)], tmp_path / "times.json"
    options = ["--images", str(tiny.data / "val"), "--limit", "2", "--seconds", "0.1", "--threads", "1"]
    assert benchmark([*models, *options, "--json", str(out)]) == 0
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    assert [each["model"] for each in found["models"]] == models
    assert found["threads"] == 1
    assert found["image_count"] == 2
    for each in found["models"]:
        assert each["runs"] == found["models"][0]["runs"] >= 4
        assert all(each[name] > 0 for name in STEPS)
        assert each["fastest"] <= each["lower_quartile"] <= each["whole"] <= each["upper_quartile"]
        assert each["images_per_second"] == pytest.approx(1000 / each["whole"])
        assert f"{each['whole']:.2f}" in printed
    assert benchmark([*models, *options, "--json", str(out)]) == 2
    assert "is not overwritten" in refused(capsys)


def test_json_on_stdout_stands_alone(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without images it draws some."""
    assert benchmark([str(tiny_run), "--limit", "1", "--seconds", "0.1", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == "generated scenes of 640x480"


def test_steps_add_up_to_what_a_call_takes(tiny_run: Path, tiny: Any) -> None:
    """A network that sleeps is seen in its step, and nowhere else."""
    predictor, image = load(tiny_run), next((tiny.data / "val").iterdir())
    wanted = predictor(image)
    engine, slept = predictor.engine, []

    class Slow:
        device = engine.device

        def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            import time

            slept.append(time.sleep(0.05))
            return engine(images)

    predictor.engine = Slow()
    (times,) = measure([predictor], [image], seconds=0.01)
    assert isinstance(predictor.engine, ClockedEngine)
    assert min(times.steps["network"]) >= 50
    assert statistics.median(times.steps["decode"]) < 50
    assert times.whole == pytest.approx([sum(parts) for parts in zip(*times.steps.values(), strict=True)])
    assert len(slept) == len(times.whole) + 4  # the first block is not counted
    assert predictor(image).to_dict() == wanted.to_dict()


def test_a_summary_is_of_all_images() -> None:
    times = Times({name: [float(number) for number in range(1, 6)] for name in STEPS})
    summary = times.summary()
    assert summary["read"] == 3
    assert (summary["whole"], summary["lower_quartile"], summary["upper_quartile"]) == (12, 8, 16)
    assert (summary["fastest"], summary["images_per_second"]) == (4, 1000 / 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "0"], "--seconds 0: expected a number above 0"),
        (["--seconds", "nan"], "--seconds nan: expected a number above 0"),
        (["--device", "gpu"], "--device gpu: expected cpu, cuda"),
        (["--limit", "0"], "--limit 0: expected 1 or more"),
        (["--threads", "0"], "threads=0: expected an integer from 1"),
        (["--images", "nowhere"], "nowhere does not exist"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tiny_run: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert benchmark([str(tiny_run), *options]) == 2
    assert message in refused(capsys)


def test_a_missing_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark(["nowhere.onnx"]) == 2
    assert "nowhere.onnx does not exist" in refused(capsys)


def test_a_busy_machine_and_a_wide_spread_are_told(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarking, "_load_of_others", lambda: 1.5)
    monkeypatch.setattr(benchmarking, "WIDE", 0.5)
    assert benchmark([str(tiny_run), "--limit", "1", "--seconds", "0.1"]) == 0
    error = capsys.readouterr().err
    assert "warning: this machine was busy before the start (load 1.5" in error
    assert "times as long as the fastest one" in error
