"""Read files of weights so that nothing in them can run code, and fetch torchvision's."""

from __future__ import annotations

import http.client
import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from dettoolkit.weights.published import TORCHVISION, cached, find_weights
from dettoolkit.weights.translate import StateDict


def read_weights(source: str, *, torchvision_model: str) -> StateDict:
    """Read a state dict from a file, or fetch it by torchvision's own enum; a checkpoint's, of its network.

    Args:
        source: a .pth or .ckpt file, or `torchvision:NAME` with a name of the model's weights enum.
        torchvision_model: the builder's name in torchvision, such as `mobilenet_v3_large`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, unsafe to load, or no such weights in torchvision.
        RuntimeError: torchvision's weights cannot be fetched.
    """
    if source.startswith(TORCHVISION):
        return _fetch(source.removeprefix(TORCHVISION), torchvision_model)
    path = Path(source)
    if found := sorted(path.glob("checkpoints/*.ckpt")):
        raise FileNotFoundError(f"{path} is a run's folder, not a file: give its checkpoint, {found[0]}")
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: give a .pth or .ckpt file, or 'torchvision:DEFAULT' to fetch those"
        )
    content = load_checkpoint(path)
    for key in ("state_dict", "model", "model_state_dict"):
        inner = content.get(key)
        if isinstance(inner, dict):
            content = inner
            break
    state = {
        str(key).removeprefix("network."): value
        for key, value in content.items()
        if isinstance(value, Tensor)
    }
    if not state:
        raise ValueError(f"{path} holds no tensors: its keys are {list(content)[:10]}; is it a state dict?")
    return state


def load_checkpoint(path: Path) -> dict[str, object]:
    """Load a file with `weights_only=True`, so that nothing in it can run code.

    Raises:
        ValueError: the file is no checkpoint, is damaged, or needs unpickling of arbitrary objects.
    """
    try:
        _check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # other bytes than a checkpoint's make the unpickler raise nearly anything
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the system's own words, with the path
        raise ValueError(
            f"{path} cannot be loaded safely (weights_only): {_reason(error)}. The file is damaged, not a "
            "PyTorch one, or holds more than tensors and plain data; save its state_dict alone and use that"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def _check_sums(path: Path) -> None:
    """Compare the parts of a file of torch.save with the checksums that it wrote and does not read."""
    if not zipfile.is_zipfile(path):  # PyTorch's format before 1.6
        return
    with zipfile.ZipFile(path) as archive:
        # All are 0 with torch.serialization.set_crc32_options(False).
        has_sums = any(part.CRC for part in archive.infolist())
        if has_sums and (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} does not fit")


def _reason(error: Exception) -> str:
    """Return what stopped the loader; PyTorch's own text advises to load the file unsafely."""
    text = str(error).strip()
    if named := re.search(r"GLOBAL (\S+)", text):
        return f"it refers to {named[1]}"
    if isinstance(error, pickle.UnpicklingError) or not text:
        return f"it is not what torch.save writes ({type(error).__name__})"
    return f"{type(error).__name__}: {text.splitlines()[0].rstrip('.')}"


def _fetch(name: str, torchvision_model: str) -> StateDict:
    weights = find_weights(name, torchvision_model)
    try:
        state: StateDict = weights.get_state_dict(
            progress=True, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, http.client.HTTPException, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RuntimeError(
            f"{TORCHVISION}{name} cannot be fetched from {weights.url}: {error or type(error).__name__}. "
            f"Without a network, put that file at {cached(weights)} (a damaged one there must be deleted), "
            "or give its path instead"
        ) from error
    return state
