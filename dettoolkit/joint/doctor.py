"""What is wrong with the data of a joint recipe: what both tasks' own checks find."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from dettoolkit.config import JointRecipe
from dettoolkit.detection import doctor as detection
from dettoolkit.doctor.examination import Examination, Progress
from dettoolkit.doctor.findings import Split
from dettoolkit.joint.run import JointRun
from dettoolkit.joint.single_tasks import detection_recipe, same_images, segmentation_recipe
from dettoolkit.segmentation import doctor as segmentation

SPLITS: tuple[Split, ...] = ("train", "val")


def examine(
    recipe: JointRecipe, *, deep: bool, progress: Progress, run: JointRun | None = None
) -> Examination:
    """Return what the doctor looks at, and the checks of boxes and of labels."""
    own = (None, None) if run is None else (run.boxes, run.maps)
    boxes = detection.examine(detection_recipe(recipe), deep=deep, progress=progress, run=own[0])
    maps = segmentation.examine(segmentation_recipe(recipe), deep=deep, progress=progress, run=own[1])
    findings = chain(boxes.findings, maps.findings)
    if same_images(recipe):
        return replace(boxes, folders=(), findings=findings)  # other files there are label files
    return replace(
        boxes,
        images={split: [*boxes.images[split], *maps.images[split]] for split in SPLITS},
        trained_on=max(boxes.trained_on, maps.trained_on),
        findings=findings,
    )
