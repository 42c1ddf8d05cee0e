"""A network as an ONNX file, with as much of what is around it inside as is wanted.

N: images, (H, W): the size of what is put in.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import torch
from torch import nn

from dettoolkit.formats import facts
from dettoolkit.formats.graph import capture
from dettoolkit.formats.onnx.nodes import Nodes
from dettoolkit.formats.onnx.open import METADATA_KEY
from dettoolkit.manifest import INPUT, Manifest

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec

OPSET = 20


def convert(network: nn.Module, manifest: Manifest, path: Path, spec: TaskSpec) -> None:
    """Write a network as ONNX, with its manifest."""
    spec.check_export(manifest)
    program = torch.onnx.export(
        capture(network, manifest),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=list(spec.raw_outputs),
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program, which it does for files only")
    model = program.model
    _name_nodes(model)
    if manifest.takes_images:
        model.graph.inputs[0].shape = ir.Shape([_batch(model.graph), "H", "W", 3])
    if manifest.final:
        _answer(model.graph, manifest, spec)
    proto = ir.to_proto(model)
    _describe(proto, manifest)
    onnx.checker.check_model(proto, full_check=True)
    with path.open("xb") as file:
        file.write(proto.SerializeToString())


def stamp(path: Path, manifest: Manifest) -> None:
    """Replace the manifest of an ONNX file; all else stays."""
    proto = onnx.load(path)
    _describe(proto, manifest)
    path.write_bytes(proto.SerializeToString())


def _batch(graph: ir.Graph) -> int | ir.SymbolicDim | None:
    """Return the number of images that a graph takes, or its symbol."""
    shape = graph.inputs[0].shape
    return None if shape is None else shape[0]


def _answer(graph: ir.Graph, manifest: Manifest, spec: TaskSpec) -> None:
    """Let a graph that gives raw outputs end with final ones."""
    g = Nodes("postprocess")
    images = graph.inputs[0]
    image_hw = (g.size(images, 1), g.size(images, 2)) if manifest.takes_images else None
    answers = spec.onnx_answers(g, tuple(graph.outputs), manifest, image_hw)
    for constant in g.constants:
        graph.register_initializer(constant)
    graph.extend(g.nodes)
    graph.outputs.clear()
    for (answer, shape, kind), name in zip(answers, facts(manifest).outputs, strict=True):
        answer.name, answer.type = name, ir.TensorType(kind)
        answer.shape = ir.Shape([_batch(graph), *shape])
        graph.outputs.append(answer)


def _name_nodes(model: ir.Model) -> None:
    """Name nodes after the module that they come from, and drop the exporter's notes, which hold paths."""
    taken: set[str] = set()
    for node in model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        modules = [each for each in scopes.strip("[]").replace("'", "").split(", ") if each]
        weights = [each.name for each in node.inputs if each is not None and each.is_initializer()]
        scope = modules[-2] if len(modules) > 1 else "network"
        if node.op_type == "Conv" and weights and weights[0] is not None:
            scope = weights[0].removesuffix(".weight")
        # With preprocessing inside the network is a part of `graph.Whole`.
        name = base = f"{scope.removeprefix('network.')}/{node.op_type}"
        numbers = count(2)
        while name in taken:
            name = f"{base}_{next(numbers)}"
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
        "outputs": ", ".join(export.outputs),
        "precision": export.precision,
    }
    proto.producer_name = "dettoolkit"
    proto.doc_string = f"{manifest.name}: {manifest.task}"
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, gist)
