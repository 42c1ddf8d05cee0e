"""Detection and segmentation for small devices. Imports nothing, so a wrong recipe is refused at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dettoolkit.loading import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import `load` when it is asked for, and with it torch."""
    if name == "load":
        from dettoolkit.loading import load

        return load
    raise AttributeError(f"module 'dettoolkit' has no attribute {name!r}")
