"""OpenVINO: .xml files, with a .bin of the same name beside them that has the weights, on the CPU.

They are made by way of ONNX, which OpenVINO reads itself: so these may have all inside that
an ONNX file may.
"""

from __future__ import annotations

import io
import logging
import math
import sys
import tempfile
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, ElementTree, ParseError, SubElement

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dettoolkit.formats import facts, no_manifest, requires
from dettoolkit.formats.float_layers import AROUND, calibration_inputs, distance, for_ranking, layer_of
from dettoolkit.formats.graph import refuse
from dettoolkit.manifest import Manifest, ManifestError
from dettoolkit.results import Image

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
        if not path.with_suffix(".bin").is_file():
            raise ValueError(
                f"OpenVINO cannot open {path}: its weights file {path.with_suffix('.bin').name} is missing "
                "next to it"
            )
        try:
            self.request = _compiled(path, threads)
        except RuntimeError as error:
            raise ValueError(f"OpenVINO cannot open {path}: {error}") from error

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs in the file's order."""
        outputs = self.request.infer([images.contiguous().numpy()])
        return tuple(torch.from_numpy(output) for output in outputs.values())


def _compiled(model: Any, threads: int | None) -> Any:
    """Return what runs a file or a model in memory."""
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # On processors that have it OpenVINO would compute in bfloat16, with two decimal digits.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return library().Core().compile_model(model, "CPU", settings).create_infer_request()


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
    refuse(manifest, path, runtime="OpenVINO")
    _save(_converted(network, manifest, spec), path)
    stamp(path, manifest)


def _converted(network: nn.Module, manifest: Manifest, spec: TaskSpec) -> Any:
    """Return a network as OpenVINO's model."""
    from dettoolkit.formats.onnx import convert as onnx  # needs ONNX, without which files are run

    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder) / "network.onnx"
        onnx.convert(network, manifest, between, spec)
        return library().convert_model(between)


def _save(model: Any, path: Path) -> None:
    library().save_model(model, path, compress_to_fp16=False)  # or weights were float16


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


class Quantizer:
    """Write an OpenVINO file in 8 bits by NNCF; see `formats`.

    Activations are asymmetric and biases are corrected: NNCF's preset "mixed". With symmetric activations,
    its other preset, a file takes the same time, and its outputs err by up to twice as much.
    """

    def __init__(
        self, network: nn.Module, manifest: Manifest, path: Path, images: Sequence[Image], spec: TaskSpec
    ) -> None:
        self.network, self.manifest, self.spec = network, manifest, spec
        self.inputs = calibration_inputs(images, manifest)
        batch = facts(manifest).batch or 1
        whole = [image[None].repeat(batch, axis=0) for image in images]
        self.file_inputs = whole if manifest.takes_images else self.inputs
        # Read from memory: a model that is read from files keeps them open, and they are written again.
        self.file = path.read_bytes(), path.with_suffix(".bin").read_bytes()
        operators = self._model().get_ops()
        self.names = [each.get_friendly_name() for each in operators]
        self.weights: dict[str, int] = {}
        for each in operators:
            name = each.get_friendly_name()
            if each.get_type_name() in ("Convolution", "GroupConvolution") and not name.startswith(AROUND):
                size = math.prod(each.input(1).get_shape())
                self.weights[layer_of(name)] = self.weights.get(layer_of(name), 0) + size

    def write(self, path: Path, float_layers: Sequence[str]) -> None:
        """Write the 8-bit file, without a manifest."""
        layers = self.weights.keys() - set(float_layers)
        _save(self._quantized(self._model(), self.file_inputs, layers), path)

    def ranked(self) -> list[str]:
        """Order the layers by how far the network's outputs move when the layer alone is in 8 bits."""
        inside = replace(facts(self.manifest), preprocessing=False, postprocessing=False)
        alone = replace(self.manifest, export=replace(inside, outputs=self.spec.raw_outputs))
        plain, inputs = _converted(self.network, alone, self.spec), for_ranking(self.inputs)
        exact, errors = _run(plain, inputs), {}
        for layer in self.weights:
            quantized = self._quantized(plain.clone(), inputs, {layer})
            errors[layer] = distance(exact, _run(quantized, inputs))
        return sorted(self.weights, key=lambda layer: -errors[layer])

    def _model(self) -> Any:
        text, weights = self.file
        return library().Core().read_model(text, weights)

    def _quantized(self, model: Any, inputs: Sequence[NDArray[Any]], layers: Collection[str]) -> Any:
        """Return a model with some layers in 8 bits, calibrated on inputs."""
        library()  # first, so that NNCF finds no telemetry either
        # It imports PyTorch's tools for building, which warn where there is no GPU.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        with requires("openvino"):
            import nncf
        nncf.set_log_level(logging.ERROR)
        kept = [name for name in self.names if layer_of(name) not in layers]
        with redirect_stdout(io.StringIO()):  # it draws progress bars
            return nncf.quantize(
                model,
                nncf.Dataset(inputs),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(inputs),
                ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
            )


def _run(model: Any, inputs: Sequence[NDArray[Any]]) -> list[list[NDArray[Any]]]:
    """Return the outputs of each input."""
    request = _compiled(model, None)
    return [[output.copy() for output in request.infer([each]).values()] for each in inputs]
