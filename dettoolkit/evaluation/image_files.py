"""Image files, written so that a full disk is an error."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def encode_image(image: Image.Image, *, format: str, **options: Any) -> bytes:
    """Return the bytes of an image file.

    Pillow itself, given a path or a file, does not notice when the system takes only a part of its last
    block, as a full disk does; Python's own files do.
    """
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()
