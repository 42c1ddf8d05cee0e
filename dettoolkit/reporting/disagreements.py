"""Images on which runs disagree most, with what each of them says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dettoolkit.config.recipe import Recipe
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.pages.parts import Block, Gallery, Picture, Table
from dettoolkit.reporting.scored_folder import IMAGE_SCORES, ScoredFolder
from dettoolkit.run import Classes, Run, file_names
from dettoolkit.weights.load import load_trained
from dettoolkit.weights.read import description_of, read_checkpoint

LISTED = 6
Folders = Mapping[str, ScoredFolder]


def disagreement_blocks(folders: Folders) -> Iterator[Block]:
    """Yield what each run says of the images whose scores differ most.

    The images and the checkpoints are read again; where one of them is gone, only the scores are listed.
    """
    scores = {name: folder.json(IMAGE_SCORES) or {} for name, folder in folders.items()}
    common = set.intersection(*(set(each) for each in scores.values()))
    spread = {
        image: max(each[image] for each in scores.values()) - min(each[image] for each in scores.values())
        for image in common
    }
    images = sorted((image for image in common if spread[image] > 0), key=lambda image: -spread[image])
    images = images[:LISTED]
    if not images:
        return
    pictures, reasons = list[list[Picture]](), list[str]()
    for name, folder in folders.items():
        try:
            pictures.append(list(_pictures(name, folder, images, scores[name])))
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            reasons.append(f"{name}: {str(error).splitlines()[0]}")
    if not reasons and all(pictures):
        for number, image in enumerate(images):
            yield Gallery(title=image, pictures=[each[number] for each in pictures])
        return
    rows = [[image, *(each[image] for each in scores.values())] for image in images]
    note = "Without pictures: " + "; ".join(reasons) if reasons else ""
    yield Table(title="Scores of these images", note=note, columns=["image", *folders], rows=rows)


def _pictures(
    name: str, folder: ScoredFolder, images: list[str], scores: Mapping[str, float]
) -> Iterator[Picture]:
    report, run = folder.spec.report(), rebuilt(folder)
    if report is None:
        return
    run.task.network.eval()
    rows = {name: row for row, name in enumerate(file_names(run))}
    for image in images:
        batch = run.collate([run.val[SampleKey(rows[image], 0)]])
        with torch.inference_mode():
            predictions = [run.task.predict(run.task.network, batch)]
        entry = {"image_id": int(batch["image_ids"][0])}
        drawn = report.picture(run, predictions, entry, folder.evaluation)
        if drawn is None:
            raise FileNotFoundError(f"{image} cannot be read")
        yield Picture(drawn, f"{name}: {report.image_measure} {scores[image]:.3f}")


def rebuilt(folder: ScoredFolder) -> Run:
    """Build the run of a folder once more, with its weights, on the CPU.

    Raises:
        FileNotFoundError: its checkpoint or its data are gone.
        ValueError: either has changed.
    """
    about: Mapping[str, Any] = folder.about
    recipe: Recipe = folder.spec.recipe.model_validate(about["recipe"])
    weights = Path(about["weights"])
    if not weights.is_file() and folder.training is not None:
        weights = folder.training / "checkpoints" / weights.name
    if not weights.is_file() or description_of(weights) is None:
        raise FileNotFoundError(f"{about['weights']} is no checkpoint that is still there")
    description, state = read_checkpoint(weights)
    own = Classes(list(description["class_names"]), list(description["class_ids"]))
    run = folder.spec.evaluation_run(about["name"], recipe, own=own, what=str(weights))
    load_trained(run.task.network, state, source=str(weights))
    return run
