"""The page of all recipes: what does not depend on the machine is as the command writes it now."""

import csv
import re

import pytest

from dettoolkit.cli import paper_tables
from dettoolkit.config import shipped_folder
from dettoolkit.machine import machine
from dettoolkit.paper import zoo
from dettoolkit.paper.counts import Latency
from dettoolkit.paper.zoo import measured_scores, model_zoo

AGAIN = "run `dettoolkit paper-tables --zoo docs/model_zoo.md` again"


@pytest.fixture(scope="module")
def page(repository):
    return "\n".join(model_zoo(repository / "docs" / "logs", tell=None)).splitlines()


def rows_of(lines):
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| [")]


def name_of(row):
    return re.match(r"\[(\w+)\]", row[0])[1]


def test_the_committed_page_is_what_the_command_writes(page, repository):
    committed = (repository / "docs" / "model_zoo.md").read_text(encoding="utf-8").splitlines()
    end = committed.index("## Latency") - 1
    for ours, theirs in zip(page, committed[:end], strict=True):
        if ours.startswith("| ["):
            *cells, time = theirs.strip("| ").split(" | ")
            assert ours.strip("| ").split(" | ") == cells, AGAIN
            assert re.fullmatch(r"\d+\.\d \(\d+\.\d-\d+\.\d\)", time), AGAIN
        else:
            assert ours == theirs, AGAIN


def test_every_recipe_has_a_row(page):
    names = [name_of(row) for row in rows_of(page)]
    assert sorted(names) == sorted(path.stem for path in shipped_folder().glob("*.yaml"))


def test_a_row_has_what_was_published_and_measured(page):
    rows = {name_of(row): row for row in rows_of(page)}
    assert rows["ssdlite_mnv3_small_full"][1:] == [
        "16.0 mAP (Table 6)",
        "not measured",
        "2.41M",
        "0.203B (320x320)",
    ]
    assert rows["lraspp_mnv3_large"][1] == "72.36 mIoU (Table 7); 72.6 mIoU (Table 8)"
    assert "68.9 mIoU on CamVid" in rows["lraspp_mnv3_large"][2]
    assert rows["ssdlite_scenes"][1] == "none"
    assert rows["ssdlite_scenes"][3] == "0.98M"  # of five classes
    assert rows["lraspp_scenes"][4].endswith("B (256x512)")


def test_every_measured_score_is_in_its_log(repository):
    logs = repository / "docs" / "logs"
    for line in csv.DictReader((logs / "scores.csv").read_text().splitlines()):
        assert (logs / line["log"]).is_file()
        assert line["log"] in " ".join(measured_scores(logs)[line["recipe"]])


def logs_of(folder, line, **files):
    (folder / "logs").mkdir()
    (folder / "logs" / "scores.csv").write_text(f"recipe,data,log,column\n{line}\n")
    for name, text in files.items():
        (folder / "logs" / f"{name}.csv").write_text(text)


def test_the_best_score_of_a_log_counts(tmp_path):
    logs_of(tmp_path, "lraspp_scenes,two images,a.csv,mIoU", a="mIoU,step\n,0\n0.25,1\n0.5,2\n0.125,3\n")
    assert measured_scores(tmp_path / "logs") == {
        "lraspp_scenes": ["50.0 mIoU on two images ([log](logs/a.csv))"]
    }


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("lraspp_scenes,x,b.csv,mIoU", "lists the log .*b.csv, which does not exist: add it"),
        ("lraspp_scenes,x,a.csv,AP", "a.csv has no score in a column 'AP', as .*scores.csv says it has"),
        ("lraspp_senes,x,a.csv,mIoU", "names the recipe 'lraspp_senes', which is not shipped: correct it"),
    ],
)
def test_a_wrong_list_is_refused(line, sentence, tmp_path):
    logs_of(tmp_path, line, a="mIoU,step\n0.5,1\n")
    with pytest.raises((FileNotFoundError, ValueError), match=sentence):
        next(model_zoo(tmp_path / "logs", tell=None))


def test_the_command_writes_the_page_and_names_the_machine(tmp_path, monkeypatch, capsys):
    latency, measured = Latency(median=2.04, low=1.0, high=3.0), []
    monkeypatch.setattr(
        zoo, "measure", lambda networks, tell: measured.extend(networks) or dict.fromkeys(networks, latency)
    )
    logs_of(tmp_path, "lraspp_scenes,two images,a.csv,mIoU", a="mIoU,step\n0.5,1\n")
    page = tmp_path / "zoo.md"
    assert paper_tables(["--zoo", str(page)]) == 0
    assert capsys.readouterr().out == f"written: {page}\n"
    text = page.read_text(encoding="utf-8")
    rows = rows_of(text.splitlines())
    assert all(row[-1] == "2.0 (1.0-3.0)" for row in rows)
    names = {name_of(row) for row in rows}
    assert names - set(measured) == {name for name in names if name.endswith("_plus")}  # one network
    assert text.endswith(f"Measured on {machine()}.\n")


def test_without_a_list_of_scores_nothing_is_written(tmp_path, capsys):
    assert paper_tables(["--zoo", str(tmp_path / "zoo.md")]) == 2
    assert "no list of measured scores at" in capsys.readouterr().err
    assert not (tmp_path / "zoo.md").exists()


def test_the_page_takes_no_other_options(tmp_path, capsys):
    with pytest.raises(SystemExit):
        paper_tables(["6", "--zoo", str(tmp_path / "zoo.md")])
    assert "--zoo writes a separate page" in capsys.readouterr().err
