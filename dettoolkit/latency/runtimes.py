"""Runtimes that latency is measured in: those of the exported formats, and PyTorch itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dettoolkit.formats import NAMES, check_threads, open_engine, requires
from dettoolkit.formats.pytorch import PytorchEngine, as_tuple
from dettoolkit.latency.clock import Call
from dettoolkit.manifest import ExportFacts, Manifest, Section

PYTORCH = "pytorch"
# The package whose version says how fast a runtime is.
PACKAGES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "litert": "ai-edge-litert",
    "executorch": "executorch",
    PYTORCH: "torch",
}


@dataclass(frozen=True)
class _RawOutputs:
    """What converters ask of a task: names of outputs; raw ones are never refused."""

    raw_outputs: tuple[str, ...]

    def check_export(self, manifest: Manifest) -> None:
        """Refuse nothing."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A runtime with a number of threads."""

    name: str  # a key of `PACKAGES`
    threads: int

    def __post_init__(self) -> None:
        if self.name not in PACKAGES:
            raise ValueError(f"there is no runtime '{self.name}': choose from {', '.join(PACKAGES)}")
        check_threads(self.threads)

    @property
    def version(self) -> str:
        """Return the version of its package; ModuleNotFoundError says what to install if it is missing."""
        self.check()
        return version(PACKAGES[self.name])

    def check(self) -> None:
        """Refuse a runtime that is not installed, before any work; the message says what to install."""
        if self.name == PYTORCH:
            return
        with requires(self.name, what=f"the runtime {self.name}"):
            for library in NAMES[self.name].libraries:
                if find_spec(library) is None:
                    raise ModuleNotFoundError(name=library)
            try:
                version(PACKAGES[self.name])
            except PackageNotFoundError:
                raise ModuleNotFoundError(name=PACKAGES[self.name]) from None

    def open(self, network: nn.Module, input_hw: tuple[int, int], path: Path) -> Call:
        """Convert a network, for which `path` is free without an ending, and return a call that runs it once.

        Its input is one random image (1, 3, H, W), the same in each call.
        """
        image = torch.rand(1, 3, *input_hw, generator=torch.Generator().manual_seed(0))
        engine: Any
        if self.name == PYTORCH:
            engine = PytorchEngine(network, torch.device("cpu"))
            return lambda: engine(image)
        with torch.no_grad():
            outputs = as_tuple(network.to("cpu").eval()(image))
        names = tuple(f"output_{number}" for number in range(len(outputs)))
        path = path.with_suffix(NAMES[self.name].ending)
        spec: Any = _RawOutputs(names)
        NAMES[self.name].module("convert").convert(network, self._manifest(input_hw, names), path, spec)
        engine = open_engine(path, outputs=names, threads=self.threads)
        return lambda: engine(image)

    def _manifest(self, input_hw: tuple[int, int], outputs: tuple[str, ...]) -> Manifest:
        """Return what a converter has to know; the file is thrown away, so there is no more in it."""
        return Manifest(
            name="latency",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            input_hw=input_hw,
            recipe={},
            versions={},
            tasks={"latency": Section(class_names=("none",), class_ids=(0,))},
            export=ExportFacts(format=self.name, outputs=outputs, batch=1),
        )

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Give PyTorch this many threads for a while."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
