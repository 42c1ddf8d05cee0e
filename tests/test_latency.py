"""Latency: blocks as data, clocks, and predictions of whole networks."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from dettoolkit.complexity import count_madds
from dettoolkit.config import load_recipe
from dettoolkit.latency import clock
from dettoolkit.latency.clock import Timing, in_turns
from dettoolkit.latency.correction import Agreement, Correction, rank_correlation
from dettoolkit.latency.forecast import Forecast
from dettoolkit.latency.interpolate import Interpolation
from dettoolkit.latency.measure import measure_blocks
from dettoolkit.latency.network_blocks import Block, Probe, blocks_of, with_lively_weights
from dettoolkit.latency.runtimes import Runtime
from dettoolkit.latency.subjects import Subject, subject_of

SMALL = (
    "ssdlite_mnv3_small_full.yaml",
    "lraspp_mnv3_small.yaml",
    "imagenet_mnv3_small.yaml",
    "joint_mnv3_small.yaml",
)
RUNTIMES = {
    "onnx": ("onnxruntime", "ONNX Runtime"),
    "openvino": ("openvino", "OpenVINO"),
    "executorch": ("executorch", "ExecuTorch"),
    "litert": ("ai_edge_litert", "LiteRT"),
}
PYTORCH = Runtime(name="pytorch", threads=1)


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "BURST", 0.0)
    monkeypatch.setattr(clock, "RUNS", 1)


@pytest.fixture
def subject() -> Subject:
    return subject_of(Path("ssdlite_mnv3_small_full"), ["model.backbone.width=0.35"], input_hw=(64, 64))


@pytest.mark.parametrize("name", SMALL)
def test_blocks_have_all_multiply_adds(name: str) -> None:
    """PyTorch's own counter, on the network, is the oracle for what the blocks' descriptions say."""
    subject = subject_of(Path(name), input_hw=(128, 96))
    network = subject.network()
    dense, depthwise = 0.0, 0.0
    for block in (block for block, _ in blocks_of(network, (128, 96))):
        squeezes = 2 * block.expansion * block.squeezed / 1e6  # the two layers in squeeze-and-excite
        dense, depthwise = dense + block.costs[1] + squeezes, depthwise + block.costs[2]
    assert 1e6 * (dense + depthwise) == pytest.approx(count_madds(network, (128, 96)), rel=1e-9)


def test_blocks_are_those_of_the_tables_in_their_order() -> None:
    subject = subject_of(Path("ssdlite_mnv3_small_full.yaml"))
    found = [block for block, _ in blocks_of(subject.network(), (320, 320))]
    rows = [block for block in found if block.kind == "bottleneck"]
    table = [(16, 16, 2), (72, 24, 2), (88, 24, 1), (96, 40, 2)]
    assert [(each.expansion, each.out_channels, each.stride) for each in rows[:4]] == table
    assert found[0] == Block(
        kind="convolution", in_hw=(320, 320), in_channels=3, out_channels=16, kernel=3, stride=2,
        activation="hardswish",
    )  # fmt: skip
    assert (rows[0].squeezed, rows[1].squeezed, rows[0].gate) == (8, 0, "Hardsigmoid")
    assert [each.adds_input for each in rows[:4]] == [False, False, True, False]
    assert rows[3].in_hw == (40, 40)
    assert rows[3].out_hw == (20, 20)
    assert len(rows) == 11


def test_shapes_are_enough_for_blocks(subject: Subject) -> None:
    with_weights, without = subject.network(), subject.network(shapes_only=True)
    assert next(without.parameters()).is_meta
    assert not next(with_weights.parameters()).is_meta
    one, other = ([block for block, _ in blocks_of(each, (64, 64))] for each in (with_weights, without))
    assert one == other


def test_a_probe_runs_its_block_alone() -> None:
    layer = nn.Conv2d(8, 4, 3, padding=1, stride=2)
    probe = Probe(8, layer).eval()
    image = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(probe(image), layer(probe.source(image)).mean((2, 3), keepdim=True))
    assert Probe(3, None)(image).shape == (1, 3, 1, 1)


def test_random_weights_do_not_fade(subject: Subject) -> None:
    network = with_lively_weights(subject.network())
    outputs = network(torch.rand(1, 3, 64, 64))
    assert all(1e-4 < float(each.detach().abs().mean()) < 1e4 for each in outputs)


def test_turns_tell_the_time_of_each() -> None:
    def work(count: int) -> Any:
        return lambda: sum(range(count))

    turns = in_turns([work(1000), work(100_000)], threads=1, rounds=3)
    assert turns.own.shape == (2, 3)
    assert turns.own[1].min() > turns.own[0].max()
    assert 0 <= turns.waited <= 1


def test_a_difference_below_zero_counts_as_zero() -> None:
    assert Timing.of(np.array([-1.0, -0.5, 3.0])) == Timing(median=0.0, low=0.0, high=1.25)


def _random_blocks(count: int) -> list[Block]:
    chance = random.Random(0)
    return [
        Block(
            kind="bottleneck",
            in_hw=(size := chance.choice((10, 20, 40)), size),
            in_channels=8 * chance.randint(1, 12),
            out_channels=8 * chance.randint(1, 12),
            kernel=chance.choice((3, 5)),
            stride=chance.choice((1, 2)),
            activation=chance.choice(("relu", "hardswish")),
            expansion=8 * chance.randint(2, 60),
            squeezed=chance.choice((0, 16)),
        )
        for _ in range(count)
    ]


def _made_up(block: Block) -> float:
    """Milliseconds that are no weighted sum of costs: dense layers are fast where they are wide."""
    fixed, dense, depthwise, moved, squeezed, swish, _, _ = block.costs
    speed = 1 + 0.5 * math.log2(block.expansion) / 10
    return 0.02 * fixed + 0.05 * dense / speed + 0.3 * depthwise + 0.2 * moved + 0.4 * squeezed + 0.1 * swish


def test_interpolation_is_near_for_new_blocks_and_says_how_near() -> None:
    blocks = sorted(set(_random_blocks(160)))
    known, new = blocks[::2], blocks[1::2]
    interpolation = Interpolation({block: _made_up(block) for block in known})
    off = [abs(interpolation.milliseconds(block) / _made_up(block) - 1) for block in new]
    assert np.median(off) < 0.03
    assert 0.3 * np.median(off) < interpolation.error < 3 * np.median(off)


def test_interpolation_of_one_block_scales_it() -> None:
    block = _random_blocks(1)[0]
    assert Interpolation({block: 2.0}).milliseconds(block) == pytest.approx(2.0, rel=0.05)
    with pytest.raises(ValueError, match="is empty: measure some blocks first"):
        Interpolation({})


def test_rank_correlation_is_spearmans() -> None:
    one, other = [3.0, 1.0, 2.0, 2.0, 9.0], [1.0, 1.0, 5.0, 2.0, 7.0]
    assert rank_correlation(one, other) == pytest.approx(scipy.stats.spearmanr(one, other).statistic)
    assert rank_correlation([1.0, 1.0], [1.0, 2.0]) == 0.0


def test_a_correction_is_judged_on_networks_it_has_not_seen() -> None:
    totals, counts = np.linspace(2, 9, 30), [20 + number % 7 for number in range(30)]
    exact = 1.2 * totals + 0.05 * np.array(counts) + 0.7
    found = Correction.fit(totals.tolist(), counts, exact.tolist())
    assert found.agreement is not None
    assert found.agreement.error < 0.02
    assert found(5.0, 22) == pytest.approx(1.2 * 5 + 0.05 * 22 + 0.7, rel=0.02)
    noise = np.random.default_rng(0).uniform(1, 10, 30)  # nothing to be learned from the sums
    assert Correction.fit(totals.tolist(), counts, noise.tolist()).agreement.error > 0.2  # type: ignore[union-attr]


def test_agreement_by_hand() -> None:
    found = Agreement.of([1.1, 2.0, 2.7], [1.0, 2.0, 3.0])
    assert (found.error, found.worst) == (pytest.approx(0.1), pytest.approx(0.1))
    assert found.rank_correlation == 1.0


def test_what_is_measured_is_kept_and_the_rest_interpolated(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    network = subject.network()
    forecast = Forecast(subject, PYTORCH, path=path)
    measured = forecast.learn([network])
    assert measured == len(forecast.table.times) == len(set(forecast.blocks(network)))
    prediction = forecast.predict(network)
    assert prediction.interpolated == ()
    assert (
        prediction.milliseconds == prediction.total == pytest.approx(sum(ms for _, ms in prediction.blocks))
    )

    again = Forecast(subject, PYTORCH, path=path)
    assert again.learn([network]) == 0
    assert again.predict(network) == prediction
    other = subject.network(subject.varied(1, seed=0)[0])
    known = set(again.table.times)
    assert set(again.predict(other).interpolated) == set(again.blocks(other)) - known
    assert again.learn([other], most=3) == 3
    assert len(Forecast(subject, PYTORCH, path=path).table.times) == measured + 3


def test_an_anchor_makes_a_networks_own_prediction_right(subject: Subject, tmp_path: Path) -> None:
    network = subject.network()
    forecast = Forecast(subject, PYTORCH, path=tmp_path / "table.json")
    forecast.learn([network])
    before = forecast.predict(network).milliseconds
    found = forecast.anchor(network)
    assert found.off == pytest.approx(before / found.measured.median - 1)
    assert forecast.predict(network).milliseconds == pytest.approx(found.measured.median)


def test_validation_fits_a_correction_that_later_predictions_use(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    found = Forecast(subject, PYTORCH, path=path).validate(4, most_blocks=40)
    assert found.plain.networks == 4
    assert 0 < found.interpolated < 1
    later = Forecast(subject, PYTORCH, path=path)
    assert later.correction == found.correction
    prediction = later.predict(subject.network())
    corrected = found.correction(prediction.total, len(prediction.blocks))
    assert prediction.milliseconds == pytest.approx(corrected)
    other_size = subject_of(Path("ssdlite_mnv3_small_full"), input_hw=(96, 64))
    assert Forecast(other_size, PYTORCH, path=path).correction is None  # it is of another kind


def test_random_networks_are_like_the_recipe_and_build(subject: Subject) -> None:
    recipes = subject.varied(8, seed=3)
    assert recipes == subject.varied(8, seed=3)
    assert len({recipe.model.backbone.model_dump_json() for recipe in recipes}) == 8
    kinds = set()
    for recipe in recipes:
        found = [block for block, _ in blocks_of(subject.network(recipe, shapes_only=True), (64, 64))]
        kinds |= {block.kind for block in found}
    assert kinds == {"bottleneck", "fused", "convolution", "depthwise"}


def test_a_checkpoint_is_a_subject_too(tiny_run: Path) -> None:
    subject = subject_of(tiny_run)
    assert subject.classes == 2
    assert subject.recipe == subject_of(next(tiny_run.glob("checkpoints/best.ckpt"))).recipe
    with pytest.raises(ValueError, match="is an exported file, in which blocks cannot be told apart"):
        subject_of(Path("model.onnx"))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_measured_in_the_runtime_itself(runtime: str, subject: Subject) -> None:
    library, title = RUNTIMES[runtime]
    pytest.importorskip(library, reason=f"{title} is not installed: make test-exports")
    some = dict(blocks_of(subject.network(), (64, 64))[:3])
    (found,) = measure_blocks(some, Runtime(name=runtime, threads=1))
    assert found.keys() == some.keys()
    assert all(timing.low <= timing.median <= timing.high for timing in found.values())


def test_recipes_stay_valid(subject: Subject) -> None:
    """A random network's recipe is one that a file could hold."""
    from dettoolkit.config.recipe import DetectionRecipe

    for recipe in subject.varied(3, seed=0):
        assert DetectionRecipe.model_validate(recipe.model_dump(mode="json"), strict=False) == recipe
    assert load_recipe("ssdlite_mnv3_small_full").recipe.model.backbone.blocks is None
