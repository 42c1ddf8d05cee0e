"""`load`: a trained or an exported model, ready to be called on images."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from dettoolkit.config import Recipe, load_recipe
from dettoolkit.datasets.images import MAX_MEGAPIXELS
from dettoolkit.formats import FORMATS, open_engine, read_text
from dettoolkit.formats.pytorch import PytorchEngine
from dettoolkit.hub import local
from dettoolkit.inference.predictor import Predictor
from dettoolkit.manifest import Manifest, from_json
from dettoolkit.named_models import is_named, named_recipe, weights_file
from dettoolkit.tasks import sections
from dettoolkit.training.run_folder import checkpoint_of, stored_recipe
from dettoolkit.training.trained import open_model


def load(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    trust: bool = False,
) -> Predictor:
    """Load a model: by its name or address, or from a folder, a checkpoint or an exported file.

    Args:
        model: a name that `dettoolkit models` lists, a path, or `hf://owner/name` or
            `hf://owner/name@revision` on Hugging Face's hub. Of a run's folder the best checkpoint is taken.
        weights: of a named model, the file of its weights; None takes torchvision's, which are fetched once.
        device: where PyTorch runs a checkpoint, such as "cpu" or "cuda:1"; None takes a GPU if there is one.
        threads: that an exported file's runtime may use; None leaves it to the runtime. PyTorch's are set by
            `torch.set_num_threads`.
        trust: open a .pt2 file, which can run any code; give it for files of people you trust only.
        max_megapixels: largest image that the predictor reads; its header tells before it is decoded.

    Raises:
        TypeError: no path.
        FileNotFoundError: no such model, or neither a checkpoint nor a run's folder with one.
        ModuleNotFoundError: the runtime of an exported file is not installed; the message names the extra.
        ValueError: a file that does not say what it is, or a .pt2 file that is not trusted.

    Example:
        >>> model = load(run)  # a path, such as "runs/ssdlite_scenes/2026-01-31_12-00-00"
        >>> result = model(image)  # a path too
        >>> result.boxes_xyxy.shape == (len(result), 4)
        True
    """
    path = _path(model)
    if path.suffix.lower() in FORMATS:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: use an exported file, a checkpoint or a run folder"
            )
        manifest = read_manifest(path)
        if device not in (None, "cpu"):
            raise ValueError(f"{path}: exported files run only on the CPU; omit device={device!r}")
        outputs = manifest.export.outputs if manifest.export is not None else ()
        engine = open_engine(path, outputs=outputs, threads=threads, trust=trust)
        return Predictor(manifest, engine, source=str(path), max_megapixels=max_megapixels)
    if weights is not None and not is_named(path):
        raise ValueError(f"{path} has weights of its own: omit weights={str(weights)!r}")
    recipe = None if weights is None else named_recipe(path, [f"model.weights={json.dumps(str(weights))}"])
    manifest, network = open_model(path, recipe)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    network_engine = PytorchEngine(network, torch.device(device))
    return Predictor(manifest, network_engine, source=str(path), max_megapixels=max_megapixels)


def read_manifest(path: Path) -> Manifest:
    """Read an exported file's description of itself, without its network."""
    return from_json(read_text(path), source=str(path), sections=sections())


def _path(model: object) -> Path:
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if not isinstance(model, str):
        raise TypeError(
            "load expects the path of a run folder, a checkpoint or an exported file, not an object of type "
            f"{type(model).__name__}: save the object to a file and pass its path"
        )
    if not model:
        raise ValueError("the path is empty: pass that of a run folder, a checkpoint or an exported file")
    return local(Path(model).expanduser())


def recipe_of(
    model: Path, extras: Sequence[str] = (), *, trainer: Mapping[str, Any] = MappingProxyType({})
) -> Recipe:
    """Load a model's recipe, with overlays and overrides; `trainer` replaces settings of that section."""
    if is_named(model):
        return named_recipe(model, extras)
    with stored_recipe(model, trainer=trainer) as config:
        return load_recipe(str(config), extras).recipe


def origins_of(model: Path, extras: Sequence[str] = ()) -> dict[str, str]:
    """Return where the values of `recipe_of` come from, by dotted key; nothing for a named model."""
    if is_named(model):
        return {}
    with stored_recipe(model) as config:
        origins = load_recipe(str(config), extras).provenance
        return {
            key: "the run's recipe" if text.startswith(str(config)) else text for key, text in origins.items()
        }


def file_of(model: Path, *, weights: str | Path | None = None) -> Path:
    """Return the file that holds a model's weights; that of a named model's is fetched by `load`."""
    if model.suffix.lower() in FORMATS:
        return model
    if is_named(model):
        return Path(weights) if weights is not None else weights_file(named_recipe(model))
    return checkpoint_of(model, names=("best", "last"))
