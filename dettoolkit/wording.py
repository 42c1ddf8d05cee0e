"""Words of messages that several rooms use."""

from __future__ import annotations

from collections.abc import Sequence


def listing(names: Sequence[str]) -> str:
    """Return up to eight names, and how many more there are."""
    shown = ", ".join(names[:8])
    return f"{shown} … {len(names) - 8} more" if len(names) > 8 else shown or "none"
