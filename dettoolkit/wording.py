"""Words of messages that several rooms use."""

from __future__ import annotations

from collections.abc import Sequence


def listing(names: Sequence[str]) -> str:
    """Return up to eight names, and how many more there are."""
    shown = ", ".join(names[:8])
    return f"{shown} … {len(names) - 8} more" if len(names) > 8 else shown or "none"


SLOW_DATA = 0.2
"""Fraction of its time from which a training that waits for images is told what to change."""


def slow_data(fraction: float) -> str:
    """Return what a training can do that waits this fraction of its time for images."""
    return (
        f"training waited for images {fraction:.0%} of its time: raise data.workers, as far as there are "
        "cores; large photos are read faster with data.cache, or made smaller once"
    )
