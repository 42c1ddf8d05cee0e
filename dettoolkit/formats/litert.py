"""LiteRT, formerly TensorFlow Lite: .tflite files, computed by XNNPACK, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dettoolkit.formats import facts, requires
from dettoolkit.formats.graph import check_shape, example_images, for_export, refuse_flexible
from dettoolkit.formats.pytorch import as_tuple
from dettoolkit.formats.trailer import read_text as read_text
from dettoolkit.formats.trailer import stamp
from dettoolkit.manifest import INPUT, Manifest

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec


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


class NamedOutputs(nn.Module):
    """A network whose outputs have names, which the converter writes into the file."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, h, w) to the network's outputs by name."""
        return dict(zip(self.names, as_tuple(self.network(images)), strict=True))


def convert(network: nn.Module, manifest: Manifest, path: Path, spec: TaskSpec) -> None:
    """Write a network for LiteRT, with its manifest."""
    refuse_flexible(manifest, path, spec, runtime="LiteRT")
    with requires("litert"):
        import litert_torch
    litert_torch.config.show_progress = False  # it prints
    named = NamedOutputs(for_export(network), facts(manifest).outputs).eval()
    model = litert_torch.convert(named, sample_kwargs={INPUT: example_images(manifest)})
    model.export(str(path))
    stamp(path, manifest)
