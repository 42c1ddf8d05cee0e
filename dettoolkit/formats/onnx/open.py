"""ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dettoolkit.formats import missing, no_manifest

METADATA_KEY = "dettoolkit"
PROVIDERS = ["CPUExecutionProvider"]


class OnnxEngine:
    """Run an ONNX file in ONNX Runtime.

    Args:
        session: of onnxruntime, with one input.
        outputs: names of the outputs, in the order in which they are returned.
    """

    device = torch.device("cpu")

    def __init__(self, session: Any, outputs: Sequence[str]) -> None:
        self.session, self.outputs = session, list(outputs)
        self.input_name: str = session.get_inputs()[0].name

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs."""
        outputs = self.session.run(self.outputs, {self.input_name: images.contiguous().numpy()})
        return tuple(torch.from_numpy(output) for output in outputs)


def open_engine(path: Path, *, outputs: Sequence[str], threads: int | None) -> OnnxEngine:
    """Open an ONNX file.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: ONNX Runtime cannot open it.
    """
    return OnnxEngine(_session(path, threads=threads, optimize=True), outputs)


def read_text(path: Path) -> str:
    """Read the JSON of an ONNX file's manifest.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ManifestError: there is none; other tools' files have none.
        ValueError: ONNX Runtime cannot open it.
    """
    properties = _session(path, threads=1, optimize=False).get_modelmeta().custom_metadata_map
    if METADATA_KEY not in properties:
        raise no_manifest(path)
    text: str = properties[METADATA_KEY]
    return text


def _session(path: Path, *, threads: int | None, optimize: bool) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise missing("onnx", error) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which are raised too
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(path, options, providers=PROVIDERS)
    except Exception as error:  # its classes have no common base but this one
        raise ValueError(f"ONNX Runtime cannot open {path}: {error}") from error
