"""The bounds of a recipe's values.

Every number, list and text of the schema has a bound at both ends (`tests/test_recipe_bounds.py` keeps this).
Beyond them nothing is trained: memory runs out, a value is 0 or infinite in float32, or the run never ends.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveInt

NO_NUL = r"^[^\x00]*$"
DURATION = r"^[0-9]{1,4}:[0-9]{2}:[0-9]{2}:[0-9]{2}$"
PATTERNS = {  # in words
    NO_NUL: "text without the character U+0000",
    DURATION: "days:hours:minutes:seconds such as 00:12:00:00",
}


def _zero_or_more(value: float) -> float:
    """Refuse what float32 could not tell from 0."""
    if 0 < value < 1e-3:
        raise ValueError(f"must be 0 or at least 0.001, got {value:g}")
    return value


def _some_time(value: str) -> str:
    """Refuse a duration of nothing, which Lightning takes as a run without a step."""
    if not value.strip("0:"):
        raise ValueError(f"must be above 0, got {value}: set the time that the run may take, or null")
    return value


Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(ge=1e-3, le=1)]
FractionBelow1 = Annotated[float, Field(ge=0, lt=1)]
ZeroOrMore = Annotated[float, Field(ge=0, le=100), AfterValidator(_zero_or_more)]
Weight = Annotated[float, Field(ge=1e-6, le=1e6)]
Epsilon = Annotated[float, Field(ge=1e-12, le=1)]
InitStd = Annotated[float, Field(ge=1e-6, le=10)]
Count = Annotated[PositiveInt, Field(le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # numpy's, and so Lightning's
Side = Annotated[int, Field(ge=32, le=8192)]
SizeHW = Annotated[tuple[Side, Side], Field(strict=False)]
Text = Annotated[str, Field(min_length=1, max_length=4096, pattern=NO_NUL)]
Std = Annotated[float, Field(ge=1e-3, le=1000)]
DeviceCount = Annotated[PositiveInt, Field(le=64)]
DeviceList = Annotated[list[Annotated[int, Field(ge=0, le=63)]], Field(min_length=1, max_length=64)]
Duration = Annotated[str, Field(pattern=DURATION), AfterValidator(_some_time)]
