"""The rule of docs/architecture.md that a new task is a folder and a line: no other code names a task."""

import ast
import inspect
from collections.abc import Iterator

import pytest
from test_imports import MODULES, ROOMS, ROOT, unit

from dettoolkit.spec import TaskSpec
from dettoolkit.tasks import TASKS

ALLOWED = {"tasks", "config", "datasets", "drawing", "heads", *ROOMS}
NAMES = {spec.name for spec in TASKS}
KINDS = {spec.recipe.__name__ for spec in TASKS}
OTHERS = sorted(name for name in MODULES if unit(name) not in ALLOWED)


def decisions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and reason of each place that names a task: a string, an attribute, a recipe's class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in NAMES:
            yield node.lineno, f"the string {node.value!r}: ask the spec for its name"
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            yield node.lineno, f"the attribute .{node.attr}: ask for `section`, or for the spec"
        elif isinstance(node, ast.Name | ast.Attribute | ast.alias):
            name = (
                node.attr
                if isinstance(node, ast.Attribute)
                else getattr(node, "id", getattr(node, "name", ""))
            )
            if name in KINDS:
                yield node.lineno, f"{name}: ask tasks.spec_of(recipe)"


@pytest.mark.parametrize("name", OTHERS)
def test_no_code_names_a_task(name):
    path = MODULES[name]
    found = [
        f"{path.relative_to(ROOT)}:{line}: {reason}"
        for line, reason in decisions(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


def test_the_rule_holds_where_it_is_meant_to():
    assert {"detection", "segmentation", "classification", "joint"} == NAMES
    assert len(KINDS) == 4
    assert {unit(name) for name in OTHERS} >= {
        *(
            "cli",
            "demo",
            "evaluation",
            "export",
            "formats",
            "inference",
            "loading",
            "manifest",
            "paper",
            "ray",
        ),
        *("results", "run", "spec", "training", "weights"),
    }


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(recipe, DetectionRecipe)",
        "isinstance(recipe, config.SegmentationRecipe)",
        "isinstance(recipe, (int, ClassificationRecipe))",
        "type(recipe) is DetectionRecipe",
        "from dettoolkit.config import DetectionRecipe as Kind",
        "task == 'detection'",
        "'segmentation' != task",
        "task in ('classification', 'other')",
        "{'detection': 1}[task]",
        "heads['segmentation']",
        "Literal['detection']",
        "manifest.detection is None",
        "manifest.segmentation",
        "match task:\n    case 'classification':\n        pass",
    ],
)
def test_the_check_sees_a_decision_by_task(code):
    assert list(decisions(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        '"""Scores of detection, segmentation and classification."""',
        "def f():\n    # detection\n    return 'of segmentation alone'",
        "from dettoolkit.evaluation import segmentation_counts",
        "isinstance(recipe, Recipe)",
        "spec.name == manifest.task",
    ],
)
def test_the_check_lets_words_pass(code):
    assert not list(decisions(ast.parse(code)))


def taken(function) -> tuple[int, set[str]]:
    """Return how many arguments a function wants by place, and the names of the others."""
    arguments = [
        each for each in inspect.signature(function).parameters.values() if each.default is each.empty
    ]
    named = {each.name for each in arguments if each.kind is each.KEYWORD_ONLY}
    return len(arguments) - len(named), named


@pytest.mark.parametrize("spec", TASKS, ids=lambda spec: spec.name)
def test_what_a_spec_imports_late_is_there_and_takes_what_commands_give(spec):
    for name in [name for name, value in vars(TaskSpec).items() if inspect.isfunction(value)]:
        places, named = taken(getattr(TaskSpec, name))
        assert taken(getattr(spec, name)) == (places - 1, named), name  # `self` is bound
