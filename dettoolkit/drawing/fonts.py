"""Text in figures, in whatever installed font can write it."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

from PIL import ImageFont

# Pillow's own font knows ASCII only; the first of these that is installed and has the characters is used.
FALLBACK_FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "arial.ttf",
)


@lru_cache(maxsize=64)
def _font(name: str | None, size: int) -> Any:
    """Load a font by its file name (None: Pillow's own), or None where it is not installed."""
    if name is None:
        return ImageFont.load_default(size=size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has_glyph(name: str | None, character: str) -> bool:
    """Return whether a font draws a character otherwise than its mark for unknown ones (as for U+FFFF)."""
    font = _font(name, 16)
    return character.isspace() or bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


@lru_cache(maxsize=4096)
def fit_font(text: str, size: int, otherwise: str = "?") -> tuple[str, Any]:
    """Choose a font of `size` pixels that can write `text`; returns the text to write and the font.

    Where no installed font has all characters, accents are dropped, and if that is not enough
    `otherwise` is written in their place.
    """
    for name in (None, *FALLBACK_FONTS):
        if _font(name, size) is not None and all(_has_glyph(name, character) for character in text):
            return text, _font(name, size)
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    readable = all(_has_glyph(None, character) for character in plain)
    return (plain if readable else otherwise), _font(None, size)
