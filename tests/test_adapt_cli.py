"""`dettoolkit adapt`: a small network in PyTorch, from the command line to the page, and what is refused."""

import json

import pytest

from dettoolkit.cli import main
from dettoolkit.latency import clock
from dettoolkit.training.trained import open_model

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(autouse=True)
def short_turns(monkeypatch, tmp_path):
    monkeypatch.setattr(clock, "BURST", 0.0)
    monkeypatch.setattr(clock, "RUNS", 1)
    monkeypatch.setattr("dettoolkit.adaptation.table_latency.BLOCKS", 4)
    monkeypatch.setattr("dettoolkit.adaptation.start.LEARNED", (0.5,))
    monkeypatch.setattr("dettoolkit.adaptation.adapt.TOLERANCE", 100.0)  # so short, no measurement is good
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.timeout(900)
def test_the_command_adapts_and_resumes(tiny_learnt_run, tmp_path, capsys):
    out = tmp_path / "adapted"
    wishes = ["--target-fraction", "0.98", "--reduction", "0.03", "--steps", "1", "--final-steps", "0"]
    wishes += ["--divisor", "32"]  # few spaces have more channels
    run = [str(tiny_learnt_run), *wishes, "--runtime", "pytorch", "--out", str(out)]
    assert main(["adapt", *run]) == 0
    told = capsys.readouterr().out
    assert f"recipe    {out / 'recipe.yaml'}" in told
    assert (out / "adaptation.html").is_file()
    kinds = [json.loads(line)["kind"] for line in (out / "journal.jsonl").read_text().splitlines()]
    assert (kinds[0], kinds[-1]) == ("start", "final")
    (weights,) = (out / "weights").iterdir()
    assert open_model(weights)[1].backbone.table != open_model(tiny_learnt_run)[1].backbone.table
    before = (out / "journal.jsonl").read_bytes()
    assert main(["adapt", "--resume", str(out), "--beside", str(tiny_learnt_run)]) == 0
    assert (out / "journal.jsonl").read_bytes() == before
    assert "width multiplier" in (out / "adaptation.html").read_text()
    assert main(["adapt", *run]) == 2
    assert "already exists and is not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["RUN"], "either --target-ms, or --target-fraction"),
        (["RUN", "--target-ms", "-1"], "--target-ms must be above 0"),
        (["RUN", "--target-ms", "1", "--runtime", "onyx"], "there is no runtime 'onyx': choose from onnx"),
        (["nowhere", "--target-ms", "1"], "there is no model 'nowhere'. Use a run folder"),
        (["--resume", "DIR"], "is not the folder of an adaptation: it has no settings.json"),
    ],
)
def test_wrong_wishes_are_refused_in_a_sentence(tiny_learnt_run, tmp_path, arguments, told, capsys):
    places = {"RUN": str(tiny_learnt_run), "DIR": str(tmp_path)}
    assert main(["adapt", *(places.get(each, each) for each in arguments)]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "specify a run, or --resume"),
        (["run", "--target-ms", "1", "--jobs", "0"], "--jobs must be 1 to 256, got 0"),
    ],
)
def test_usage(arguments, told, capsys):
    with pytest.raises(SystemExit):
        main(["adapt", *arguments])
    assert told in capsys.readouterr().err
