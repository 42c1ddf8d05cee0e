"""A network as an ONNX file, with as much of what is around it inside as is wanted.

N: images, (h, w): `Manifest.input_hw`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from dettoolkit.formats.graph import capture, facts, input_hw, output_names
from dettoolkit.formats.onnx.detections import detections, scaled
from dettoolkit.formats.onnx.label_map import label_map
from dettoolkit.formats.onnx.nodes import Nodes
from dettoolkit.formats.onnx.open import METADATA_KEY
from dettoolkit.manifest import INPUT, RAW, Manifest

OPSET = 20


def convert(network: nn.Module, manifest: Manifest, path: Path) -> None:
    """Write a network as ONNX, with its manifest.

    Args:
        network: a detector or segmenter; left as it is.
        manifest: `export` and `input_hw` say what the file is to take and to give.
        path: a file that does not exist.

    Raises:
        ValueError: what the manifest asks for cannot be in a file.
    """
    export = facts(manifest)
    model = _network(network, manifest)
    image_hw = _take_images(model.graph, manifest) if export.preprocessing else None
    if export.postprocessing:
        _answer(model.graph, manifest, image_hw)
    proto = ir.to_proto(model)
    _describe(proto, manifest)
    onnx.checker.check_model(proto, full_check=True)
    _write(proto, path)


def stamp(path: Path, manifest: Manifest) -> None:
    """Replace the manifest of an ONNX file; all else stays."""
    proto = onnx.load(path)
    _describe(proto, manifest)
    path.write_bytes(proto.SerializeToString())


def _write(proto: onnx.ModelProto, path: Path) -> None:
    with path.open("xb") as file:
        file.write(proto.SerializeToString())


def _network(network: nn.Module, manifest: Manifest) -> ir.Model:
    """Translate the network itself: normalized images to raw outputs."""
    program = torch.onnx.export(
        capture(network, manifest),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=list(RAW[manifest.task]),
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program, which it does for files only")
    _name_nodes(program.model)
    return program.model


def _take_images(graph: ir.Graph, manifest: Manifest) -> tuple[ir.Value, ir.Value]:
    """Let a network take uint8 images (N, H, W, 3) of any size; give H and W, int64 (1,) each."""
    g = Nodes("preprocess")
    network_input = graph.inputs[0]
    batch = network_input.shape[0] if network_input.shape is not None else None
    images = ir.Value(name=INPUT, shape=ir.Shape([batch, "H", "W", 3]), type=ir.TensorType(ir.DataType.UINT8))
    network_input.name = "normalized"
    planes = g.cast(g.op("Transpose", images, perm=[0, 3, 1, 2]), ir.DataType.FLOAT)
    resized = g.op(
        "Resize",
        planes,
        None,
        None,
        # All four sizes: ONNX Runtime 1.31 moves transposes through a Resize with axes, and then fails on it.
        g.op("Concat", g.size(images, 0), g.integers(3, *input_hw(manifest)), axis=0),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    # Back to whole numbers, halves upwards, as images are resized where the network is trained.
    whole = g.op("Floor", g.op("Add", resized, g.number(0.5)))
    offset, scale = (
        g.constant(np.asarray(each, np.float32).reshape(1, 3, 1, 1) * np.float32(255))
        for each in (manifest.mean, manifest.std)
    )
    normalized = g.op("Div", g.op("Sub", whole, offset), scale)
    image_hw = (g.size(images, 1), g.size(images, 2))
    ir.convenience.replace_all_uses_with(network_input, normalized)
    graph.inputs[0] = images
    _insert(graph, g, first=True)
    return image_hw


def _answer(graph: ir.Graph, manifest: Manifest, image_hw: tuple[ir.Value, ir.Value] | None) -> None:
    """Let a network end with final answers.

    Args:
        graph: gives raw outputs.
        manifest: says how they become answers.
        image_hw: size of what was put in, where that is not the network's input.
    """
    g = Nodes("postprocess")
    raw = tuple(graph.outputs)
    answers: tuple[ir.Value, ...]
    if manifest.detection is not None:
        answers = detections(g, raw[0], raw[1], facts=manifest.detection, input_hw=input_hw(manifest))
        if image_hw is not None:
            answers = (scaled(g, answers[0], image_hw, input_hw=input_hw(manifest)), *answers[1:])
        most = manifest.detection.max_detections
        shapes: list[list[int | str]] = [[most, 4], [most], [most], []]
        kinds = [ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT64]
    elif manifest.segmentation is not None:
        height, width = input_hw(manifest)
        out_hw = image_hw or (g.integers(height), g.integers(width))
        answers = (label_map(g, raw[0], out_hw, align_corners=manifest.segmentation.align_corners),)
        shapes, kinds = [["H", "W"] if image_hw else [height, width]], [ir.DataType.UINT8]
    batch = raw[0].shape[0] if raw[0].shape is not None else None
    _insert(graph, g, first=False)
    graph.outputs.clear()
    for answer, name, shape, kind in zip(answers, output_names(manifest), shapes, kinds, strict=True):
        answer.name, answer.shape, answer.type = name, ir.Shape([batch, *shape]), ir.TensorType(kind)
        graph.outputs.append(answer)


def _insert(graph: ir.Graph, g: Nodes, *, first: bool) -> None:
    """Put nodes before or after those that a graph has."""
    for constant in g.constants:
        graph.register_initializer(constant)
    if first and len(graph):
        graph.insert_before(graph[0], g.nodes)
    else:
        graph.extend(g.nodes)


def _name_nodes(model: ir.Model) -> None:
    """Name nodes after the module that they come from, and drop the exporter's notes, which hold paths."""
    taken: set[str] = set()
    for node in model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        modules = [each for each in scopes.strip("[]").replace("'", "").split(", ") if each]
        weights = [each.name for each in node.inputs if each is not None and each.is_initializer()]
        scope = modules[-2] if len(modules) > 1 else "network"
        if node.op_type == "Conv" and len(weights) > 0 and weights[0] is not None:
            scope = weights[0].removesuffix(".weight")
        name = base = f"{scope}/{node.op_type}"
        number = 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        node.name = name
        node.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _describe(proto: onnx.ModelProto, manifest: Manifest) -> None:
    """Put the manifest and, for people who look at the file with other tools, its gist into the metadata."""
    export = facts(manifest)
    gist = {
        METADATA_KEY: manifest.to_json(),
        "task": manifest.task,
        "class_names": ", ".join(manifest.class_names),
        "outputs": ", ".join(output_names(manifest)),
        "precision": export.precision,
    }
    proto.producer_name = "dettoolkit"
    proto.doc_string = f"{manifest.name}: {manifest.task}"
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, gist)
