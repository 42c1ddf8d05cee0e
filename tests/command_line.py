"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Errors = Callable[..., str]
"""Runs a command with more arguments, wants it refused, and gives the sentences on stderr."""


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the sentences of an error that a user was told, and nothing but them."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error:" in captured.err
    assert "Traceback" not in captured.err
    return captured.err[captured.err.index("error:") :]
