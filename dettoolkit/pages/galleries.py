"""Galleries of listed images, of which some may have no picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dettoolkit.pages.parts import Block, Gallery, Picture, Table

Entry = Mapping[str, Any]


def gallery_of(
    title: str,
    entries: Sequence[Entry],
    *,
    caption: Callable[[Entry], str],
    picture: Callable[[Entry], NDArray[np.uint8] | None],
    note: str = "",
) -> Iterator[Block]:
    """Yield the gallery of those entries that have a picture, and a folded list of the others."""
    shown, rest = list[Picture](), list[tuple[str, str]]()
    for entry in entries:
        image = picture(entry)
        if image is None:
            rest.append((caption(entry), str(entry.get("file", ""))))
        else:
            shown.append(Picture(image, caption(entry), str(entry.get("file", ""))))
    if shown or not rest:
        yield Gallery(title=title, note=note, pictures=shown)
    if rest:
        heading = f"{title}, {'the next ones' if shown else 'without pictures'}"
        yield Table(title=heading, folded=bool(shown), columns=["what", "image"], rows=rest)
