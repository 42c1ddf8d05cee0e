"""LiteRT's interpreter, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dettoolkit.formats import requires
from dettoolkit.formats.graph import check_shape
from dettoolkit.formats.trailer import read_text as read_text
from dettoolkit.manifest import INPUT


class Engine:
    """Run a .tflite file in LiteRT. It has one signature, and its outputs in an order of its own."""

    device = torch.device("cpu")

    def __init__(self, path: Path, *, outputs: Sequence[str], threads: int | None) -> None:
        with requires("litert"):
            from ai_edge_litert.interpreter import Interpreter
        try:
            self.interpreter = Interpreter(model_path=str(path), num_threads=threads)  # kept for the runner
            self.interpreter.allocate_tensors()
            (signature,) = self.interpreter.get_signature_list().values()
            wanted = ([INPUT], sorted(outputs))
            if (found := (list(signature["inputs"]), sorted(signature["outputs"]))) != wanted:
                raise ValueError(f"expected the inputs and outputs {wanted}, got {found}: export it again")
            self.run = self.interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"LiteRT cannot open {path}: {error}") from error
        self.outputs = tuple(outputs)
        self.input_shape = tuple(self.run.get_input_details()[INPUT]["shape"].tolist())

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs."""
        check_shape(images, self.input_shape)  # LiteRT would reshape the network
        outputs = self.run(**{INPUT: images.contiguous().numpy()})
        return tuple(torch.from_numpy(outputs[name]) for name in self.outputs)
