"""Trainings that are killed, run out of disk or memory, or are resumed wrongly: nothing is lost or silent."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.data
from training_runs import Killed, checkpoint, column, differences, kill, rows_of, the_run

from dettoolkit.cli import train as cli_train
from dettoolkit.training.checkpoints import Checkpoint
from dettoolkit.training.run_folder import locked
from dettoolkit.weights.read import load_checkpoint

pytestmark = pytest.mark.usefixtures("alone")

RECIPE = (  # 4 batches in an epoch
    "data.batch_size=2",
    "trainer={max_epochs: 3, ema: {decay: 0.9, warmup_steps: 3}, checkpoint_every_steps: 1}",
    "evaluation.figures=0",
)


@pytest.fixture(scope="module")
def whole(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 12 steps that nothing broke; not to be changed."""
    return tiny.train(tmp_path_factory.mktemp("whole"), *RECIPE)[0]


def killed(tiny: Any, out: Path, monkeypatch: pytest.MonkeyPatch, *, at: int) -> Path:
    """Return a run that was killed when `at` steps were done."""
    kill(monkeypatch, at, "training_step")
    with pytest.raises(Killed):
        tiny.train(out, *RECIPE)
    return the_run(out)


def files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def flip(path: Path) -> None:
    """Change a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# Kills


@pytest.mark.parametrize("ema", ["null", "{decay: 0.9, warmup_steps: 3}"])
@pytest.mark.parametrize(
    ("task", "accumulate", "at"),  # of 4 batches in an epoch, of the classifier's 2
    [("tiny", 2, 1), ("tiny", 3, 2), ("tiny_segmentation", 4, 1), ("tiny_classification", 2, 1)],
)
def test_two_kills_within_accumulated_steps_change_nothing(
    task: str,
    accumulate: int,
    at: int,
    ema: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    tiny = request.getfixturevalue(task)
    recipe = (
        f"data.batch_size={6 if task == 'tiny_classification' else 2}",
        f"trainer={{max_epochs: 2, accumulate: {accumulate}, ema: {ema}, checkpoint_every_steps: 1}}",
        "evaluation.figures=0",
    )
    unbroken, _ = tiny.train(tmp_path / "unbroken", *recipe)
    kill(monkeypatch, at, "training_step")
    with pytest.raises(Killed):
        tiny.train(tmp_path / "broken", *recipe)
    run = the_run(tmp_path / "broken")
    assert checkpoint(run)["global_step"] == at
    kill(monkeypatch, at, "training_step", call=2)  # resumed, with a batch of the next step accumulated
    with pytest.raises(Killed):
        tiny.train(tmp_path, *recipe, resume=run)
    tiny.train(tmp_path, *recipe, resume=run)
    assert differences(run, unbroken) == []


def test_no_checkpoint_is_saved_while_gradients_accumulate(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch's last step is saved after its validation, and not again by the next epoch's first batch."""
    saved = []
    save = Checkpoint._save_checkpoint

    def record(self: Checkpoint, trainer: Any, path: str) -> None:
        saved.append((Path(path).stem, trainer.global_step, trainer.fit_loop.epoch_loop._should_accumulate()))
        save(self, trainer, path)

    monkeypatch.setattr(Checkpoint, "_save_checkpoint", record)
    tiny.train(
        tmp_path,
        "data.batch_size=2",
        "trainer={max_epochs: 2, accumulate: 3, checkpoint_every_steps: 1}",
        "evaluation.figures=0",
    )
    assert [step for name, step, _ in saved if name == "last"] == [1, 2, 3, 4]
    assert not any(accumulating for _, _, accumulating in saved)


def test_row_of_a_saved_step_is_logged_before(
    tiny: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoint.on_train_batch_end

    def dying(self: Checkpoint, trainer: Any, *args: Any) -> None:
        save(self, trainer, *args)
        if trainer.global_step == 6 and self._every_n_train_steps:
            monkeypatch.setattr(Checkpoint, "on_train_batch_end", save)
            raise Killed

    monkeypatch.setattr(Checkpoint, "on_train_batch_end", dying)
    with pytest.raises(Killed):
        tiny.train(tmp_path, *RECIPE)
    run = the_run(tmp_path)
    assert checkpoint(run)["global_step"] == 6
    tiny.train(tmp_path, *RECIPE, resume=run)
    assert differences(run, whole) == []


def test_kill_while_a_checkpoint_takes_its_place(
    tiny: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replace = Path.replace

    def dying(self: Path, target: Path) -> Path:
        if self.name == ".last.ckpt.part" and torch.load(self, weights_only=True)["global_step"] == 6:
            monkeypatch.setattr(Path, "replace", replace)
            raise Killed
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(Killed):
        tiny.train(tmp_path, *RECIPE)
    run = the_run(tmp_path)
    folder = run / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "previous.ckpt", ".last.ckpt.part"}
    (folder / ".last.ckpt.part").write_bytes(b"half")
    tiny.train(tmp_path, *RECIPE, resume=run)
    assert "last.ckpt is missing\n  Resuming from step 5, of " in caplog.text
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "previous.ckpt", "last.ckpt"}
    assert differences(run, whole) == []


def test_checkpoints_do_not_pass_through_the_temporary_folder(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    run, _ = tiny.train(tmp_path, "trainer.max_epochs=1", "evaluation.figures=0")
    assert checkpoint(run)["global_step"] == 2


# Damaged checkpoints


def test_every_flipped_byte_of_a_checkpoint_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    content = {"state_dict": {"weight": torch.arange(12.0)}, "dettoolkit": {"class_names": ["box"]}}
    torch.save(content, path)
    whole = path.read_bytes()
    noticed = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found: Any = load_checkpoint(path)
        except ValueError:
            noticed += 1
        else:  # in a date, or in what fills the file up
            assert torch.equal(found["state_dict"].pop("weight"), content["state_dict"]["weight"])
            assert found == {"state_dict": {}, "dettoolkit": {"class_names": ["box"]}}
    assert noticed > len(whole) // 2
    place = whole.index(torch.arange(12.0).numpy().tobytes())
    path.write_bytes(whole[:place] + b"\1" + whole[place + 1 :])
    with pytest.raises(ValueError, match=r"last.ckpt cannot be loaded .*checksum of last/data/0"):
        load_checkpoint(path)


def test_checkpoint_written_without_checksums_is_read(tmp_path: Path) -> None:
    written = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.ones(3)}, tmp_path / "bare.pth")
    finally:
        torch.serialization.set_crc32_options(written)
    assert torch.equal(load_checkpoint(tmp_path / "bare.pth")["weight"], torch.ones(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lost", "taken", "step"), [(["last"], "previous", 5), (["last", "previous"], "best", 4)]
)
def test_damaged_last_checkpoint_gives_way_to_an_older_one(
    tiny: Any,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lost: list[str],
    taken: str,
    step: int,
) -> None:
    run = killed(tiny, tmp_path, monkeypatch, at=6)
    shutil.copy(whole / "checkpoints" / "best.ckpt", tmp_path)
    best = checkpoint(run, "best")["global_step"]
    assert best == 4
    for name in lost:
        flip(run / "checkpoints" / f"{name}.ckpt")
    tiny.train(tmp_path, *RECIPE, resume=run)
    assert "last.ckpt cannot be loaded" in caplog.text
    assert f"Resuming from step {step}, of {run}/checkpoints/{taken}.ckpt" in caplog.text
    assert (run / "checkpoints" / "last.ckpt.damaged").is_file()
    assert differences(run, whole) == []


def test_run_without_a_whole_checkpoint_is_refused(tiny: Any, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    before = files(run)
    with pytest.raises(ValueError, match=r"(?s)no checkpoint .*last.ckpt .*previous.ckpt .*best.ckpt "):
        tiny.train(tmp_path, *RECIPE, "data.root=nowhere", resume=run)
    assert files(run) == before
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(FileNotFoundError, match=r"run folder with checkpoints/last.ckpt"):
        tiny.train(tmp_path, *RECIPE, resume=run)


# Resumed wrongly


@pytest.mark.parametrize(
    ("former", "edited", "told"),
    [
        ("  lr: 0.05", "  lr: 0.1", r"optim.lr: 0.05 in the checkpoint, 0.1 requested"),
        ("width: 0.35", "width: 0.5", r"model.backbone.width: 0.35 in the checkpoint, 0.5 requested"),
    ],
)
def test_edited_config_is_compared_with_the_checkpoint(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], former: str, edited: str, told: str
) -> None:
    run = tmp_path / "tiny" / "run"
    shutil.copytree(whole, run)
    config = run / "config.yaml"
    assert former in config.read_text()
    config.write_text(config.read_text().replace(former, edited))
    before = files(run)
    assert cli_train(["--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "in the run's config.yaml, or start a new run" in error
    assert "what may change: trainer.*, evaluation.*, distill.teacher, data.root, " in error
    assert files(run) == before


def test_length_may_be_edited_in_the_config(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "tiny" / "run"
    shutil.copytree(whole, run)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 3", "max_epochs: 4"))
    assert cli_train(["--resume", str(run)]) == 0
    assert "changed for the rest of the run: trainer.max_epochs: 3 -> 4\n" in caplog.text
    assert column(run, "loss").keys() == set(range(16))
    assert checkpoint(run)["dettoolkit"]["recipe"]["trainer"]["max_epochs"] == 4


def test_refused_override_leaves_a_run_that_resumes(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kill(monkeypatch, 3, "training_step")
    with pytest.raises(Killed):
        tiny.train(tmp_path, *RECIPE, "trainer.accumulate=2")
    run = the_run(tmp_path)
    before = files(run)
    for changes, told in (
        (["trainer.accumulate=1"], "trained with 4 images per step, but this would be 2"),
        (["trainer.accumulate=1", "data.batch_size=4"], "in the middle of an epoch with batch_size 2"),
    ):
        assert cli_train(["--resume", str(run), *changes]) == 2
        assert told in capsys.readouterr().err
        assert files(run) == before
    assert cli_train(["--resume", str(run)]) == 0
    assert set(column(run, "loss")) == set(range(6))


TAKE = """\
import fcntl, sys
file = open(sys.argv[1], "a")
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit("taken")
print("locked", flush=True)
sys.stdin.read()
"""


def test_run_is_resumed_once_at_a_time(tiny: Any, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = files(run)
    command = [sys.executable, "-c", TAKE, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError, match=rf"another process is training in {run}: wait for it"):
            tiny.train(tmp_path, *RECIPE, resume=run)
        assert files(run) == before
        other.kill()
    with locked(run):
        assert subprocess.run(command, capture_output=True, text=True).stderr == "taken\n"
    tiny.train(tmp_path, *RECIPE, resume=run)


def test_every_training_holds_its_folder(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    save = Checkpoint._save_checkpoint

    def look(self: Checkpoint, trainer: Any, path: str) -> None:
        lock = Path(path).parents[1] / ".lock"
        ran = subprocess.run(
            [sys.executable, "-c", TAKE, str(lock)], capture_output=True, text=True, input=""
        )
        held.append(ran.stderr == "taken\n")
        save(self, trainer, path)

    monkeypatch.setattr(Checkpoint, "_save_checkpoint", look)
    tiny.train(tmp_path, "trainer.max_epochs=1", "evaluation.figures=0")
    assert held == [True, True]


# What the machine lacks


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
@pytest.mark.parametrize("when", ["training", "scoring"])
def test_killed_loader_is_told_with_the_way_on(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    from dettoolkit.datasets import coco

    read = coco.CocoDetection._read

    def die(self: Any, row: int) -> Any:
        in_worker = torch.utils.data.get_worker_info() is not None
        saved = any(tmp_path.rglob("last.ckpt"))
        folder = self.annotations.image_path(row).parent.name
        if in_worker and saved and folder == ("train" if when == "training" else "val"):
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, row)

    monkeypatch.setattr(coco.CocoDetection, "_read", die)
    arguments = [str(tiny.recipe), f"data.root={tiny.data}", f"trainer.out={tmp_path}", *RECIPE]
    assert cli_train([*arguments, "data.workers=1", "trainer.max_epochs=2"]) == 2
    error = capsys.readouterr().err
    run = the_run(tmp_path)
    step = checkpoint(run)["global_step"]
    assert "error: a data loader process was killed (DataLoader worker (pid" in error
    assert "may have run out" in error
    assert f"to continue from step {step}, saved in {run}/checkpoints/last.ckpt: " in error
    assert f"tools/train.py --resume {run}\n" in error
    assert "Traceback" not in error


@pytest.mark.skipif(sys.platform != "linux", reason="it looks at /proc")
def test_full_disk_destroys_nothing_and_is_told(
    tiny: Any,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fsync = os.fsync

    def full(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith(".last.ckpt.part") and (the_run(tmp_path) / "checkpoints" / "best.ckpt").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    arguments = [str(tiny.recipe), f"data.root={tiny.data}", f"trainer.out={tmp_path}", *RECIPE]
    assert cli_train(arguments) == 2
    run = the_run(tmp_path)
    error = capsys.readouterr().err
    assert "error: the disk is full ([Errno 28] No space left on device). Free some space; " in error
    assert f"to continue from step 3, saved in {run}/checkpoints/last.ckpt: " in error
    assert "Traceback" not in error
    assert not list((run / "checkpoints").glob(".*"))
    monkeypatch.setattr(os, "fsync", fsync)
    assert cli_train(["--resume", str(run)]) == 0
    assert differences(run, whole) == []


def test_metrics_survive_a_kill_while_a_column_is_added(
    tiny: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dettoolkit.training import logs

    write = logs.write_whole

    def dying(path: Path, content: bytes) -> None:
        if not path.exists():
            return write(path, content)
        monkeypatch.setattr(logs, "write_whole", write)
        raise Killed

    monkeypatch.setattr(logs, "write_whole", dying)
    with pytest.raises(Killed):
        tiny.train(tmp_path, *RECIPE)  # at the first validation
    run = the_run(tmp_path)
    assert len(rows_of(run)) == 4
    tiny.train(tmp_path, *RECIPE, resume=run)
    assert differences(run, whole) == []
