"""Read weights so that nothing in a file can run code, check what it says of itself; fetch torchvision's."""

from __future__ import annotations

import http.client
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from dettoolkit.weights.published import TORCHVISION, cached, find_weights
from dettoolkit.weights.safe import ENDING, MODEL, load_safetensors
from dettoolkit.weights.translate import StateDict
from dettoolkit.wording import listing

logger = logging.getLogger(__name__)

VERSION = 2
"""Of a checkpoint's Description and of its weights' names; another one is refused."""


AUXILIARY = "auxiliary."
"""How the names of a run's checkpoint begin that are not the network's: of parts that only training has."""


class _Stored(TypedDict, total=False):
    trainer: dict[str, Any]


class Description(TypedDict):
    """What every checkpoint of ours says of itself; `training.prepare.describe` writes it."""

    version: int
    name: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^/\\\x00]*$")]  # it names a file
    recipe: _Stored
    class_names: Annotated[list[str], Meta(min_length=1)]
    class_ids: list[int]
    versions: dict[str, str]


def read_weights(source: str, *, torchvision_model: str) -> StateDict:
    """Read a state dict from a .pth or .ckpt file (a checkpoint's network), or fetch `torchvision:NAME`.

    Args:
        source: a .pth, .ckpt or .safetensors file, or `torchvision:NAME` with a name of the model's weights
            enum.
        torchvision_model: the builder's name in torchvision, such as `mobilenet_v3_large`.
    """
    if source.startswith(TORCHVISION):
        return _fetch(source.removeprefix(TORCHVISION), torchvision_model)
    if source.startswith("hf:"):
        name, _, revision = source.removeprefix("hf:").lstrip("/").partition("@")
        command = f"hf download {name} {MODEL}" + (f" --revision {revision}" if revision else "")
        raise ValueError(
            f"{source} is on Hugging Face's hub, and weights are read from a file: fetch it by '{command}', "
            "and give the path that this prints"
        )
    path = Path(source)
    if found := sorted(path.glob("checkpoints/*.ckpt")):
        raise FileNotFoundError(f"{path} is a run folder, not a file: use its checkpoint, {found[0]}")
    if (path / MODEL).is_file():
        raise FileNotFoundError(f"{path} is a published folder, not a file: use {path / MODEL}")
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: use a .pth, .ckpt or .safetensors file, or 'torchvision:DEFAULT' to "
            "download some"
        )
    content = load_checkpoint(path)
    inside = (content.get(key) for key in ("state_dict", "model", "model_state_dict"))
    content = next((each for each in inside if isinstance(each, dict)), content)
    tensors = ((str(key), value) for key, value in content.items() if isinstance(value, Tensor))
    state = {key.removeprefix("network."): value for key, value in tensors if not key.startswith(AUXILIARY)}
    if not state:
        raise ValueError(f"{path} has no tensors: its keys are {list(content)[:10]}; is it a state dict?")
    return state


def load_checkpoint(path: Path) -> dict[str, object]:
    """Load a safetensors file, or one of torch.save with `weights_only=True`: nothing in it can run code."""
    if path.suffix.lower() == ENDING:
        return load_safetensors(path)
    try:
        _check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # other bytes than a checkpoint's make the unpickler raise nearly anything
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the system's own words, with the path
        raise ValueError(
            f"{path} cannot be loaded safely (weights_only): {_reason(error)}. The file is damaged, not "
            "a PyTorch file, or has more than tensors and plain data; save only its state_dict and use that"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}, not a state dict")
    return content


def _check_sums(path: Path) -> None:
    """Compare the parts of a file of torch.save with the checksums that it wrote and does not read."""
    if not zipfile.is_zipfile(path):  # PyTorch's format before 1.6
        return
    with zipfile.ZipFile(path) as archive:
        # All are 0 with torch.serialization.set_crc32_options(False).
        has_sums = any(part.CRC for part in archive.infolist())
        if has_sums and (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} does not match")


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
            f"{TORCHVISION}{name} cannot be downloaded from {weights.url}: {error or type(error).__name__}. "
            f"Without network access, copy that file to {cached(weights)}, or use its path instead; a "
            "damaged one there must be deleted"
        ) from error
    return state


def read_checkpoint(path: Path) -> tuple[dict[str, Any], StateDict]:
    """Read a checkpoint of ours: its description, and its network's state dict."""
    content = load_checkpoint(path)
    description, state = _description(content, path), content.get("state_dict")
    if description is None or not isinstance(state, dict):
        raise ValueError(
            f"{path} is not a dettoolkit checkpoint: recipe and class names are missing. A bare state dict "
            "can start training (model.weights=...), or be evaluated with a recipe: see docs/guide.md"
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path} contains no weights of a run: {name!r} is a {type(value).__name__}, not a tensor"
            )
    own = {name: value for name, value in state.items() if not name.startswith(AUXILIARY)}
    return description, {name.removeprefix("network."): value for name, value in own.items()}


def description_of(weights: Path) -> dict[str, Any] | None:
    """Return what a file of weights says of itself; None where it is none of ours, or no file."""
    return _description(load_checkpoint(weights), weights) if weights.is_file() else None


def warn_of_other_classes(weights: str, names: Sequence[str]) -> None:
    """Warn when a checkpoint of ours was trained on as many classes, but others, taken for these now."""
    description = description_of(Path(weights))
    theirs = list(names) if description is None else description["class_names"]
    if len(theirs) == len(names) and theirs != list(names):
        logger.warning(
            "%s was trained on the classes %s; its class layers are reused for %s, in this order",
            weights,
            listing(theirs),
            listing(names),
        )


def _description(content: Mapping[str, object], path: Path) -> dict[str, Any] | None:
    description = content.get("dettoolkit")
    if not isinstance(description, dict):
        return None
    version = description.get("version", 1)
    if type(version) is int and version != VERSION:
        raise ValueError(
            f"{path} was written by {'an earlier' if version < VERSION else 'a later'} version of dettoolkit "
            f"(checkpoint version {version}, this one reads {VERSION}): train it again, or use that version"
        )
    try:
        checked = msgspec.convert(description, Description)
        names, ids = len(checked["class_names"]), len(checked["class_ids"])
        if names != ids:
            raise ValueError(f"there are {names} class names and {ids} class ids")
    except (ValueError, TypeError, IndexError, RecursionError) as error:  # a tensor answers as a list does
        raise ValueError(
            f"{path} has an invalid description ({error}): it is damaged or was modified; "
            "use another checkpoint"
        ) from None
    return description
