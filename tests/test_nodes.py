"""Several nodes: two launchers on this machine, which talk to each other over loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_runs import column, comparable, the_run

from dettoolkit.config import load_recipe
from dettoolkit.training import commands
from dettoolkit.training.run_folder import RANKS, stored_recipe
from dettoolkit.training.trainer import lost_process

TRAIN = "import sys; from dettoolkit.cli import train; sys.exit(train(sys.argv[1:]))"
PATIENCE_S = 60  # for what is to end of itself
pytestmark = pytest.mark.timeout(600)  # a busy machine imports torch slowly


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Nodes:
    """Two launchers, each the leader of its own group of processes; what they print is in `logs`."""

    def __init__(self, folder: Path) -> None:
        self.logs = [folder / f"node{number}.log" for number in (0, 1)]
        self.launched: list[subprocess.Popen[bytes]] = []

    def start(self, *command: object, **environment: str) -> None:
        clean = {key: value for key, value in os.environ.items() if key not in RANKS}
        with self.logs[len(self.launched)].open("wb") as log:
            launcher = subprocess.Popen(
                [sys.executable, *map(str, command)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean | {"OMP_NUM_THREADS": "1"} | environment,
                start_new_session=True,
            )
        self.launched.append(launcher)

    def kill(self, number: int) -> None:
        """Let a node go without a word, with all of its processes."""
        os.killpg(self.launched[number].pid, signal.SIGKILL)

    def said(self) -> str:
        return "\n".join(log.read_text(errors="replace") for log in self.logs)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    started = Nodes(tmp_path)
    yield started
    for number, launcher in enumerate(started.launched):
        if launcher.poll() is None:
            started.kill(number)
        launcher.wait()


def settings(tiny: Any, out: Path, *overrides: str) -> list[object]:
    two = ["trainer.num_nodes=2", "trainer.strategy=ddp", "data.batch_size=2", "evaluation.figures=0"]
    return [tiny.recipe, f"data.root={tiny.data}", f"trainer.out={out}", *two, *overrides]


def test_two_nodes_of_torchrun_train_and_score_as_one(
    tiny_segmentation: Any, tmp_path: Path, nodes: Nodes
) -> None:
    """As the guide has it; 5 images to validate do not divide by 2."""
    (tmp_path / "train.py").write_text(TRAIN)
    rendezvous = ["--rdzv-id=x", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    torchrun = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *rendezvous]
    for _ in range(2):
        nodes.start(*torchrun, tmp_path / "train.py", *settings(tiny_segmentation, tmp_path / "runs"))
    assert [launcher.wait() for launcher in nodes.launched] == [0, 0], nodes.said()
    assert nodes.said().count("mean IoU of the classes\n") == 1  # printed by one
    run = the_run(tmp_path / "runs")
    assert column(run, "loss").keys() == set(range(4))
    with stored_recipe(run) as config:
        recipe = load_recipe(str(config), ["trainer={num_nodes: 1, strategy: auto}"]).recipe
    _, score = commands.evaluate(run, recipe=recipe, out=tmp_path / "alone")
    together = json.loads((run / "evaluation.json").read_text())
    alone = json.loads((tmp_path / "alone" / "evaluation.json").read_text())
    assert comparable(together) == comparable(alone)
    assert alone["images"] == 5
    assert score.numbers["mIoU"] > 0


def test_a_node_that_is_killed_ends_the_other_with_a_sentence(
    tiny_segmentation: Any, tmp_path: Path, nodes: Nodes
) -> None:
    """Started by hand, with Lightning's own variables; the first node holds the store by which they meet."""
    port = str(free_port())
    for number in ("0", "1"):
        nodes.start(
            "-c",
            TRAIN,
            *settings(tiny_segmentation, tmp_path / "runs", "trainer.max_epochs=100000"),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            NODE_RANK=number,
        )
    started = time.monotonic()
    while not (saved := list(tmp_path.glob("runs/tiny/*/checkpoints/last.ckpt"))):
        assert all(launcher.poll() is None for launcher in nodes.launched), nodes.said()
        assert time.monotonic() - started < 300, nodes.said()
        time.sleep(0.2)
    nodes.kill(0)
    assert nodes.launched[1].wait(PATIENCE_S) == 2
    told = nodes.logs[1].read_text()
    assert "error: process 1 of 2 has lost the connection to process 0 on 127.0.0.1: it was killed" in told
    assert re.search(rf"to continue from step \d+, saved in {saved[0]}: tools/train.py --resume ", told)
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("processes", "text", "told"),
    [
        (
            2,
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:2",
            "0 of 2 has lost the connection to process 1 on ::1:",
        ),
        (
            3,
            "[…/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation",
            "0 of 3 has lost the connection to another process:",
        ),
        (
            8,
            "NCCL error: ncclRemoteError: A call failed",
            "0 of 8 has lost the connection to another process:",
        ),
        (2, "mat1 and mat2 shapes cannot be multiplied", None),
        (1, "/gloo/transport/tcp/pair.cc:534] Connection closed by peer", None),
    ],
)
def test_a_lost_connection_is_told_from_other_errors(processes: int, text: str, told: str | None) -> None:
    class Trainer:
        world_size, global_rank = processes, 0

    found = lost_process(RuntimeError(text), Trainer())  # type: ignore[arg-type]
    assert (told in found) if told and found else (found is told)
