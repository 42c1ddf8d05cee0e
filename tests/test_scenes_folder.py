"""What write_scenes does with the folder it is given: nothing there, scenes there, anything else there."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from dettoolkit import cli
from dettoolkit.datasets.scenes import folder as scenes
from dettoolkit.datasets.scenes.folder import write_scenes

SMALL: dict[str, Any] = {"train_images": 2, "val_images": 1, "image_hw": (48, 96), "seed": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "made" / "on" / "the way"
    write_scenes(folder, **SMALL)
    return folder


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_second_call_draws_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    monkeypatch.delattr(scenes, "draw_scene")
    write_scenes(root, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_parameters_are_refused(root: Path) -> None:
    before = files(root)
    with pytest.raises(
        FileExistsError, match=r"(?s)the way.*other parameters \(seed is 0, expected 1\).*data.root"
    ):
        write_scenes(root, **{**SMALL, "seed": 1})
    with pytest.raises(FileExistsError, match=r"image_hw is \[48, 96\], expected \[64, 64\]"):
        write_scenes(root, **{**SMALL, "image_hw": (64, 64)})
    assert files(root) == before


def test_other_versions_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "VERSION", scenes.VERSION + 1)
    with pytest.raises(FileExistsError, match=r"version is 1, expected 2"):
        write_scenes(root, **SMALL)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    with pytest.raises(
        FileExistsError, match=r"data contains files that are not generated scenes \(thesis.txt\): choose"
    ):
        write_scenes(tmp_path / "data", **SMALL)
    with pytest.raises(FileExistsError, match=r"but is a file: choose another data.root"):
        write_scenes(tmp_path / "data" / "thesis.txt", **SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "thesis.txt"]


def test_damaged_sets_are_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", **SMALL)
    (tmp_path / "data" / "val2017").rename(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match=r"val2017 is missing: choose another data.root, or delete"):
        write_scenes(tmp_path / "data", **SMALL)
    (tmp_path / "data" / "scenes.json").write_text("{")
    with pytest.raises(FileExistsError, match=r"scenes.json is unreadable"):
        write_scenes(tmp_path / "data", **SMALL)


def test_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scenes, "draw_scene", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_scenes(tmp_path / "data", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_unfinished_sets_are_made_anew(tmp_path: Path, root: Path) -> None:
    data = tmp_path / "data"
    (data / "train2017").mkdir(parents=True)
    (data / "train2017" / "000000000001.jpg").write_bytes(b"half a picture")
    (data / "scenes.partial").touch()
    write_scenes(data, **SMALL)
    assert files(data) == files(root)


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    dead, alive, other = (tmp_path / name for name in (".data.1.partial", ".data.2.partial", ".x.1.partial"))
    for folder in (dead, alive, other):
        folder.mkdir()
        (folder / "scenes.partial").touch()
    for folder in (dead, other):
        os.utime(folder / "scenes.partial", (0, 0))
    write_scenes(tmp_path / "data", **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".data.2.partial", ".x.1.partial", "data"]


def test_an_empty_folder_may_be_filled(tmp_path: Path, root: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    write_scenes(tmp_path / "link", **SMALL)
    assert (tmp_path / "link").is_symlink()
    assert files(tmp_path / "data") == files(root)


def test_copies_where_links_fail(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    write_scenes(tmp_path / "data", **SMALL)
    assert files(tmp_path / "data") == files(root)


def _write(root: str, parameters: dict[str, Any]) -> None:
    write_scenes(Path(root), **parameters)


def test_processes_at_once_agree(tmp_path: Path, root: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(str(tmp_path / "data"), SMALL)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert files(tmp_path / "data") == files(root)


@pytest.mark.parametrize("look", ["exists", "is_dir"])
def test_a_folder_that_appears_after_the_first_look_is_no_file(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    target = tmp_path / "data"
    real = getattr(Path, look)

    def overtaken(path: Path, **options: Any) -> bool:
        answer = bool(real(path, **options))
        if path == target:
            monkeypatch.setattr(Path, look, real)
            write_scenes(target, **SMALL)
        return answer

    monkeypatch.setattr(Path, look, overtaken)
    write_scenes(target, **SMALL)
    assert files(target) == files(root)


def test_the_loser_of_a_race_keeps_the_winners_files(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finishes between this one's last look and its rename."""
    rename = os.rename

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        write_scenes(target, **SMALL)
        (target / "scenes.json").touch()
        rename(source, target)

    monkeypatch.setattr(os, "rename", overtaken)
    write_scenes(tmp_path / "data", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert files(tmp_path / "data") == files(root)


def test_scenes_are_checked_without_being_written(root: Path, tmp_path: Path) -> None:
    write_scenes(root, **SMALL, generate=False)
    with pytest.raises(FileExistsError, match=r"seed is 0, expected 1"):
        write_scenes(root, **{**SMALL, "seed": 1}, generate=False)
    (tmp_path / "empty").mkdir()
    for name in ("typo", "empty"):
        with pytest.raises(
            FileNotFoundError, match=rf"no generated scenes at data\.root=.*{name}: correct data"
        ):
            write_scenes(tmp_path / name, **SMALL, generate=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_only_a_training_generates_scenes(
    task: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a typo in data.root, an evaluation would else make data there and score on them."""
    run = request.getfixturevalue("tiny_run" if task == "detection" else "tiny_segmentation_run")
    tiny = request.getfixturevalue("tiny" if task == "detection" else "tiny_segmentation")
    splits = "data={train: {images: train2017, annotations: annotations/instances_train2017.json}, \
val: {images: val2017, annotations: annotations/instances_val2017.json}}"
    scenes = ["data.type=scenes", "data.scenes={train_images: 2, val_images: 1, image_hw: [64, 96]}"]
    scenes += ["data.batch_size=2"]  # of which there are as many images
    scenes += [splits] if task == "detection" else []
    typo = tmp_path / "typo"
    caplog.set_level("INFO", logger="dettoolkit")
    assert cli.evaluate([str(run), *scenes, f"data.root={typo}"]) == 2
    told = capsys.readouterr().err
    assert f"no generated scenes at data.root={typo}: correct data.root" in told
    assert f"--check data.root={typo}" in told
    assert not typo.exists()
    assert cli.train([str(tiny.recipe), *scenes, f"data.root={tmp_path / 'made'}", "--check"]) == 0
    assert f"generated 2 training and 1 validation scenes in {tmp_path / 'made'}" in caplog.text
