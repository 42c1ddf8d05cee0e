"""ExecuTorch with XNNPACK, on the CPU."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dettoolkit.formats import missing
from dettoolkit.formats.trailer import read_text as read_text

METHOD = "forward"

# What runs at present: an engine holds on to the pool of threads that was there when it was opened.
_opened: weakref.WeakSet[ExecutorchEngine] = weakref.WeakSet()


class ExecutorchEngine:
    """Run a .pte file in ExecuTorch.

    Args:
        program: from `executorch.runtime`.

    Raises:
        RuntimeError: it cannot be made ready.
    """

    device = torch.device("cpu")

    def __init__(self, program: Any) -> None:
        self.method = program.load_method(METHOD)
        self.input_shape = tuple(self.method.metadata.input_tensor_meta(0).sizes())

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs in the file's order.

        Raises:
            ValueError: images of another size than the file's.
        """
        if tuple(images.shape) != self.input_shape:
            raise ValueError(f"this file takes images {self.input_shape}, got {tuple(images.shape)}")
        # It reads memory as it comes and takes no notice of strides: channels last would be scrambled.
        return tuple(self.method.execute([images.contiguous()]))


def open_engine(path: Path, *, outputs: Sequence[str], threads: int | None) -> ExecutorchEngine:
    """Open a .pte file.

    Args:
        path: the file.
        outputs: ignored: they have no names in the file.
        threads: for all that ExecuTorch runs in this process; it has one pool of threads.

    Raises:
        ModuleNotFoundError: executorch is not installed.
        ValueError: ExecuTorch cannot open it, or other files run on another number of threads.
    """
    del outputs
    try:
        from executorch.runtime import Runtime, Verification
    except ModuleNotFoundError as error:
        raise missing("executorch", error) from None
    if threads is not None:
        _set_threads(threads)
    try:
        program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        engine = ExecutorchEngine(program)
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"ExecuTorch cannot open {path}: {error}") from error
    _opened.add(engine)
    return engine


def _set_threads(threads: int) -> None:
    """Make the pool of threads anew, unless it has as many."""
    from executorch.extension.pybindings import portable_lib

    there = portable_lib._threadpool_get_thread_count()
    if there == threads:
        return
    if len(_opened):
        raise ValueError(
            f"ExecuTorch has one pool of threads in a process, and other files are open that run on its "
            f"{there}: open them all with the same number of threads, not with {threads}"
        )
    portable_lib._unsafe_reset_threadpool(threads)
