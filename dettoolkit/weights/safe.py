"""Checkpoints as safetensors, which hold tensors and text only: written with a checksum, and read back.

A file of ours has in its metadata, under "dettoolkit", what a checkpoint says of itself, as JSON, and under
"sha256" a checksum of that text and of all tensors; the format has none of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

ENDING = ".safetensors"
MODEL = f"model{ENDING}"
"""Of a published folder, the file that holds the model."""
OURS, SUM = "dettoolkit", "sha256"
LENGTH_BYTES = 8  # in front of the header: its length
MAX_HEADER = 16 << 20  # bytes; names and shapes of some hundred tensors and our description take 100,000


def write_safetensors(path: Path, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a state dict and the description of a checkpoint (`weights.read.Description`) to a new file."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    text = json.dumps(description, allow_nan=False)
    save_file(tensors, path, metadata={"format": "pt", OURS: text, SUM: checksum(text, tensors)})


def load_safetensors(path: Path) -> dict[str, object]:
    """Load a safetensors file: a checkpoint as `torch.save` would hold it, or a foreign file's tensors.

    Raises:
        ValueError: it is no such file, or is damaged; of foreign files only a damaged header shows.
    """
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: the file may change while its mapping is in use.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if OURS not in metadata:
            return dict(state)
        if metadata.get(SUM) != checksum(metadata[OURS], state):
            raise ValueError("its checksum does not fit")
        return {OURS: msgspec.json.decode(metadata[OURS]), "state_dict": state}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be loaded: {str(error).rstrip('.')}. The file is damaged, cut off, or no "
            "safetensors file: fetch or publish it again"
        ) from None


def _check_header(path: Path) -> None:
    """Refuse a header that is longer than the file or than any real one, before memory is taken for it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    size = path.stat().st_size
    if size < LENGTH_BYTES or length > size - LENGTH_BYTES:
        raise ValueError(f"its header of {length} bytes does not fit into the file's {size}")
    if length > MAX_HEADER:
        raise ValueError(f"its header has {length} bytes, where {MAX_HEADER} are the most")


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Compute the checksum of a description and of tensors: names, types, shapes and bytes, by name."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
