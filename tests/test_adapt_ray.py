"""`dettoolkit adapt --ray`: fine-tunes on a local Ray cluster with two workers."""

import pytest
from test_adapt import FakeLatency, settings_of

from dettoolkit.adaptation.adapt import Adaptation
from dettoolkit.adaptation.cluster import Cluster
from dettoolkit.adaptation.workers import Processes
from dettoolkit.training.trained import open_model

pytestmark = pytest.mark.usefixtures("alone")
WISHES = {"target_fraction": 0.93, "divisor": 8}


@pytest.fixture
def adaptation(tiny_learnt_run, tmp_path, monkeypatch):
    """Return an adaptation whose paths are relative, by what runs its trials."""
    monkeypatch.chdir(tmp_path)

    def begun(name, workers):
        folder = tmp_path / name
        folder.mkdir()
        settings = settings_of(tiny_learnt_run, **WISHES)
        return Adaptation(folder.relative_to(tmp_path), settings, FakeLatency(), workers=workers)

    return begun


def test_without_ray_it_is_said_how_to_get_it(adaptation, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"'ray', which is not installed: pip install 'dettoolkit\[ray\]'"
    ):
        adaptation("none", Cluster("local", 2)).run()


@pytest.mark.timeout(900)
def test_a_local_cluster_ends_as_one_process_does(adaptation):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'dettoolkit[ray]'")
    states = [adaptation("here", Processes(1)).run(), adaptation("ray", Cluster("local", 2)).run()]
    tables = [open_model(state.weights)[1].backbone.table for state in states]
    assert tables[0] == tables[1]
    assert [state.score for state in states] == pytest.approx([states[0].score] * 2, abs=1e-6)


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:9", "nowhere.invalid:6379", "host:port"])
def test_no_cluster_is_told(adaptation, address):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'dettoolkit[ray]'")
    told = rf"there is no Ray cluster at '{address}' .*start one with 'ray start --head'"
    with pytest.raises(ValueError, match=told):
        adaptation("alone", Cluster(address, 1)).run()


def test_a_checkpoint_on_another_machines_disk_is_told(adaptation, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'dettoolkit[ray]'")
    monkeypatch.setattr("dettoolkit.adaptation.cluster._tried", lambda *_: 0.5)
    with pytest.raises(ValueError, match=r"must be on a disk that all machines of the cluster share"):
        adaptation("lost", Cluster("local", 1)).run()
