"""What only files for ExecuTorch have; test_export_fixed has the rest."""

import pytest
from tiny_exports import assert_close, convert_all, normalized, opened

pytest.importorskip("executorch", reason="ExecuTorch is not installed: make test-exports")

from dettoolkit import load
from dettoolkit.formats import open_engine
from dettoolkit.manifest import ManifestError


@pytest.fixture(scope="module")
def models(request, tmp_path_factory):
    """Return for each task the network, the manifest and the file."""
    return convert_all(request, tmp_path_factory, format="executorch", ending=".pte")


def test_threads_are_those_of_the_process(models):
    portable_lib = pytest.importorskip("executorch.extension.pybindings.portable_lib")
    path = models["detection"][2]
    engine = opened(path, threads=1)
    expected = engine(normalized())
    assert portable_lib._threadpool_get_thread_count() == 1
    with pytest.raises(ValueError, match="one thread pool per process"):
        opened(path, threads=2)
    del engine
    engine = opened(path, threads=2)
    assert portable_lib._threadpool_get_thread_count() == 2
    assert_close(engine(normalized()), expected)


def test_files_that_are_none_are_refused(models, tmp_path):
    path = tmp_path / "broken.pte"
    path.write_bytes(b"PK nothing of the kind" * 50)
    with pytest.raises(ManifestError, match="no dettoolkit manifest"):
        load(path)
    with pytest.raises(ValueError, match=r"ExecuTorch cannot open .*broken\.pte"):
        open_engine(path, outputs=())
