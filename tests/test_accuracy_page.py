"""The tables of docs/accuracy.md are those of its log."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
ABLATION = runpy.run_path(str(ROOT / "benchmarks/ablation.py"))


def test_the_tables_are_those_of_the_log():
    page = (ROOT / "docs/accuracy.md").read_text()
    assert ABLATION["with_tables"](page, ROOT / "docs/logs/ablation.jsonl") == page


def test_every_row_is_one_of_its_list():
    for path in (ROOT / "benchmarks/ablations").glob("*.yaml"):
        rows = ABLATION["read_list"](path)["rows"]
        for line in ABLATION["read_lines"](ROOT / "docs/logs/ablation.jsonl", path.stem):
            assert line["changes"] == (rows[line["row"]] or []), (path.name, line["row"])


def test_a_row_is_the_mean_of_its_seeds_with_their_spread():
    lines = [
        {"row": "a", "val": {"AP": 0.2}, "best_epoch": 5, "seconds": 60},
        {"row": "a", "val": {"AP": 0.3}, "best_epoch": 10, "seconds": 180},
        {"row": "b", "val": {"AP": 0.1}, "best_epoch": 20, "seconds": 90},
    ]
    assert ABLATION["table"](lines, ["val AP"]).splitlines()[2:] == [
        "| a | 2 | 0.250 ± 0.050 | 5, 10 | 2 |",
        "| b | 1 | 0.100 | 20 | 2 |",
    ]
