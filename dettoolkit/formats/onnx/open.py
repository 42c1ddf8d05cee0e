"""ONNX Runtime, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dettoolkit.formats import missing
from dettoolkit.manifest import Manifest, ManifestError, from_json

METADATA_KEY = "dettoolkit"
PROVIDERS = ["CPUExecutionProvider"]


class OnnxEngine:
    """Run an ONNX file in ONNX Runtime.

    Args:
        session: of onnxruntime, with one input.
    """

    device = torch.device("cpu")

    def __init__(self, session: Any) -> None:
        self.session = session
        self.input_name: str = session.get_inputs()[0].name

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs in the file's order."""
        outputs = self.session.run(None, {self.input_name: images.contiguous().numpy()})
        return tuple(torch.from_numpy(output) for output in outputs)


def open_engine(path: Path, *, threads: int | None) -> OnnxEngine:
    """Open an ONNX file.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: ONNX Runtime cannot open it.
    """
    return OnnxEngine(_session(path, threads=threads, optimize=True))


def read_manifest(path: Path) -> Manifest:
    """Read what an ONNX file says of itself.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ManifestError: nothing, as files of other tools.
        ValueError: ONNX Runtime cannot open it.
    """
    properties = _session(path, threads=1, optimize=False).get_modelmeta().custom_metadata_map
    if METADATA_KEY not in properties:
        raise ManifestError(
            f"{path} holds no description by dettoolkit: it was exported by something else; "
            "export the run with 'dettoolkit export'"
        )
    return from_json(properties[METADATA_KEY], source=str(path))


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
