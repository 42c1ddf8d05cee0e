"""A network for OpenVINO: an .xml file, and a .bin of the same name with the weights.

By way of ONNX, which OpenVINO reads itself: so what can be inside an ONNX file can be inside these too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import SubElement

from torch import nn

from dettoolkit.formats import NAMES
from dettoolkit.formats.onnx import convert as onnx
from dettoolkit.formats.openvino.open import KEY, library, parse
from dettoolkit.formats.static_shapes import check_float, check_not_exists
from dettoolkit.manifest import Manifest

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec


def convert(network: nn.Module, manifest: Manifest, path: Path, spec: TaskSpec) -> None:
    """Write a network for OpenVINO, with its manifest.

    Args:
        network: left as it is.
        manifest: `export` and `input_hw` say what the file is to take and to give.
        path: an .xml file that does not exist, nor the .bin beside it.
        spec: the model's task.

    Raises:
        ValueError: what the manifest asks for cannot be in a file.
    """
    check_float(manifest, runtime="OpenVINO")
    check_not_exists(*NAMES["openvino"].files_of(path))
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
