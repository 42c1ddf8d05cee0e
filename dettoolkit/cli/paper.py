"""`dettoolkit paper-tables`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dettoolkit.cli.arguments import adder, command_parser, run
from dettoolkit.cli.progress import tell

TABLES = ("3", "6", "7", "8")
EXAMPLES = """examples:
  dettoolkit paper-tables
  dettoolkit paper-tables 6 7 --format markdown
  dettoolkit paper-tables 3 --latency
  dettoolkit paper-tables --zoo docs/model_zoo.md"""

DESCRIPTION = """Print tables 3, 6, 7 and 8 of Searching for MobileNetV3 (arXiv 1905.02244), with the sizes
of our networks next to the published ones. Nothing is trained or downloaded."""
LATENCY_HELP = "also measure latency on this machine: one image, one thread; tables 7 and 8 take minutes"
ZOO_HELP = """write the page of all shipped recipes instead: sizes, published scores, latency on this
machine, and the measured scores listed in logs/scores.csv next to the page, with their logs"""


def paper_tables(argv: Sequence[str] | None = None) -> int:
    """Print tables of the paper next to our networks, or write the page of all recipes."""
    parser = command_parser("paper-tables", description=DESCRIPTION, epilog=EXAMPLES)
    add = adder(parser)
    add("tables", "TABLE", "3, 6, 7 or 8 (default: all)", nargs="*")
    parser.add_argument("--format", choices=("text", "markdown", "csv"), help="default: text")
    add("--latency", None, LATENCY_HELP)
    add("--zoo", "FILE.md", ZOO_HELP, type=Path)
    return run(parser, argv, lambda options: _paper_tables(options, parser))


def _paper_tables(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if unknown := [name for name in options.tables if name not in TABLES]:
        parser.error(f"there is no table {unknown[0]}: choose 3, 6, 7 or 8")
    if options.zoo is None:
        return _print(options)
    if options.tables or options.format or options.latency:
        parser.error("--zoo writes a separate page with latencies: omit tables, --format and --latency")
    from dettoolkit.paper.zoo import model_zoo

    parts = list(model_zoo(options.zoo.parent / "logs", tell=tell))
    tell("")
    options.zoo.write_text("\n".join(parts) + "\n", encoding="utf-8")
    print(f"written: {options.zoo}")
    return 0


def _print(options: argparse.Namespace) -> int:
    from dettoolkit.paper.counts import count, published_rows, timed
    from dettoolkit.paper.printing import render

    lines = [count(row) for row in published_rows(options.tables or TABLES)]
    if options.latency:
        lines = timed(lines, tell=tell)
        tell("")
    print(render(lines, options.format or "text").rstrip("\n"))
    return 0
