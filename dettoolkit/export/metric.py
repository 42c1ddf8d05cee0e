"""The score of any predictor on a run's validation set, by the same code whatever runs its network."""

from __future__ import annotations

from dettoolkit.config import Recipe
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.inference.predictor import Predictor
from dettoolkit.manifest import Manifest
from dettoolkit.run import Classes, Run
from dettoolkit.tasks import spec_for


def validation_run(recipe: Recipe, manifest: Manifest, *, what: str) -> Run:
    """Load the validation data that a recipe names, to score a model with the classes of a manifest.

    Raises:
        FileNotFoundError: the data is not there.
        ValueError: it has other classes.
    """
    own = Classes(list(manifest.section.class_names), list(manifest.section.class_ids))
    return spec_for(manifest).evaluation_run(manifest.name, recipe, own=own, what=what)


def score(predictor: Predictor, run: Run) -> tuple[str, float]:
    """Score a predictor on the whole validation set as `dettoolkit evaluate` scores a checkpoint.

    Images that cannot be read raise, or are skipped where the recipe has data.on_bad_image=skip.

    Returns:
        the score's name and its value; NaN where the set has nothing to score.
    """
    found = []
    for row, file in enumerate(run.image_files()):
        try:
            image = file.read()
        except BadImageError:
            if run.recipe.data.on_bad_image == "skip":
                continue
            raise
        (result,) = predictor.predict_batch([image], threshold=0.0)
        if (prediction := run.prediction_of(result, row)) is not None:
            found.append(prediction)
    monitor = run.task.monitor
    return monitor, float(run.task.score(found).numbers[monitor])
