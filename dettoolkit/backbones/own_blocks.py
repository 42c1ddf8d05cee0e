"""A recipe's blocks as a table of `tables`, and a table as the blocks of a recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from dettoolkit.backbones.tables import TABLES, Bneck, Table, named_table
from dettoolkit.config.model import Backbone
from dettoolkit.config.recipe import Recipe

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def table_of(section: Backbone) -> Table:
    """Return the table of a recipe's backbone: its blocks, or what its width and tail make of a named one."""
    if section.blocks is None:
        chosen = section.model_dump(include={"width", "tail", "last_conv", "rounding"})
        return named_table(section.type, **chosen)
    named = TABLES[section.type]
    rows = tuple(
        Bneck(
            kernel=block.kernel,
            expansion=block.expansion,
            channels=block.out,
            squeeze=block.squeeze_excite,
            activation=block.activation,
            stride=block.stride,
            linear=named.rows[0].linear,
            fused=block.fused,
        )
        for block in section.blocks
    )
    return replace(
        named,
        rows=rows,
        stem_channels=section.stem_channels or named.stem_channels,
        last_channels=None if section.last_conv == "none" else section.last_channels or named.last_channels,
    )


def with_table(section: Backbone, table: Table) -> Backbone:
    """Return a recipe's backbone with every row of a table written out; all else stays.

    The table's gate and activations must be those of the section's type.

    Example:
        >>> section = Backbone(type="mobilenet_v3_small", width=0.5)
        >>> written = with_table(section, table_of(section))
        >>> written.blocks[1].expansion, table_of(written) == table_of(section)
        (40, True)
    """
    blocks = [
        {
            "kernel": row.kernel,
            "expansion": row.expansion,
            "out": row.channels,
            "squeeze_excite": row.squeeze,
            "activation": row.activation,
            "stride": row.stride,
            "fused": row.fused,
        }
        for row in table.rows
    ]
    written = section.model_dump(exclude={"width", "tail", "rounding"}) | {
        "blocks": blocks,
        "stem_channels": table.stem_channels,
        "last_channels": table.last_channels,
        "last_conv": "none" if table.last_channels is None and TABLES[section.type].last_channels else "keep",
    }
    return Backbone.model_validate(written)


def recipe_with(recipe: AnyRecipe, table: Table) -> AnyRecipe:
    """Return a recipe whose network has every row of a table written out, and starts from no weights."""
    backbone = with_table(recipe.model.backbone, table).model_copy(update={"weights": None})
    model = recipe.model.model_copy(update={"backbone": backbone, "weights": None})
    return recipe.model_copy(update={"model": model})
