"""`dettoolkit report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dettoolkit.cli.arguments import adder, command_parser, run
from dettoolkit.cli.failures import quiet

DESCRIPTION = """Write the report of a run, as training and evaluation do at their end, or compare several.

The page is one HTML file that needs neither network nor JavaScript."""
EXAMPLES = """examples:
  dettoolkit report runs/ssdlite_scenes/2026-01-31_12-00-00
  dettoolkit report runs/ssdlite_scenes/2026-01-31_12-00-00 runs/ssdlite_scenes/2026-02-01_09-00-00"""


def report(argv: Sequence[str] | None = None) -> int:
    """Write the report of a run, or of several side by side."""
    parser = command_parser("report", description=DESCRIPTION, epilog=EXAMPLES)
    add = adder(parser)
    add(
        "runs", "RUN", "folder of a training or an evaluation: one with evaluation.json", type=Path, nargs="+"
    )
    add(
        "--out",
        "FILE",
        "where to write it (default: report.html in the run's folder; of several runs,\n"
        "comparison.html here). An existing file is not overwritten, but the run's report.html",
        type=Path,
    )
    return run(parser, argv, _report)


def _report(options: argparse.Namespace) -> int:
    quiet()
    from dettoolkit.reporting.comparison_page import write_comparison
    from dettoolkit.reporting.run_page import write_report

    if len(options.runs) == 1:
        print(write_report(options.runs[0], options.out))
    else:
        print(write_comparison(options.runs, options.out or Path("comparison.html")))
    return 0
