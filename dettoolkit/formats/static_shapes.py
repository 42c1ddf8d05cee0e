"""What files of fixed shapes cannot have, and files that exist: refused before anything is converted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dettoolkit.formats import FORMATS
from dettoolkit.formats.graph import facts
from dettoolkit.manifest import Manifest

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec


def refuse_flexible(manifest: Manifest, path: Path, spec: TaskSpec, *, runtime: str) -> None:
    """Refuse wishes that a file of fixed shapes and plain operators cannot fulfil.

    Args:
        manifest: says what is wanted.
        path: of the file.
        spec: the model's task, which refuses more (`TaskSpec.check_export`).
        runtime: its name, for people.

    Raises:
        FileExistsError: there is such a file.
        ValueError: any batch size, pre- or post-processing inside, int8, or what the task refuses.
    """
    check_not_exists(path)
    export = facts(manifest)
    others = f"the formats {' and '.join(each.name for each in FORMATS.values() if each.flexible)} can"
    if export.batch is None:
        raise ValueError(
            f"a file for {runtime} takes a fixed number of images at once: give --batch a number; {others} "
            "do without"
        )
    if export.preprocessing:
        raise ValueError(
            f"a file for {runtime} has an input of fixed size, so it cannot take images of any size: omit "
            f"--preprocessing; {others} have it inside"
        )
    if export.postprocessing:
        raise ValueError(
            f"a file for {runtime} gives raw outputs: omit --postprocessing, then dettoolkit computes the "
            f"results from what it gives; {others} have it inside"
        )
    check_float(manifest, runtime=runtime)
    spec.check_export(manifest)


def check_float(manifest: Manifest, *, runtime: str) -> None:
    """Refuse 8 bits where a format has none.

    Raises:
        ValueError: the manifest asks for them.
    """
    if (precision := facts(manifest).precision) != "float32":
        raise ValueError(f"files for {runtime} are made in float32 only, not in {precision}")


def check_not_exists(*paths: Path) -> None:
    """Refuse to write over files, where the format's own writer would; before the long work.

    Raises:
        FileExistsError: one of them exists.
    """
    for path in paths:
        if path.exists():
            raise FileExistsError(f"{path} exists already: remove it, or write another file")
