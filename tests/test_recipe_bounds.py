"""The recipe's bounds: every field has them, and beyond them nothing but a RecipeError comes out."""

import copy
import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import TINY_CLASSIFICATION_RECIPE, TINY_RECIPE, TINY_SEGMENTATION_RECIPE
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_values import recipe_from_dict
from ruamel.yaml import YAML
from test_every_recipe import batch_of, task_of

from dettoolkit.classification import run as classification
from dettoolkit.cli.failures import sentence
from dettoolkit.config import RecipeError, load_recipe, recipe_to_dict
from dettoolkit.config.recipe import ClassificationRecipe, DetectionRecipe, SegmentationRecipe
from dettoolkit.segmentation import training_data as segmentation
from dettoolkit.training.optimizers import build_optimizer, rate_factor, scaled_rate

TEXTS = {
    DetectionRecipe: TINY_RECIPE,
    SegmentationRecipe: TINY_SEGMENTATION_RECIPE,
    ClassificationRecipe: TINY_CLASSIFICATION_RECIPE,
}
BASES = {kind: YAML(typ="safe", pure=True).load(text) for kind, text in TEXTS.items()}
SCHEMAS = {kind: kind.model_json_schema() for kind in BASES}
WRONG = (None, True, "3", 3.5, -1, 10**400, 1e300, math.nan, -math.inf, [], {}, [[]], {"a": {}})


class Leaf(NamedTuple):
    """A value of the schema: where it is, the variant of each section above it, and what it may be."""

    kind: type
    path: tuple[str | int, ...]
    sections: tuple[dict[str, Any], ...]  # JSON Schema of the section that holds each part of the path
    node: dict[str, Any]

    @property
    def name(self) -> str:
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)[1:]


def options(kind: type, node: dict[str, Any]) -> list[dict[str, Any]]:
    """List what a node of the JSON Schema allows: its variants, without references."""
    if "$ref" in node:
        return options(kind, SCHEMAS[kind]["$defs"][node["$ref"].rpartition("/")[2]])
    parts = node.get("anyOf") or node.get("oneOf")
    return [each for part in parts for each in options(kind, part)] if parts else [node]


def leaves(kind: type, node: dict[str, Any], path: tuple = (), above: tuple = ()) -> Iterator[Leaf]:
    for option in options(kind, node):
        if "properties" in option:
            for key, child in option["properties"].items():
                yield from leaves(kind, child, (*path, key), (*above, option))
            continue
        yield Leaf(kind, path, above, option)
        elements = option.get("prefixItems") or [option["items"]] if option.get("type") == "array" else []
        for index, element in enumerate(elements):
            yield from leaves(kind, element, (*path, index), (*above, option))


LEAVES = [leaf for kind in BASES for leaf in leaves(kind, SCHEMAS[kind])]


def smallest(kind: type, node: dict[str, Any]) -> Any:
    """Make a value that a node of the schema allows."""
    option = options(kind, node)[0]
    if "const" in option or "enum" in option:
        return option.get("const", option.get("enum", [None])[0])
    if "properties" in option:
        return {key: smallest(kind, option["properties"][key]) for key in option.get("required", ())}
    if option["type"] == "array":
        element = option.get("items")
        few = option.get("prefixItems") or [element] * option.get("minItems", 1)
        return [smallest(kind, each) for each in few]
    least = option.get("minimum", option.get("exclusiveMinimum", 0))
    return {"string": "x", "boolean": True, "object": {}, "null": None}.get(option["type"], least + 1)


def place(values: dict[str, Any], leaf: Leaf, value: Any) -> None:
    """Set a leaf in the values of a recipe, with the sections around it as they must be."""
    here: Any = values
    for depth, part in enumerate(leaf.path[:-1]):
        wanted = leaf.sections[depth + 1]
        inside = here.get(part) if isinstance(here, dict) else here[part]
        if not fits(inside, wanted):
            here[part] = inside = smallest(leaf.kind, wanted)
        here = inside
    here[leaf.path[-1]] = value


def fits(value: Any, section: dict[str, Any]) -> bool:
    if section.get("type") == "array":
        return isinstance(value, list) and bool(value)
    kind = section["properties"].get("type", {})
    names = kind.get("enum", [kind["const"]] if "const" in kind else [])
    return isinstance(value, dict) and (not names or value.get("type") in names)


def bounds(node: dict[str, Any]) -> Iterator[tuple[float, int, str]]:
    """Yield each bound of a number, the side on which it is forbidden, and how an error says it."""
    for key, side, word in (
        ("minimum", -1, "at least"),
        ("exclusiveMinimum", -1, "above"),
        ("maximum", 1, "at most"),
        ("exclusiveMaximum", 1, "below"),
    ):
        if key in node:
            yield node[key], side, word


def inside(node: dict[str, Any]) -> list[Any]:
    """List values at the bounds of a leaf and between them."""
    if "const" in node or "enum" in node:
        return node.get("enum", [node.get("const")])
    kind = node["type"]
    if kind == "integer":
        limits = [round(bound) for bound, _, _ in bounds(node)]
        return [limits[0] + (0 if "minimum" in node else 1), sum(limits) // 2, limits[1]]
    if kind == "number":
        ends = [
            math.nextafter(bound, -side * math.inf) if "exclusive" + word in node else bound
            for (bound, side, _), word in zip(bounds(node), ("Minimum", "Maximum"), strict=True)
        ]
        return [float(ends[0]), sum(ends) / 2, float(ends[1])]
    if kind == "string":
        return ["12:34:56:00"] if node.get("pattern", "").startswith("^[0-9]") else ["é", "x" * 4096, "../-="]
    return {"boolean": [True, False], "null": [None]}.get(kind, [])


def beyond(node: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """Yield values just outside of a leaf's bounds, and what an error has to say of each."""
    kind = node.get("type")
    for bound, side, word in bounds(node):
        if kind == "integer":
            out = bound if word in ("above", "below") else bound + side
        else:
            out = float(bound) if word in ("above", "below") else math.nextafter(bound, side * math.inf)
        yield out, f"must be {word} {bound:g}" if kind == "number" else f"must be {word} {bound}"
    if "maxLength" in node:
        yield from ((value, "") for value in ("", "a\0b", "\ud800", "x" * (node["maxLength"] + 1)))
    if node.get("pattern", "").startswith("^[0-9]"):
        yield "9:9", "days:hours:minutes:seconds"
        yield "00:00:00:00", "must be above 0"


def refused(values: dict[str, Any]) -> str:
    """Return the errors of a recipe, '' where there are none; anything but a RecipeError fails the test."""
    try:
        recipe_from_dict(values)
    except RecipeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", BASES, ids=lambda kind: kind.__name__)
def test_every_value_of_the_schema_is_bounded(kind: type) -> None:
    found = []
    for leaf in leaves(kind, SCHEMAS[kind]):
        node = leaf.node
        if "enum" in node or "const" in node:
            continue
        needed = {
            "string": {"maxLength"} if not node.get("pattern", "").endswith("]{2}$") else set(),
            "array": {"maxItems"},
            "object": {"maxProperties"},
        }.get(node["type"], set())
        if node["type"] in ("integer", "number") and len(list(bounds(node))) != 2:
            needed = {"a bound at both ends"}
        found += [f"{leaf.name} has no {key}" for key in needed - set(node)]
    assert not found, "give these a bound (config/sections.py):\n" + "\n".join(found)


@pytest.mark.parametrize("kind", BASES, ids=lambda kind: kind.__name__)
def test_beyond_each_bound_the_field_the_bound_and_the_value_are_told(kind: type) -> None:
    tried = 0
    for leaf in leaves(kind, SCHEMAS[kind]):
        for value, told in beyond(leaf.node):
            values = copy.deepcopy(BASES[kind])
            place(values, leaf, value)
            lines = [line for line in refused(values).splitlines() if f"{leaf.name}: " in line]
            assert any(told in line for line in lines), (leaf.name, value, refused(values))
            tried += 1
    assert tried > 150


def test_wrong_values_of_each_field_raise_nothing_else() -> None:
    for number, leaf in enumerate(LEAVES):
        for value in (*inside(leaf.node), *WRONG[number % 3 :: 3]):
            values = copy.deepcopy(BASES[leaf.kind])
            place(values, leaf, value)
            refused(values)


def drawn(data: st.DataObject, *, without: str = "^$") -> Any:
    """Draw values at the bounds of several fields, or between them; None where they are refused together."""
    kind = data.draw(st.sampled_from(list(BASES)))
    values = copy.deepcopy(BASES[kind])
    own = [leaf for leaf in LEAVES if leaf.kind is kind and inside(leaf.node)]
    own = [leaf for leaf in own if not re.search(without, leaf.name)]
    for leaf in data.draw(st.lists(st.sampled_from(own), max_size=6)):
        place(values, leaf, data.draw(st.sampled_from(inside(leaf.node))))
    try:
        return recipe_from_dict(values)
    except RecipeError:
        return None


once = partial(settings, deadline=None, derandomize=True, database=None)


@given(st.data())
@once(max_examples=200)
def test_fields_drawn_together_are_refused_or_round_trip(data: st.DataObject) -> None:
    recipe = drawn(data)
    assert recipe is None or recipe_from_dict(recipe_to_dict(recipe)) == recipe


@given(st.data())
@once(max_examples=25)
def test_what_the_schema_lets_through_is_built_and_takes_a_step(data: st.DataObject) -> None:
    recipe = drawn(data, without=r"_hw|eval_resize|width|filters|\[[0-7]\]\.")  # those take memory
    if recipe is None:
        return
    try:
        step(recipe)
    except ValueError as error:
        if sentence(error) is None:  # it is none of ours
            raise


def step(recipe: Any) -> None:
    """Build all that a recipe describes and use it once."""
    task, batch = task_of(recipe), batch_of(recipe)
    network = task.network.train()
    optimizer = build_optimizer(network, recipe.optim, lr=scaled_rate(recipe.optim, 2))
    for at in (0, 1, 10**9):
        rate_factor(at, total_steps=10, epoch_steps=1, schedule=recipe.optim.schedule)
    images, targets = task.training_inputs(batch)
    torch.stack(list(task.losses(network(images), targets).values())).sum().backward()
    optimizer.step()
    image = np.zeros((48, 64, 3), np.uint8)
    if isinstance(recipe, ClassificationRecipe):
        classification.training_transform(recipe.data)(image, 0)
        task.predict(network.eval(), batch | {"image_ids": torch.arange(2)})
    elif isinstance(recipe, SegmentationRecipe):
        names, pixels = [f"class {k}" for k in range(19)], np.ones((1, 19), np.int64)
        transform, _ = segmentation.augmentation(recipe.data, names, pixels)
        transform(image, np.zeros((48, 64), np.uint8), 0)
        task.segment(network.eval(), batch | {"label_map_hw": torch.tensor([[65, 97]] * 2)})
    else:
        sizes = {"original_hw": torch.tensor([[48, 64]] * 2), "image_ids": torch.arange(2)}
        task.predict(network.eval(), batch | sizes)


LISTED = {  # of an attack; all were accepted once
    DetectionRecipe: """model.anchors.min_scale=0 model.head.class_bias=1e300 model.head.extra_channels=[1]
        model.backbone.width=1000 model.input_hw=[100000,100000] evaluation.max_detections=1e30
        optim.momentum=1 trainer.seed=4294967296 data.batch_size=1e400 data.batch_size=1000000
        data.workers=1000 trainer.devices=1000 trainer.strategy=ddp_spawn
        trainer.extra.limit_train_batches=0 trainer.extra.max_time=soon trainer.extra.profiler=3""",
    SegmentationRecipe: """model.loss.ohem.threshold=0 data.augment.scale_step=1e-300
        data.crop_hw=[100000,100000] data.augment.scale=[1,1000] model.head.filters=1000000""",
    ClassificationRecipe: "data.eval_resize=100000 model.loss.mixup=1e-300",
}


@pytest.mark.parametrize(
    ("kind", "override"),
    [(kind, each) for kind, text in LISTED.items() for each in text.split()],
    ids=lambda each: each if isinstance(each, str) else each.__name__[:3],
)
def test_what_an_attack_got_through_is_refused(kind: type, override: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(TEXTS[kind])
    key = override.partition("=")[0]
    with pytest.raises(RecipeError, match=rf"override 1 '.*': {re.escape(key)}.*: .*got|expected") as caught:
        load_recipe(str(file), [override])
    assert len(str(caught.value).splitlines()) <= 2
