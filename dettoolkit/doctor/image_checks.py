"""Checks of single image files, by their headers or all of their bytes, whatever they are annotated with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from dettoolkit.doctor.examination import ListedImage, example_of
from dettoolkit.doctor.findings import Example, Finding, Severity, Split, found
from dettoolkit.doctor.looks import Look, Trouble

Seen = Sequence[tuple[ListedImage, Look]]

MUCH_LARGER = 16
"""Times the pixels of the input, 4 on each side: decoding then costs more than all the rest of an image."""

MANY_LARGER = 0.05
"""Fraction of a split's images from which that is worth a word."""


class Check(NamedTuple):
    """What is looked for in each image.

    Attributes:
        id: of the finding.
        severity: None is that of a file that cannot be read.
        is_case: whether an image has it.
        describe: what an example says.
        text: of the finding, behind the number of images.
        remedy: what to do.
    """

    id: str
    severity: Severity | None
    is_case: Callable[[ListedImage, Look], bool]
    describe: Callable[[ListedImage, Look], str]
    text: str
    remedy: str


def check_looks(
    split: Split, seen: Seen, *, listed: int, input_hw: tuple[int, int] | None, bad: Severity
) -> Iterator[Finding]:
    """Find what headers, or whole files, show of single images.

    Args:
        split: whose they are.
        seen: images that are there, with what was seen of them.
        listed: images of the split; where fewer were seen, texts say so.
        input_hw: size that they are resized to, or None.
        bad: severity of a file that cannot be read, by what the recipe does with it.
    """
    of = f" of the {len(seen):,} looked at" if len(seen) < listed else ""
    for check in CHECKS:
        yield from found(
            check.id,
            check.severity or bad,
            [each for each in seen if check.is_case(*each)],
            partial(_example, check),
            split=split,
            text=f"{{n}} image{{n:|s}}{of} {check.text}",
            remedy=check.remedy,
        )
    if input_hw is not None:
        yield from _check_cost(split, seen, input_hw, of)


def _example(check: Check, case: tuple[ListedImage, Look]) -> Example:
    return example_of(case[0], check.describe(*case))


def _has(trouble: Trouble) -> Callable[[ListedImage, Look], bool]:
    return lambda _, look: look.trouble == trouble


def _reason(_: ListedImage, look: Look) -> str:
    return look.reason


def _turned(image: ListedImage, look: Look) -> bool:
    """Return whether training turns the image by its EXIF orientation: only so has it the annotated size."""
    return look.orientation >= 5 and image.hw == look.hw[::-1] != look.hw


def _uncertain(image: ListedImage, look: Look) -> bool:
    """Return whether nothing says how an image with an EXIF orientation was annotated."""
    sized = look.orientation >= 5 and look.hw[0] != look.hw[1] and image.hw in (look.hw, look.hw[::-1])
    return look.orientation != 1 and not sized


def _differs(image: ListedImage, look: Look) -> bool:
    known = look.trouble is None and image.hw not in (None, (0, 0))
    return known and image.hw != look.hw and not _turned(image, look)


def _sizes(image: ListedImage, look: Look) -> str:
    return f"{size_text(look.hw)}, annotated as {size_text(image.hw or (0, 0))}"


def _orientation(_: ListedImage, look: Look) -> str:
    return f"EXIF orientation {look.orientation}, {size_text(look.hw)} as stored"


def _kind(_: ListedImage, look: Look) -> str:
    return look.kind


CHECKS = (
    Check(
        "file-link-broken",
        None,
        lambda image, look: look.trouble == "missing" and image.path.is_symlink(),
        lambda image, _: f"leads to {image.path.readlink()}",
        "{n:is a link that leads|are links that lead} nowhere",
        "Bring back what they led to.",
    ),
    Check(
        "file-truncated",
        None,
        _has("truncated"),
        _reason,
        "{n:is|are} cut short",
        "Copy or fetch them again; decoders fill what is missing with gray.",
    ),
    Check(
        "file-not-image",
        None,
        _has("not an image"),
        _reason,
        "cannot be decoded",
        "Replace them, or take them out of the annotations.",
    ),
    Check(
        "file-too-large",
        None,
        _has("too large"),
        _reason,
        "{n:has|have} more pixels than are read",
        "Scale them down, or raise data.max_megapixels.",
    ),
    Check(
        "file-not-readable",
        None,
        _has("not readable"),
        _reason,
        "cannot be opened",
        "Correct their permissions, or what their links lead to.",
    ),
    Check(
        "image-size-differs",
        "error",
        _differs,
        _sizes,
        "{n:has another size|have other sizes} than the annotations say",
        "Bring back the images that were annotated, or scale the annotations: they are used as they are.",
    ),
    Check(
        "image-turned",
        "note",
        _turned,
        _orientation,
        "{n:is|are} turned by {n:its|their} EXIF orientation, as the annotations' size asks",
        "Nothing here. Other tools may read the pixels as stored: save the images turned to be sure.",
    ),
    Check(
        "image-turn-unknown",
        "warning",
        _uncertain,
        _orientation,
        "{n:has|have} an EXIF orientation, and no size says whether {n:it was|they were} annotated turned",
        "Look at them: training takes the pixels as stored, prediction turns them. Save them turned, "
        "without the EXIF orientation.",
    ),
    Check(
        "image-cmyk",
        "warning",
        lambda _, look: look.kind == "CMYK",
        _kind,
        "{n:is|are} CMYK, whose colors come out differently in each decoder",
        "Convert them to RGB.",
    ),
    Check(
        "image-16-bit",
        "warning",
        lambda _, look: look.kind not in ("", "CMYK"),
        _kind,
        "{n:has|have} more than 8 bits per channel, of which training keeps the upper 8",
        "Scale their values to 8 bits yourself: of 12-bit values only the upper 4 bits are left.",
    ),
)


def _check_cost(split: Split, seen: Seen, input_hw: tuple[int, int], of: str) -> list[Finding]:
    limit = MUCH_LARGER * input_hw[0] * input_hw[1]
    large = [(image, look) for image, look in seen if look.hw[0] * look.hw[1] > limit]
    if len(large) < MANY_LARGER * len(seen):
        return []
    return found(
        "image-large",
        "note",
        large,
        lambda case: example_of(case[0], size_text(case[1].hw)),
        split=split,
        text=f"{{n}} image{{n:|s}}{of} {{n:has|have}} over {MUCH_LARGER} times the pixels of the input "
        f"({size_text(input_hw)}), so that reading takes most of the time",
        remedy=f"Scale a copy of them down once, to sides of about {2 * max(input_hw)} pixels, annotations "
        "too.",
    )


def size_text(hw: tuple[int, int]) -> str:
    """Write height and width."""
    return f"{hw[0]}x{hw[1]}"
