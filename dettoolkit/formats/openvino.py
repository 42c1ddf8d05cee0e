"""OpenVINO: .xml files, with a .bin of the same name beside them that has the weights, on the CPU.

They are made by way of ONNX, which OpenVINO reads itself: so these may have all inside that
an ONNX file may.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, ElementTree, ParseError, SubElement

import torch
from torch import Tensor, nn

from dettoolkit.formats import no_manifest, requires
from dettoolkit.formats.graph import refuse
from dettoolkit.manifest import Manifest, ManifestError

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec

KEY = "dettoolkit"

# Importing openvino reports to Intel unless somebody has opted out. The package that does so is an optional
# one to openvino, which goes on in silence where it is not found.
TELEMETRY = "openvino_telemetry"


class Engine:
    """Run a file in OpenVINO, which gives outputs in the file's order."""

    device = torch.device("cpu")

    def __init__(self, path: Path, *, outputs: Sequence[str], threads: int | None) -> None:
        del outputs
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
                f"OpenVINO cannot open {path}: its weights file {path.with_suffix('.bin').name} is missing "
                "next to it"
            )
        try:
            self.request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise ValueError(f"OpenVINO cannot open {path}: {error}") from error

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs in the file's order."""
        outputs = self.request.infer([images.contiguous().numpy()])
        return tuple(torch.from_numpy(output) for output in outputs.values())


def library() -> Any:
    """Import openvino without its telemetry."""
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]  # "there is no such module"
    with requires("openvino"):
        import openvino
    return openvino


def read_text(path: Path) -> str:
    """Read the JSON of an .xml file's manifest. Needs no OpenVINO."""
    entry = parse(path).find(f"rt_info/{KEY}")
    if entry is None:
        raise no_manifest(path)
    return entry.get("value", "")


def parse(path: Path) -> ElementTree[Element]:
    """Read an .xml file, but no declarations by which it could grow to gigabytes or read other files."""
    with requires("openvino"):
        from defusedxml import ElementTree as defused
    try:
        tree: ElementTree[Element] = defused.parse(path, forbid_dtd=True)
    except (ParseError, ValueError, LookupError) as error:  # defusedxml's errors are ValueErrors
        raise ManifestError(f"{path} is not an OpenVINO file: {error}") from None
    return tree


def convert(network: nn.Module, manifest: Manifest, path: Path, spec: TaskSpec) -> None:
    """Write a network for OpenVINO, with its manifest."""
    from dettoolkit.formats.onnx import convert as onnx  # needs ONNX, without which files are run

    refuse(manifest, path, runtime="OpenVINO")
    openvino = library()
    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder) / "network.onnx"
        onnx.convert(network, manifest, between, spec)
        model = openvino.convert_model(between)
        openvino.save_model(model, path, compress_to_fp16=False)  # or weights were float16
    stamp(path, manifest)


def stamp(path: Path, manifest: Manifest) -> None:
    """Replace the manifest of an .xml file; all else stays, and the .bin is not touched."""
    tree = parse(path)
    notes = tree.find("rt_info")
    if notes is None:
        notes = SubElement(tree.getroot(), "rt_info")
    entry = notes.find(KEY)
    if entry is None:
        entry = SubElement(notes, KEY)
    entry.set("value", manifest.to_json())
    tree.write(path, encoding="utf-8", xml_declaration=True)
