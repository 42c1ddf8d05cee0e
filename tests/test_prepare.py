"""What a training and --check refuse before any work: bounds that data and machine decide."""

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed

from dettoolkit.cli.failures import sentence
from dettoolkit.config import load_recipe
from dettoolkit.tasks import spec_of
from dettoolkit.training import commands
from dettoolkit.training.memory import bytes_per_image, memory_of

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.batch_size=9"], r"batch_size is 9, but there are 8 .* set data.batch_size=8 or less"),
        (
            ["data.batch_size=5", "trainer={devices: 2, strategy: ddp}"],
            r"batch_size is 5, but .* 8 .* for 2 process\(es\).* set data.batch_size=4 or less",
        ),
        (
            ["trainer.extra.limit_train_batches=0.4"],
            r"limit_train_batches=0.4 of 2 batches is less than one: set it to at least 1/2",
        ),
        (["optim.schedule.warmup_steps=4"], "warmup_steps is 4, but the whole run has 4 steps"),
        (
            ["optim.schedule.warmup_steps=3", "trainer={max_epochs: null, max_steps: 3}"],
            r"warmup_steps is 3, but the whole run has 3 steps.* optim.schedule.warmup_steps=0",
        ),
        (["trainer.devices=64"], r"trainer.devices=64 on the CPU .* has 2 cores: set .*to at most 8"),
    ],
)
def test_check_refuses_what_the_data_or_the_machine_do_not_allow(
    tiny: Any, tmp_path: Path, overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(ValueError, match=message):
        commands.check("tiny", tiny.load(tmp_path, *overrides).recipe)


def test_a_folder_that_cannot_be_made_is_told_by_check_and_nothing_is_left(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "runs", tmp_path / ("x" * 300)):
        with pytest.raises(OSError, match=r"trainer.out=.* cannot create a folder there .*set another"):
            commands.check("tiny", tiny.load(out).recipe)
    commands.check("tiny", tiny.load(tmp_path / "new" / "runs").recipe)
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_a_step_beyond_memory_is_refused_before_it_is_allocated(
    tiny: Any, tiny_segmentation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_segmentation.load(tmp_path, "data.crop_hw=[8192, 8192]", "data.batch_size=8").recipe
    started = time.perf_counter()
    monkeypatch.setattr("dettoolkit.training.memory.memory_of", lambda device: 60 * 10**9)
    with pytest.raises(
        ValueError,
        match=r"8 images of 8192x8192 needs \d+.* GB, .* 60.0 GB .*cpu.*set data.batch",
    ):
        commands.check("tiny", recipe)
    assert time.perf_counter() - started < 60
    monkeypatch.setattr("dettoolkit.training.memory.memory_of", lambda device: 10**5)
    with pytest.raises(ValueError, match=r"4 images of 64x64 .* set a smaller image size"):
        commands.check("tiny", tiny.load(tmp_path).recipe)


@pytest.mark.parametrize("name", ["ssdlite_scenes", "lraspp_mnv3_large", "raspp_mnv2", "imagenet_mnv3_small"])
def test_what_a_step_keeps_is_estimated_within_a_tenth(name: str) -> None:
    recipe = load_recipe(name).recipe
    network = spec_of(recipe).build_network(recipe, num_classes=3).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    drawn = torch.get_rng_state()
    estimate = bytes_per_image(network, (256, 320))
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.zeros(2, 3, 256, 320))
    weights = sum(each.nbytes for each in network.parameters())
    measured = (sum(each.nbytes() for each in kept.values()) - weights) / 2
    assert estimate == pytest.approx(measured, rel=0.1)


def test_memory_of_this_machine() -> None:
    assert 10**8 < memory_of(torch.device("cpu")) < 10**15


# Several machines


def test_nodes_without_a_launcher_are_refused_at_once(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.load(tmp_path, "trainer.num_nodes=2").recipe
    for variable in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    started = time.perf_counter()
    message = r"num_nodes=2, .* MASTER_ADDR .* MASTER_PORT .* NODE_RANK \(0 to 1\).* trainer.num_nodes=1"
    with pytest.raises(ValueError, match=message):
        tiny.train(tmp_path, "trainer.num_nodes=2")
    assert time.perf_counter() - started < 30
    assert not (tmp_path / "tiny").exists()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "somewhere")
    with pytest.raises(ValueError, match="address of the first node is unknown"):
        commands.check("tiny", recipe)


@pytest.mark.parametrize("node", [0, 1])
def test_nodes_that_are_waited_for_are_told_before_the_wait(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, node: int
) -> None:
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "NODE_RANK": str(node)}.items():
        monkeypatch.setenv(name, value)
    commands.check("tiny", tiny.load(tmp_path, "trainer.num_nodes=2").recipe)
    assert f"node {node} of 2: waiting up to 30 minutes for all nodes to connect to 127.0" in caplog.text
    assert "to 127.0.0.1:29511: start this command on every node" in caplog.text


def test_nodes_that_never_came_are_told_in_a_sentence() -> None:
    wait = timedelta(seconds=1)
    with pytest.raises(torch.distributed.DistStoreError) as missed:
        torch.distributed.TCPStore("127.0.0.1", 0, 2, is_master=True, timeout=wait)
    with pytest.raises(torch.distributed.DistNetworkError) as alone:
        torch.distributed.TCPStore("127.0.0.1", 1, 2, is_master=False, timeout=wait)
    for caught, told in ((missed, "1/2 clients joined"), (alone, "127.0.0.1")):
        line = sentence(caught.value)
        assert line is not None
        assert told in line
        assert line.endswith("Not all nodes (trainer.num_nodes) connected: start them together")
        assert "\n" not in line
