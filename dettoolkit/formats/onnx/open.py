"""ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dettoolkit.formats import no_manifest, requires

METADATA_KEY = "dettoolkit"


class Engine:
    """Run an ONNX file, which has one input, in ONNX Runtime."""

    device = torch.device("cpu")

    def __init__(self, path: Path, *, outputs: Sequence[str], threads: int | None) -> None:
        self.session, self.outputs = open_session(path, threads=threads), list(outputs)
        self.input_name: str = self.session.get_inputs()[0].name

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs."""
        outputs = self.session.run(self.outputs, {self.input_name: images.contiguous().numpy()})
        return tuple(torch.from_numpy(output) for output in outputs)


def read_text(path: Path) -> str:
    """Read the JSON of an ONNX file's manifest."""
    properties = open_session(path, threads=1, optimize=False).get_modelmeta().custom_metadata_map
    if METADATA_KEY not in properties:
        raise no_manifest(path)
    return str(properties[METADATA_KEY])


def open_session(model: Path | bytes, *, threads: int | None = None, optimize: bool = True) -> Any:
    """Open a file, or a model's bytes, in ONNX Runtime."""
    with requires("onnx"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which are raised too
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no common base but this one
        what = model if isinstance(model, Path) else "a model that is being quantized"
        raise ValueError(f"ONNX Runtime cannot open {what}: {error}") from error
