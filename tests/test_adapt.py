"""NetAdapt: proposals, the loop with a latency that is known, journals of killed adaptations, the page."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from training_runs import Killed, equal

from dettoolkit.adaptation import workers
from dettoolkit.adaptation.adapt import Adaptation
from dettoolkit.adaptation.final import finish
from dettoolkit.adaptation.page import Beside, write_page
from dettoolkit.adaptation.records import Journal
from dettoolkit.adaptation.settings import Settings, read_settings
from dettoolkit.complexity import count_parameters
from dettoolkit.config import load_recipe
from dettoolkit.training.trained import open_model

pytestmark = pytest.mark.usefixtures("alone")
FRACTION = 0.85


class FakeLatency:
    """A device on which ten thousand parameters of a backbone take a millisecond."""

    about = "a device that counts"

    def __init__(self, off=1.0):
        self.factor, self.off, self.learned = 1.0, off, 0

    def learn(self, networks):
        self.learned += next(iter(networks)) is not None

    def anchor(self, network):
        self.factor = 1.0
        return self.predict(network)

    def predict(self, network):
        return self.factor * count_parameters(network.backbone, norm_affine=True) / 1e4

    def measure(self, network):
        return self.off * self.predict(network)


def settings_of(run, **changes):
    values = {
        "model": str(run),
        "extras": (),
        "target_ms": None,
        "target_fraction": FRACTION,
        "runtime": "onnx",
        "threads": 1,
        "reduction": 0.1,
        "decay": 0.96,
        "steps": 1,
        "lr_factor": 0.1,
        "final_steps": 0,
        "from_scratch": False,
        "divisor": 8,
        "by": "norm",
        "seed": 0,
    }
    return Settings(**(values | changes))


# The loop


def begun(folder, settings, latency=None, jobs=1):
    folder.mkdir(exist_ok=True)
    return Adaptation(folder, settings, latency or FakeLatency(), workers=workers.Processes(jobs))


@pytest.fixture(scope="module")
def detector(tiny_learnt_run, tmp_path_factory):
    adaptation = begun(tmp_path_factory.mktemp("adapted"), settings_of(tiny_learnt_run))
    return adaptation, adaptation.run()


def test_it_ends_at_the_target_with_the_best_of_each_step(detector):
    adaptation, state = detector
    start = adaptation.journal.find("start")
    assert (start["monitor"], start["score"]) == (adaptation.monitor, pytest.approx(start["score"]))
    assert state.milliseconds <= FRACTION * start["milliseconds"]
    assert state.step >= 2
    previous = (start["milliseconds"], start["score"])
    for record in adaptation.journal.each("step"):
        proposals = adaptation.journal.find("proposals", step=record["step"])["proposals"]
        trials = list(adaptation.journal.each("trial", step=record["step"]))
        assert len(trials) == len(proposals)
        ratios = {
            each["proposal"]: (each["score"] - previous[1])
            / (previous[0] - proposals[each["proposal"]]["milliseconds"])
            for each in trials
        }
        assert ratios[record["proposal"]] == max(ratios.values())
        previous = (record["milliseconds"], record["score"])
    assert [path.name for path in (adaptation.folder / "weights").iterdir()] == [state.weights.name]
    network = adaptation.start.network(adaptation.recipe(state))
    assert FakeLatency().predict(network) == state.milliseconds
    assert adaptation.journal.find("check", step=state.step)["measured"] == state.milliseconds


def test_one_that_dies_goes_on_with_the_same_result(detector, tiny_learnt_run, tmp_path, monkeypatch):
    whole, trials = workers.finetune, []

    def dying(trial):
        if len(trials) == 12:
            raise Killed
        trials.append(trial)
        return whole(trial)

    adaptation = begun(tmp_path / "killed", settings_of(tiny_learnt_run))
    monkeypatch.setattr(workers, "finetune", dying)
    with pytest.raises(Killed):
        adaptation.run()
    monkeypatch.setattr(workers, "finetune", whole)
    journal = tmp_path / "killed" / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"kind": "tri')  # of a line that was being written
    again = begun(tmp_path / "killed", settings_of(tiny_learnt_run))
    state = again.run()
    assert journal.read_bytes() == detector[0].journal.path.read_bytes()
    ours, theirs = (open_model(each.weights)[1].state_dict() for each in (state, detector[1]))
    assert equal(ours, theirs)


def test_the_last_training_the_recipe_and_the_page(detector, tmp_path, tiny_learnt_run):
    adaptation, state = detector
    folder = tmp_path / "finished"
    shutil.copytree(adaptation.folder, folder)
    longer = begun(folder, settings_of(tiny_learnt_run, final_steps=3))
    record = finish(longer, state_in(folder, state))
    run = Path(record["run"])
    manifest, network = open_model(run)
    assert network.backbone.table == state.table
    assert manifest.recipe["trainer"]["max_steps"] == 3
    assert finish(longer, state_in(folder, state)) == record  # and trains no second time
    recipe = load_recipe(str(folder / "recipe.yaml")).recipe
    assert recipe.model.backbone.blocks is not None
    assert recipe.model.weights is None
    assert len(list((folder / "final" / "tiny").iterdir())) == 1
    write_page(longer, [Beside("width=0.25", 0.5, 0.1), Beside("width=0.3", 0.6, 0.2)])
    page = (folder / "adaptation.html").read_text()
    for text in (
        "width multiplier",
        "trained at length",
        "outputs of rows",
        "expansion of",
        "ms measured",
    ):
        assert text in page
    assert "<script" not in page


def state_in(folder, state):
    return replace(state, weights=folder / "weights" / state.weights.name)


@pytest.mark.parametrize("kind", ["tiny_segmentation_run", "tiny_classification_run", "tiny_joint_run"])
def test_every_task_takes_a_step(kind, request, tmp_path):
    run = request.getfixturevalue(kind)
    settings = settings_of(run, target_fraction=0.97, reduction=0.04, divisor=8)
    adaptation = begun(tmp_path / "adapted", settings)
    state = adaptation.run()
    assert state.step == 1
    assert open_model(state.weights)[1].backbone.table == state.table


def test_a_prediction_that_is_off_stops_it(tiny_learnt_run, tmp_path, detector):
    adaptation, state = detector
    shutil.copytree(adaptation.folder, tmp_path / "off")
    journal = tmp_path / "off" / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))  # without its check
    other = begun(tmp_path / "off", settings_of(tiny_learnt_run), FakeLatency(off=1.25))
    with pytest.raises(ValueError, match=r"are predicted, but the network takes .*20% off, more than 10%"):
        other.run()
    assert other.journal.find("check", step=state.step) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target_fraction": None, "target_ms": 0.01}, r"smallest network .* takes 0\.\d+ ms"),
        ({"target_fraction": None, "target_ms": 10.0}, "takes [\\d.]+ ms: nothing is to be done"),
        ({"reduction": 0.01, "decay": 0.9}, "all steps together save 10% of the start's latency, but"),
    ],
)
def test_a_target_that_is_none_is_refused_before_any_work(tiny_learnt_run, tmp_path, changes, told):
    adaptation = begun(tmp_path / "refused", settings_of(tiny_learnt_run, **changes))
    with pytest.raises(ValueError, match=told):
        adaptation.run()
    assert adaptation.journal.records == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target_ms": 5.0}, "either --target-ms, or --target-fraction"),
        ({"target_fraction": 1.5}, "--target-fraction must be above 0 and below 1, got 1.5"),
        ({"decay": 0.1}, "--decay must be 0.5 to 1, got 0.1"),
        ({"steps": 0}, "--steps must be 1 to 1,000,000, got 0"),
    ],
)
def test_wrong_settings_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        settings_of("run", **changes)


def test_settings_and_journals_that_were_changed_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not the folder of an adaptation"):
        read_settings(tmp_path)
    settings = settings_of("run", extras=("data.root=x",))
    settings.write(tmp_path)
    assert read_settings(tmp_path) == settings
    (tmp_path / "settings.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match=r"settings.json is damaged .*: begin anew"):
        read_settings(tmp_path)
    (tmp_path / "journal.jsonl").write_text('{"kind": "start"}\n[1]\n')
    with pytest.raises(ValueError, match=r"journal.jsonl, line 2 is not a record"):
        Journal(tmp_path)


DRIVER = """\
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_adapt import FakeLatency, begun, settings_of
if __name__ == "__main__":
    begun(Path(sys.argv[3]), settings_of(sys.argv[2], target_fraction=0.93, divisor=8), jobs=2).run()
"""


@pytest.mark.timeout(900)  # each process imports all libraries
def test_processes_share_the_trials_and_end_with_a_killed_parent(tiny_learnt_run, tmp_path):
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    folder = tmp_path / "adapted"
    command = [sys.executable, str(driver), str(Path(__file__).parent), str(tiny_learnt_run), str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    journal = folder / "journal.jsonl"
    end = time.monotonic() + 600
    while not (journal.exists() and b'"trial"' in journal.read_bytes()):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while processes_of(process.pid):  # its workers end by themselves
        assert time.monotonic() < end
        time.sleep(0.1)
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    kinds = [json.loads(line)["kind"] for line in journal.read_text().splitlines()]
    assert (kinds[0], kinds[-2:], kinds.count("start")) == ("start", ["step", "check"], 1)


def processes_of(session):
    """List the processes of a session that are alive."""
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
