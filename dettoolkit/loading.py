"""`load`: a trained or an exported model, ready to be called on images."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from dettoolkit.config import Recipe, load_recipe, recipe_to_dict
from dettoolkit.datasets.images import MAX_MEGAPIXELS
from dettoolkit.formats import FORMATS, open_engine, read_text
from dettoolkit.formats.pytorch import PytorchEngine
from dettoolkit.inference.predictor import Predictor
from dettoolkit.manifest import Manifest, from_json
from dettoolkit.network import Network
from dettoolkit.run import Classes
from dettoolkit.tasks import sections, spec_of
from dettoolkit.training.run_folder import checkpoint_of, stored_recipe
from dettoolkit.weights.load import load_trained
from dettoolkit.weights.read import read_checkpoint


def load(
    model: str | Path,
    *,
    device: str | None = None,
    threads: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    trust: bool = False,
) -> Predictor:
    """Load a model: a run's folder, a checkpoint of ours, or an exported file.

    Args:
        model: its path. Of a run's folder the best checkpoint is taken.
        device: where PyTorch runs a checkpoint, such as "cpu" or "cuda:1"; None takes a GPU if there is one.
        threads: that an exported file's runtime may use; None leaves it to the runtime. PyTorch's are set by
            `torch.set_num_threads`.
        trust: open a .pt2 file, which can run any code; give it for files of people you trust only.
        max_megapixels: largest image that the predictor reads; its header tells before it is decoded.

    Raises:
        TypeError: no path.
        FileNotFoundError: neither a checkpoint nor a run's folder with one.
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
                f"{path} does not exist: give an exported file, a checkpoint or a run's folder"
            )
        manifest = read_manifest(path)
        if device not in (None, "cpu"):
            raise ValueError(f"{path} runs on the CPU here: omit device={device!r}")
        outputs = manifest.export.outputs if manifest.export is not None else ()
        engine = open_engine(path, outputs=outputs, threads=threads, trust=trust)
        return Predictor(manifest, engine, source=str(path), max_megapixels=max_megapixels)
    manifest, network = open_checkpoint(path)
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
            "load takes the path of a run's folder, a checkpoint or an exported file, not an object of type "
            f"{type(model).__name__}: write what is in memory to a file, and give its path"
        )
    if not model:
        raise ValueError(
            "load was given an empty path: give that of a run's folder, a checkpoint or an exported file"
        )
    return Path(model).expanduser()


def open_checkpoint(path: Path, recipe: Recipe | None = None) -> tuple[Manifest, Network]:
    """Build the network of a run's folder or a checkpoint, load its weights and describe it.

    A recipe takes the place of the one that the checkpoint carries.
    """
    checkpoint = checkpoint_of(path, names=("best", "last"))
    description, state = read_checkpoint(checkpoint)
    if recipe is None:
        with stored_recipe(checkpoint) as config:
            recipe = load_recipe(str(config)).recipe
    spec = spec_of(recipe)
    classes = Classes(description["class_names"], description["class_ids"])
    network = spec.build_network(recipe, num_classes=len(classes.names))
    load_trained(network, state, source=str(checkpoint))
    manifest = Manifest(
        name=description["name"],
        mean=recipe.data.mean,
        std=recipe.data.std,
        input_hw=spec.input_hw(recipe),
        **spec.fitting(recipe),
        recipe=recipe_to_dict(recipe),
        versions=description["versions"],
        tasks={spec.name: spec.describe(recipe, network, classes=classes)},
    )
    return manifest, network
