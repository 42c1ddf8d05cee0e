"""Whether two models give the same in images: both their objects and their label maps."""

from __future__ import annotations

from collections.abc import Iterable

from dettoolkit.joint.result import JointResult
from dettoolkit.joint.spec import BOXES, MAPS, JointSection
from dettoolkit.spec import Comparison, Strictness


def compare(
    pairs: Iterable[tuple[JointResult, JointResult]], section: JointSection, strictness: Strictness
) -> Comparison:
    """Compare the results of a reference and of a file, part by part; what is doubted of one is of all."""
    results = list(pairs)
    found = [
        spec.compare(
            [(getattr(one, spec.name), getattr(other, spec.name)) for one, other in results],
            getattr(section, spec.name),
            strictness,
        )
        for spec in (BOXES, MAPS)
    ]
    return Comparison(
        errors={name: value for each in found for name, value in each.errors.items()},
        details={name: value for each in found for name, value in each.details.items()},
        doubts=tuple(doubt for each in found for doubt in each.doubts),
    )
