"""ExecuTorch: .pte files, whose network is computed by XNNPACK, on the CPU."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from dettoolkit.formats import requires
from dettoolkit.formats.float_layers import calibration_inputs, distance, for_ranking
from dettoolkit.formats.graph import capture, check_shape, refuse_flexible, traced
from dettoolkit.formats.pytorch import as_tuple
from dettoolkit.formats.trailer import read_text as read_text
from dettoolkit.formats.trailer import stamp
from dettoolkit.manifest import Manifest
from dettoolkit.results import Image

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec

# What runs at present: an engine holds on to the pool of threads that was there when it was opened.
_opened: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """Run a .pte file in ExecuTorch, which has one pool of threads for all that it runs in this process."""

    device = torch.device("cpu")

    def __init__(self, path: Path, *, outputs: Sequence[str], threads: int | None) -> None:
        del outputs  # they have no names in the file
        with requires("executorch"):
            from executorch.runtime import Runtime, Verification
        if threads is not None:
            _set_threads(threads)
        try:
            program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
            self.method = program.load_method("forward")
            self.input_shape = tuple(self.method.metadata.input_tensor_meta(0).sizes())
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"ExecuTorch cannot open {path}: {error}") from error
        _opened.add(self)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs in the file's order."""
        check_shape(images, self.input_shape)
        # It reads memory as it comes and takes no notice of strides: channels last would be scrambled.
        return tuple(self.method.execute([images.contiguous()]))


def _set_threads(threads: int) -> None:
    """Make the pool of threads anew, unless it has as many."""
    from executorch.extension.pybindings import portable_lib

    there = portable_lib._threadpool_get_thread_count()
    if there == threads:
        return
    if len(_opened):
        raise ValueError(
            f"ExecuTorch has one thread pool per process, and open files already use it with {there} "
            f"threads: open all files with the same number, not {threads}"
        )
    portable_lib._unsafe_reset_threadpool(threads)


def convert(network: nn.Module, manifest: Manifest, path: Path, spec: TaskSpec) -> None:
    """Write a network for ExecuTorch, with its manifest."""
    refuse_flexible(manifest, path, spec, runtime="ExecuTorch")
    with requires("executorch"):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    _write(capture(network, manifest), XnnpackPartitioner(), path)
    stamp(path, manifest)


def _write(program: ExportedProgram, partitioner: Any, path: Path) -> None:
    """Write a program, without a manifest, with what `partitioner` chooses computed by XNNPACK."""
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[partitioner])
    with path.open("xb") as file:
        lowered.to_executorch().write_to_file(file)


class Quantizer:
    """Write a file for ExecuTorch in 8 bits by PT2E; see `formats`, and `xnnpack` for what is in 8 bits."""

    def __init__(
        self, network: nn.Module, manifest: Manifest, path: Path, images: Sequence[Image], spec: TaskSpec
    ) -> None:
        del path, spec
        with requires("executorch"):
            from dettoolkit.formats import xnnpack
        self.xnnpack = xnnpack
        self.program = capture(network, manifest)
        self.inputs = [torch.from_numpy(each) for each in calibration_inputs(images, manifest)]
        module = self.program.module()
        self.weights = xnnpack.weights_of(module)
        self.ranges = xnnpack.find_ranges(module, self.inputs)

    def write(self, path: Path, float_layers: Sequence[str]) -> None:
        """Write the 8-bit file, without a manifest."""
        module = self._quantized(self.weights.keys() - set(float_layers))
        _write(traced(module, self.inputs[0]), self.xnnpack.partitioner(), path)

    def ranked(self) -> list[str]:
        """Order the layers by how far the network's outputs move when the layer alone is in 8 bits."""
        inputs = for_ranking(self.inputs)
        exact = _run(self.program.module(), inputs)
        errors = {layer: distance(exact, _run(self._quantized({layer}), inputs)) for layer in self.weights}
        return sorted(self.weights, key=lambda layer: -errors[layer])

    def _quantized(self, layers: Collection[str]) -> nn.Module:
        return self.xnnpack.in_8_bits(self.program, layers, self.ranges, self.inputs[0])


@torch.no_grad()
def _run(module: nn.Module, inputs: Sequence[Tensor]) -> list[list[NDArray[Any]]]:
    """Return the outputs of each input, by PyTorch, which rounds as XNNPACK does."""
    return [[output.numpy() for output in as_tuple(module(each))] for each in inputs]
