"""OpenVINO, on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, ParseError

import torch
from torch import Tensor

from dettoolkit.formats import missing, no_manifest
from dettoolkit.manifest import ManifestError

KEY = "dettoolkit"

# Importing openvino reports to Intel unless somebody has opted out. The package that does so is an optional
# one to openvino, which goes on in silence where it is not found.
TELEMETRY = "openvino_telemetry"


class OpenvinoEngine:
    """Run a network in OpenVINO.

    Args:
        compiled: an `openvino.CompiledModel` with one input.
    """

    device = torch.device("cpu")

    def __init__(self, compiled: Any) -> None:
        self.request = compiled.create_infer_request()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs in the file's order."""
        outputs = self.request.infer([images.contiguous().numpy()])
        return tuple(torch.from_numpy(output) for output in outputs.values())


def library() -> ModuleType:
    """Import openvino without its telemetry.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]  # "there is no such module"
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise missing("openvino", error) from None
    module: ModuleType = openvino
    return module


def open_engine(path: Path, *, outputs: Sequence[str], threads: int | None) -> OpenvinoEngine:
    """Open an .xml file, with the .bin of the same name beside it.

    Raises:
        ModuleNotFoundError: openvino is not installed.
        ValueError: OpenVINO cannot open it.
    """
    del outputs  # they are in the file's order
    openvino = library()
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # On processors that have it OpenVINO would compute in bfloat16, with two decimal digits.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    if not path.with_suffix(".bin").is_file():
        raise ValueError(
            f"OpenVINO cannot open {path}: the file of its weights, {path.with_suffix('.bin').name}, is not "
            "beside it; the two belong together"
        )
    try:
        return OpenvinoEngine(openvino.Core().compile_model(path, "CPU", settings))
    except RuntimeError as error:
        raise ValueError(f"OpenVINO cannot open {path}: {error}") from error


def read_text(path: Path) -> str:
    """Read the JSON of an .xml file's manifest. Needs no OpenVINO.

    Raises:
        ModuleNotFoundError: defusedxml is not installed.
        ManifestError: there is none; other tools' files have none; or it is no XML.
    """
    entry = parse(path).find(f"rt_info/{KEY}")
    if entry is None:
        raise no_manifest(path)
    return entry.get("value", "")


def parse(path: Path) -> ElementTree[Element]:
    """Read an .xml file, but none with declarations by which it could grow to gigabytes or read other files.

    Raises:
        ModuleNotFoundError: defusedxml is not installed.
        ManifestError: it has such a declaration, or is no XML.
    """
    try:
        from defusedxml import ElementTree as defused
    except ModuleNotFoundError as error:
        raise missing("openvino", error) from None
    try:
        tree: ElementTree[Element] = defused.parse(path, forbid_dtd=True)
    except (ParseError, ValueError, LookupError) as error:  # defusedxml's errors are ValueErrors
        raise ManifestError(f"{path} is not an OpenVINO file: {error}") from None
    return tree
