"""Write the folder of a published model, once it has been read back."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import torch

from dettoolkit.config import Recipe
from dettoolkit.config.yaml12 import write_lines
from dettoolkit.hub import CARD, MANIFEST, MEASURED, RECIPE
from dettoolkit.loading import recipe_of
from dettoolkit.manifest import Manifest, portable
from dettoolkit.named_models import is_named, is_published, published_of
from dettoolkit.network import Network
from dettoolkit.publishing.card import Terms, write_card
from dettoolkit.publishing.measured import Measured, measure_model, to_json
from dettoolkit.training.trained import open_model
from dettoolkit.weights.published import CODE_LICENSE
from dettoolkit.weights.read import VERSION, read_checkpoint
from dettoolkit.weights.safe import MODEL, write_safetensors

LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def publish(
    source: Path,
    out: Path,
    *,
    terms: Terms,
    recipe: Recipe | None = None,
    evaluation: Path | None = None,
    address: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write a model to a new folder, with a card of what was measured; see `hub.FILES`.

    Args:
        source: a run's folder, of which the best checkpoint is taken, a checkpoint, a published folder, or a
            model's name.
        out: the folder; it must not exist.
        terms: licenses and data, which the card needs.
        recipe: in the place of the model's own.
        evaluation: an evaluation.json of this model; None takes its run's.
        address: what users will give to `load`; None stands for the folder.
        tell: is called with what is being done.

    Raises:
        FileExistsError: `out` is there already; nothing was done.
        ValueError: terms are missing, or the source is no model.
    """
    check(out)
    recipe = recipe or recipe_of(source)
    check_terms(terms, recipe, named=is_named(source))
    described, network = open_model(source, recipe)
    measured = measure_model(source, recipe, network, evaluation=evaluation, tell=tell)
    manifest = replace(described, recipe=portable(described.recipe), versions=portable(described.versions))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=out.parent) as folder:
        made = Path(folder) / "made"
        made.mkdir()
        _write(made, manifest, network, measured)
        card = write_card(
            manifest,
            measured,
            terms,
            address=address or f"path/to/{out.name}",
            megabytes=(made / MODEL).stat().st_size / 1e6,
        )
        (made / CARD).write_text(card, encoding="utf-8")
        check(out)
        made.rename(out)
    return out


def check(out: Path) -> None:
    """Refuse a folder that exists, before any work."""
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"{out} already exists and is not overwritten: choose a new folder with --out")


def check_terms(terms: Terms, recipe: Recipe, *, named: bool) -> None:
    """Refuse a card without licenses or data: nobody else can know them."""
    missing = [f"--{each.name.replace('_', '-')}" for each in fields(terms) if not getattr(terms, each.name)]
    if missing:
        hint = ""
        if named and is_published(recipe):
            facts = published_of(recipe)
            hint = (
                f". torchvision, whose weights these are, has the license {CODE_LICENSE}; its data are those "
                f"of {facts.data}: {facts.data_license}"
            )
        raise ValueError(
            f"the model card needs {' and '.join(missing)} from you: the license of the weights, that of the "
            f"data they were trained on, and the data set's name{hint}"
        )
    if LICENSE.fullmatch(terms.license) is None:
        raise ValueError(
            f"--license {terms.license}: use an identifier such as apache-2.0 or mit, or 'other'"
        )


def _write(folder: Path, manifest: Manifest, network: Network, measured: Measured) -> None:
    """Write all but the card, and read the model back."""
    state = network.state_dict()
    description = {
        "version": VERSION,
        "name": manifest.name,
        "recipe": manifest.recipe,
        "class_names": list(manifest.class_names),
        "class_ids": list(manifest.section.class_ids),
        "versions": manifest.versions,
    }
    write_safetensors(folder / MODEL, state, description)
    there, back = read_checkpoint(folder / MODEL)
    same = back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    if not same or there != description:
        raise RuntimeError(f"{MODEL} does not read back as it was written: nothing was published")
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    lines = "".join(f"{line}\n" for line, _ in write_lines(manifest.recipe))
    (folder / RECIPE).write_text(lines, encoding="utf-8")
    (folder / MEASURED).write_text(to_json(measured), encoding="utf-8")
