"""`dettoolkit paper-tables`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dettoolkit.cli.failures import guarded

TABLES = ("3", "6", "7", "8")
EXAMPLES = """examples:
  dettoolkit paper-tables
  dettoolkit paper-tables 6 7 --format markdown
  dettoolkit paper-tables 3 --latency
  dettoolkit paper-tables --zoo docs/model_zoo.md"""


def paper_tables(argv: Sequence[str] | None = None) -> int:
    """Print tables of the paper with our networks beside them, or write the page of all recipes."""
    parser = argparse.ArgumentParser(
        prog="dettoolkit paper-tables",
        description="Print tables 3, 6, 7 and 8 of Searching for MobileNetV3 (arXiv 1905.02244), and beside\n"
        "every published size that of our network. Nothing is trained or fetched.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="3, 6, 7 or 8; all without")
    parser.add_argument("--format", choices=("text", "markdown", "csv"), help="default: text")
    parser.add_argument("--latency", action="store_true", help=LATENCY_HELP)
    parser.add_argument("--zoo", metavar="FILE.md", type=Path, help=ZOO_HELP)
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.tables if name not in TABLES]:
        parser.error(f"there is no table {unknown[0]} here: give 3, 6, 7 or 8")
    if options.zoo is not None and (options.tables or options.format or options.latency):
        parser.error("--zoo writes a page of its own, with latencies: give no table, --format or --latency")
    run = _print if options.zoo is None else _write_zoo
    return guarded(lambda: run(options), options.traceback)


LATENCY_HELP = "also run every network here, one image on one thread; tables 7 and 8 take minutes"
ZOO_HELP = (
    "write a page of every shipped recipe instead: sizes, published scores, latencies here, and\n"
    "the scores that logs/scores.csv beside the page lists, with their logs"
)


def _print(options: argparse.Namespace) -> int:
    from dettoolkit.paper.counts import Count, count, timed
    from dettoolkit.paper.printing import render
    from dettoolkit.paper.published import published_rows

    rows = published_rows(options.tables or TABLES)
    lines = [count(row) if row.recipe is not None else row for row in rows]
    if options.latency:
        measured = iter(timed([line for line in lines if isinstance(line, Count)], tell=_tell))
        lines = [next(measured) if isinstance(line, Count) else line for line in lines]
        _tell("")
    print(render(lines, options.format or "text").rstrip("\n"))
    return 0


def _write_zoo(options: argparse.Namespace) -> int:
    from dettoolkit.paper.zoo import model_zoo

    page: Path = options.zoo
    parts = list(model_zoo(page.parent / "logs", tell=_tell))
    _tell("")
    page.write_text("\n".join(parts) + "\n", encoding="utf-8")
    print(f"written: {page}")
    return 0


def _tell(what: str) -> None:
    """Show on a terminal what is being done, on one line; nothing wipes it."""
    if sys.stderr.isatty():
        print(f"\r{what:<60}" + ("" if what else "\r"), end="", file=sys.stderr, flush=True)
