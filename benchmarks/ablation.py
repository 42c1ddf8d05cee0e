"""Train a list of variants of one recipe from one start, several seeds each, and keep a line for each run.

    python benchmarks/ablation.py benchmarks/ablations/facemask.yaml data.root=DIR model.backbone.weights=FILE
    python benchmarks/ablation.py benchmarks/ablations/facemask.yaml --rows focal --seeds 0 1 2 data.root=...

A list (YAML) has `recipe`; `extras`, overlays and overrides of all rows; `rows`, by name, their own overlays
and overrides; `tests`, by name, overrides with which the best checkpoint is scored once more. Arguments after
the list are overrides of all rows, such as where the data are. Each training is a process of its own on
`--threads` threads, `--jobs` of them at a time. Lines go to `--log` as runs end: what is there already is not
trained again, and a run that was interrupted is resumed, so that a long list can be stopped and started anew.

    python benchmarks/ablation.py --write docs/accuracy.md

puts the tables of a log into a page, between <!-- NAME --> and <!-- end --> for the list NAME.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

TOOLS, LISTS = Path(__file__).parents[1] / "tools", Path(__file__).parent / "ablations"


def tool(name: str, arguments: list[str], *, threads: int, log: Path) -> float:
    """Run a tool, its output appended to a file; return the seconds, or raise if it fails."""
    started = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with log.open("a") as file:
        ran = subprocess.run(
            [sys.executable, str(TOOLS / name), *arguments], env=environment, stdout=file, stderr=file
        )
    if ran.returncode:
        raise RuntimeError(f"tools/{name} ended with {ran.returncode}: see {log}")
    return time.perf_counter() - started


def run_row(listing: dict[str, Any], row: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score one row with one seed, or go on with it; return its line."""
    folder = options.out / options.list.stem / row / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    log, own = folder / "output.txt", listing["rows"][row] or []
    extras = [*listing["extras"], *options.extras, *own, f"trainer.seed={seed}", f"trainer.out={folder}"]
    begun = sorted(folder.glob("*/*/checkpoints/last.ckpt"))
    command = ["--resume", str(begun[-1].parents[1])] if begun else [listing["recipe"], *extras]
    seconds = tool("train.py", command, threads=options.threads, log=log)
    run_dir = max(folder.glob("*/*/checkpoints/last.ckpt")).parents[1]
    found = json.loads((run_dir / "evaluation.json").read_text())
    best = max(history(run_dir, found["about"]["monitor"]), key=lambda point: point[1])
    line = {"list": options.list.stem, "row": row, "seed": seed, "changes": own, "best_epoch": best[0]}
    line |= {"seconds": round(seconds), "resumed": bool(begun), "val": found["numbers"]}
    for name, overrides in listing.get("tests", {}).items():
        out = folder / f"{name}_{int(time.time())}"
        scored = ["model.backbone.weights=null", *overrides, "--out", str(out)]
        tool("evaluate.py", [str(run_dir), *scored], threads=options.threads, log=log)
        line[name] = json.loads((out / "evaluation.json").read_text())["numbers"]
    return line


def history(run_dir: Path, monitor: str) -> list[tuple[int, float]]:
    """Return (epoch from 1, score) of each validation of a run."""
    lines = (run_dir / "metrics.csv").read_text().splitlines()
    cells = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    return [(int(each["epoch"]) + 1, float(each[monitor])) for each in cells if each.get(monitor)]


def table(lines: list[dict[str, Any]], columns: list[str]) -> str:
    """Return the runs of a list as Markdown: mean over the seeds and, of several, their spread."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        rows.setdefault(line["row"], []).append(line)
    text = [f"| row | seeds | {' | '.join(columns)} | best epoch | minutes |"]
    text.append("|---|---:|" + "---:|" * (len(columns) + 2))
    for name, runs in rows.items():
        cells = []
        for column in columns:
            split, _, number = column.partition(" ")
            values = [run[split][number] for run in runs]
            spread = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
            cells.append(f"{sum(values) / len(values):.3f}{spread}")
        epochs = ", ".join(str(run["best_epoch"]) for run in runs)
        minutes = sum(run["seconds"] for run in runs) / len(runs) / 60
        text.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {epochs} | {minutes:.0f} |")
    return "\n".join(text)


def with_tables(page: str, log: Path) -> str:
    """Return a page with the tables of the lists that it names."""

    def filled(found: re.Match[str]) -> str:
        columns = read_list(LISTS / f"{found[1]}.yaml")["columns"]
        return f"<!-- {found[1]} -->\n\n{table(read_lines(log, found[1]), columns)}\n\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", filled, page, flags=re.DOTALL)


def read_list(path: Path) -> dict[str, Any]:
    """Read a list of variants."""
    listing: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text())
    return listing


def read_lines(log: Path, name: str) -> list[dict[str, Any]]:
    """Return the lines of a list that a log has."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [line for line in lines if line["list"] == name]


def main() -> int:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("list", type=Path, nargs="?")
    parser.add_argument("--rows", nargs="+", help="only these (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--log", type=Path, default=Path("docs/logs/ablation.jsonl"))
    parser.add_argument("--write", type=Path, help="put the tables into this page; train nothing")
    options, extras = parser.parse_known_args()
    options.extras = extras
    if options.write:
        options.write.write_text(with_tables(options.write.read_text(), options.log))
        return 0
    if options.list is None or not options.list.is_file():
        known = ", ".join(str(path) for path in sorted(LISTS.glob("*.yaml")))
        parser.error(f"got {options.list or 'no list'}, expected a list of variants such as {known}")
    listing = read_list(options.list)
    rows = options.rows or list(listing["rows"])
    if unknown := set(rows) - set(listing["rows"]):
        parser.error(f"{options.list} has no row {', '.join(sorted(unknown))}: {', '.join(listing['rows'])}")
    done = {(line["row"], line["seed"]) for line in read_lines(options.log, options.list.stem)}
    wanted = [(row, seed) for seed in options.seeds for row in rows if (row, seed) not in done]
    failed = 0

    def work(each: tuple[str, int]) -> None:
        nonlocal failed
        try:
            line = run_row(listing, *each, options)
        except RuntimeError as error:
            failed += 1
            print(f"{each}: {error}", flush=True)
            return
        with options.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{each}: {line['val']}, {line['seconds']} s", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(work, wanted))
    print(table(read_lines(options.log, options.list.stem), listing["columns"]))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
