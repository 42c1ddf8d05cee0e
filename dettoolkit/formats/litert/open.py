"""LiteRT, formerly TensorFlow Lite, with XNNPACK, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dettoolkit.formats import missing
from dettoolkit.formats.trailer import read_text as read_text
from dettoolkit.manifest import INPUT


class LitertEngine:
    """Run a .tflite file in LiteRT.

    Args:
        interpreter: from `ai_edge_litert`, of a file with one signature.
        output_names: outputs in the order in which they are returned; the file has them in its own.

    Raises:
        ValueError: the file has other outputs, or an input of another name.
    """

    device = torch.device("cpu")

    def __init__(self, interpreter: Any, output_names: Sequence[str]) -> None:
        (signature,) = interpreter.get_signature_list().values()
        wanted = ([INPUT], sorted(output_names))
        if (found := (list(signature["inputs"]), sorted(signature["outputs"]))) != wanted:
            raise ValueError(f"wanted the inputs and outputs {wanted}, got {found}: export it again")
        self.interpreter = interpreter  # whom the runner does not keep alive
        self.run = interpreter.get_signature_runner()
        self.output_names = tuple(output_names)
        self.input_shape = tuple(self.run.get_input_details()[INPUT]["shape"].tolist())

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs.

        Raises:
            ValueError: images of another size than the file's.
        """
        if tuple(images.shape) != self.input_shape:  # LiteRT would reshape the network
            raise ValueError(f"this file takes images {self.input_shape}, got {tuple(images.shape)}")
        outputs = self.run(**{INPUT: images.contiguous().numpy()})
        return tuple(torch.from_numpy(outputs[name]) for name in self.output_names)


def open_engine(path: Path, *, outputs: Sequence[str], threads: int | None) -> LitertEngine:
    """Open a .tflite file.

    Raises:
        ModuleNotFoundError: ai-edge-litert is not installed.
        ValueError: LiteRT cannot open it, or it has other outputs.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise missing("litert", error) from None
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
        return LitertEngine(interpreter, outputs)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"LiteRT cannot open {path}: {error}") from error
