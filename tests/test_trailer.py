import zipfile
from dataclasses import replace

import pytest
from tiny_exports import tiny_model

from dettoolkit.formats.trailer import ENTRY, stamp
from dettoolkit.loading import read_manifest
from dettoolkit.manifest import ManifestError

MODEL = bytes(range(256)) * 9
each_ending = pytest.mark.parametrize("ending", [".pte", ".tflite"])


@pytest.fixture
def manifest(tiny, tmp_path):
    return tiny_model(tiny, tmp_path, format="litert")[1]


@each_ending
def test_a_manifest_follows_the_model_and_can_be_replaced(manifest, ending, tmp_path):
    path = tmp_path / f"model{ending}"
    path.write_bytes(MODEL)
    stamp(path, manifest)
    once = path.read_bytes()
    assert once.startswith(MODEL)
    assert read_manifest(path).to_json() == manifest.to_json()

    longer = replace(manifest, export=replace(manifest.export, parity={"share": 0.1, "text": "ä" * 999}))
    for other in (longer, manifest):
        stamp(path, other)
        assert path.read_bytes().startswith(MODEL)
        assert read_manifest(path).to_json() == other.to_json()
    assert path.read_bytes() == once  # neither growing nor dated


def test_it_is_an_archive_that_others_can_read(manifest, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(MODEL)
    stamp(path, manifest)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [ENTRY]


def test_other_files_say_so(manifest, tmp_path):
    path = tmp_path / "model.tflite"
    for content in (b"", MODEL):
        path.write_bytes(content)
        with pytest.raises(ManifestError, match=r"model\.tflite has no dettoolkit manifest"):
            read_manifest(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")  # as TensorFlow Lite's own metadata
    with pytest.raises(ManifestError, match="exported by another program"):
        read_manifest(path)
    path.write_bytes(MODEL)
    stamp(path, manifest)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ManifestError, match="truncated"):
        read_manifest(path)


def test_anothers_archive_is_left_as_it_is(manifest, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(MODEL)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
    stamp(path, manifest)
    assert read_manifest(path).to_json() == manifest.to_json()
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt") == b"cat\ndog\n"
