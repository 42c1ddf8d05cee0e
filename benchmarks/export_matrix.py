"""What every kind of exported file is worth: the table of docs/deploy.md, measured and printed.

    python benchmarks/export_matrix.py RUN [RUN ...] --formats onnx pt2 --out docs/logs/exports.jsonl
    python benchmarks/export_matrix.py --render docs/logs/exports.jsonl --into docs/deploy.md

The first exports each run in each kind of file that the installed libraries allow, through the gate, with the
score on the whole validation set, and appends a line for each to a log: formats whose libraries exclude one
another are measured one after the other, each in an environment of its own. Files are temporary. The second
prints the table. Time is that of one image in memory to its final answer, by PyTorch and by the file in turn,
and for an int8 file by its float32 file too; --threads limits PyTorch, and OMP_NUM_THREADS the runtimes that
look at it.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dettoolkit.export.command import export
from dettoolkit.export.report import GateError
from dettoolkit.export.request import Request
from dettoolkit.formats import NAMES, check_threads
from dettoolkit.machine import processor

RUNTIMES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "executorch": "executorch",
    "litert": "ai-edge-litert",
    "pt2": "torch",
}
KINDS: dict[str, dict[str, Any]] = {
    "network": {},
    "whole": {"preprocessing": True, "postprocessing": True},
    "int8": {"precision": "int8"},
}
MARKS = ("<!-- measured -->", "<!-- /measured -->")  # around the table in a page
COLUMNS = (
    "task, model",
    "format",
    "contents",
    "precision",
    "raw error",
    "boxes or pixels that differ",
    "score, file (PyTorch)",
    "by size: small, medium, large",
    "ms, file (PyTorch)",
    "time, int8 / float32",
    "MB",
    "runtime",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure runs, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--formats", nargs="+", choices=sorted(RUNTIMES), default=["onnx"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of file")
    parser.add_argument("--out", type=Path, metavar="FILE", help="log to append to")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    parser.add_argument(
        "--render", nargs="+", type=Path, metavar="FILE", help="print the table of these logs"
    )
    parser.add_argument("--into", type=Path, metavar="PAGE", help="write the table into this page instead")
    options = parser.parse_args(argv)
    if options.render:
        text = table([json.loads(line) for path in options.render for line in path.read_text().splitlines()])
        if options.into is None:
            print(text)
        else:
            before, _, rest = options.into.read_text().partition(MARKS[0])
            after = rest.partition(MARKS[1])[2]
            options.into.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}")
        return 0
    if not options.runs or options.out is None:
        parser.error("give runs to export and --out for the log, or --render")
    torch.set_num_threads(check_threads(options.threads))
    for run in options.runs:
        for kind in options.formats:
            for request in requests(kind, options.kinds):
                measured = measure(run, request)
                print(json.dumps(measured), flush=True)
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(measured) + "\n")
    return 0


def requests(kind: str, kinds: Sequence[str]) -> Iterator[Request]:
    """List the kinds of file of a format."""
    for name in kinds:
        if name != "int8" or NAMES[kind].int8:
            yield Request(format=kind, metric=True, **KINDS[name])


def measure(run: Path, request: Request) -> dict[str, Any]:
    """Export a run, and give what the gate measured, or why there is no such file."""
    inside = "image to result" if request.preprocessing else "network"
    facts = {"format": request.format, "inside": inside, "precision": request.precision}
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = export(run, Path(folder) / f"model{NAMES[request.format].ending}", request)
        except (GateError, ValueError) as error:
            return {**facts, "model": run.name, "refused": str(error).replace(f"{folder}/", "")}
    manifest = done.manifest
    library = RUNTIMES[request.format]
    try:
        runtime = f"{library} {version(library)}"
    except PackageNotFoundError:
        runtime = library
    return {
        **facts,
        "model": manifest.name,
        "task": manifest.task,
        "input_hw": manifest.input_hw,
        "runtime": runtime,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "processor": processor(),
        "float_layers": list(manifest.export.float_layers) if manifest.export is not None else [],
        "report": done.report.to_dict(),
        "errors": done.report.errors,
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Write the measured files as a Markdown table, and those that were refused below it."""
    ordered = sorted(lines, key=lambda line: (line.get("task", ""), line["model"]))
    rows = [cells(line) for line in ordered if "report" in line]
    body = [f"| {' | '.join(row)} |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    refused = sorted(
        {f"- {line['format']}, {line['inside']}: {line['refused']}" for line in lines if "refused" in line}
    )
    return "\n".join([*body, *(["", "Not offered:", "", *refused] if refused else [])])


def cells(line: dict[str, Any]) -> list[str]:
    """Write a row."""
    report, errors = line["report"], line["errors" if "errors" in line else "figures"]
    scores, times = report.get("scores"), report.get("milliseconds")
    sizes, float32 = report.get("size_scores", {}), report.get("float32")
    differing = next(errors[name] for name in ("detections", "pixels", "top1") if name in errors)
    precision = line["precision"]
    if line["float_layers"]:
        precision += f", {len(line['float_layers'])} layers float32"
    height, width = line["input_hw"]
    return [
        f"{line['task']}, {line['model']} {height}x{width}",
        line["format"],
        line["inside"],
        precision,
        f"{errors['raw']:.1e}" if "raw" in errors else "",
        f"{differing:.2%}",
        f"{report['monitor']} {scores['exported']:.4f} ({scores['pytorch']:.4f})" if scores else "",
        ", ".join(number(each["exported"]) for each in sizes.values())
        + f" ({', '.join(number(each['pytorch']) for each in sizes.values())})"
        if sizes
        else "",
        f"{times['exported']:.1f} ({times['pytorch']:.1f})" if times else "",
        f"{times['exported'] / float32['milliseconds']:.2f}" if float32 else "",
        f"{report['bytes'] / 1e6:.1f}",
        line["runtime"],
    ]


def number(value: float | None) -> str:
    """Write a score, which is None where there is nothing to score."""
    return "none" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
