"""Tests that continuous integration may skip: where CI=true, any other skip is a failure."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
REASONS = (
    "no GPU",
    "(ExecuTorch|LiteRT|OpenVINO|Ray|pyarrow|supervision|cleanlab) is not installed",  # see make test-exports
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge what a test skips."""
    return _judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge what a file skips as a whole."""
    return _judged((yield))


def _judged(report: Report) -> Report:
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not re.search("|".join(REASONS), reason):
        report.outcome = "failed"
        report.longrepr = f"{reason}\nCI=true: install what is missing, or allow it in tests/allowed_skips.py"
    return report
