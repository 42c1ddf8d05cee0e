"""The machine at hand, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def machine() -> str:
    """Return what a latency was measured on: processor, cores, system and versions."""
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{processor()} ({platform.machine()}, {capability}, {os.cpu_count()} cores of it) with "
        f"{platform.system()}, Python {platform.python_version()} and PyTorch {torch.__version__}"
    )


def processor() -> str:
    """Return the processor's name; Linux tells it in a file only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or "an unnamed processor"
