"""Keep glibc from handing memory back to the system between the steps of training on a CPU."""

from __future__ import annotations

import ctypes
import platform

# glibc's <malloc.h>
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Serve large blocks from the heap and keep it; say whether the system's malloc could be told so.

    Each step frees and takes the same hundreds of megabytes. By default glibc maps them anew every time, and
    the system clears every page: a quarter of a MobileNet step (benchmarks/training_step.py).
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20}
    return all(libc.mallopt(option, value) == 1 for option, value in settings.items())
