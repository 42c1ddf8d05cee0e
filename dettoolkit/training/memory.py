"""Memory of training: what a step needs, and glibc kept from handing it back between the steps."""

from __future__ import annotations

import copy
import ctypes
import math
import os
import platform

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

# glibc's <malloc.h>
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
SMALL = 128  # sides of an image that takes a network milliseconds


def keep_freed_memory() -> bool:
    """Serve large blocks from the heap and keep it; return whether the system's malloc can do so.

    Each step frees and takes the same hundreds of megabytes. By default glibc maps them anew every time, and
    the system clears every page: a quarter of a MobileNet step (benchmarks/training_step.py).
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20}
    return all(libc.mallopt(option, value) == 1 for option, value in settings.items())


def check_memory(
    network: nn.Module, input_hw: tuple[int, int], *, batch_size: int, value_bytes: int, trainer: Trainer
) -> None:
    """Refuse a step that cannot fit, before any of it is allocated, and say which batch might."""
    device = trainer.strategy.root_device
    each = bytes_per_image(network, input_hw) * value_bytes // 4
    memory = memory_of(device) // (1 if device.type == "cuda" else trainer.num_devices)
    if batch_size * each > memory:
        remedy = f"data.batch_size={memory // each} or less, or " if memory // each >= 2 else ""
        height, width = input_hw
        raise ValueError(
            f"one step with {batch_size} images of {height}x{width} needs {batch_size * each / 1e9:.1f} GB, "
            f"but only {memory / 1e9:.1f} GB are available ({device}): set {remedy}a smaller image size"
        )


def bytes_per_image(network: nn.Module, input_hw: tuple[int, int]) -> int:
    """Estimate what a training step keeps of each image, in float32; it needs more than that.

    Two small images are run through a copy of the network; what is kept grows with the area.
    """
    hw = tuple(min(side, SMALL) for side in input_hw)
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # alive, so that no other one gets its place
        return tensor

    twin = copy.deepcopy(network).cpu().train()
    with torch.random.fork_rng(devices=[]), saved_tensors_hooks(keep, lambda tensor: tensor):
        twin(torch.zeros(2, 3, *hw))
    weights = {each.untyped_storage().data_ptr() for each in (*twin.parameters(), *twin.buffers())}
    activations = sum(storage.nbytes() for place, storage in kept.items() if place not in weights)
    return activations // 2 * math.prod(input_hw) // math.prod(hw)


def memory_of(device: torch.device) -> int:
    """Return the bytes of memory that a device has, used or not."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
