"""What files of fixed shapes cannot have, and files that are there: refused before anything is converted."""

from __future__ import annotations

from pathlib import Path

from dettoolkit.formats.graph import facts, refuse_unlike
from dettoolkit.manifest import Manifest


def refuse_flexible(manifest: Manifest, path: Path, *, runtime: str) -> None:
    """Refuse wishes that a file of fixed shapes and plain operators cannot fulfil.

    Args:
        manifest: says what is wanted.
        path: of the file.
        runtime: its name, for people.

    Raises:
        FileExistsError: there is such a file.
        ValueError: any batch size, pre- or post-processing inside, int8; or see `graph.refuse_unlike`.
    """
    check_not_exists(path)
    export = facts(manifest)
    others = "the formats onnx and openvino can"
    if export.batch is None:
        raise ValueError(
            f"a file for {runtime} takes a fixed number of images at once: give --batch a number; {others} "
            "do without"
        )
    if export.preprocessing:
        raise ValueError(
            f"a file for {runtime} has an input of fixed size, so it cannot take images of any size: leave "
            f"--preprocessing out; {others} have it inside"
        )
    if export.postprocessing:
        raise ValueError(
            f"a file for {runtime} gives raw outputs: leave --postprocessing out, then dettoolkit computes "
            f"the answers of what it gives; {others} have it inside"
        )
    if export.precision != "float32":
        raise ValueError(f"files for {runtime} are made in float32 only, not in {export.precision}")
    refuse_unlike(manifest)


def check_not_exists(*paths: Path) -> None:
    """Refuse to write over files, where the format's own writer would; before the long work.

    Raises:
        FileExistsError: one of them exists.
    """
    for path in paths:
        if path.exists():
            raise FileExistsError(f"{path} exists already: remove it, or write another file")
