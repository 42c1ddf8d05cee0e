"""Rules of docs/architecture.md that no reader sees at a glance: imports go one way, and nothing swells."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What stands for itself below dettoolkit, lowest first. Each may import itself and the lines above its own.
LAYERS = (
    (
        "complexity",
        "destinations",
        "finite",
        "machine",
        "manifest",
        "network",
        "soft_losses",
        "transfer",
        "wording",
    ),
    ("config",),
    ("backbones", "datasets", "download", "teacher"),
    ("converting", "drawing", "evaluation", "heads", "pages", "preprocessing", "weights"),
    ("doctor", "results", "run"),
    ("task_report",),
    ("spec",),
    ("formats",),
    ("classification", "detection", "segmentation"),
    ("joint",),  # composes two of them
    ("hub", "tasks"),
    ("named_models", "reporting"),
    ("inference", "training"),
    ("loading",),
    ("export", "ray"),
    ("demo", "paper"),
    ("latency", "publishing"),
    ("adaptation", "search"),
    ("cli",),
    ("",),  # the package itself, which gives `load` to users
)
LAYER_OF = {name: level for level, names in enumerate(LAYERS) for name in names}
ROOMS = ("classification", "detection", "joint", "segmentation")  # all that is above them asks `tasks`
# The one import against the order, inside a function: the kinds of recipes are those of the tasks.
LATE = {("config.recipe", "dettoolkit.tasks")}
# Lower, and still nobody's business: training knows no network, a download no recipe, a head no data.
FORBIDDEN = {
    "training": {"backbones", "heads"},
    "download": {"config"},
    "heads": {"datasets"},
}
# Libraries that only some may import; all others may be imported anywhere but in config.
ONLY_IN = {
    "lightning": {"training"},
    "albumentations": {"datasets"},
    "pydantic": {"config"},
    "ruamel": {"config", "converting"},
}
CONFIG_LIBRARIES = {"pydantic", "pydantic_core", "ruamel"}  # a wrong recipe is refused before torch is loaded
NEVER = {
    "datasets": "that is Hugging Face's; ours is dettoolkit.datasets",
    "heads": "it is imported as dettoolkit.heads",
    "configs": "it is data: config.find_recipe finds it",
    "pytorch_lightning": "lightning.pytorch is the same, maintained",
    "ultralytics": "its licence is AGPL",
}

FILE_LINES = 300
LONGER_FILES: dict[str, int] = {}
FUNCTION_LINES = 50  # without the docstring; 40 are plenty
POSITIONAL_ARGUMENTS = 7
ARGUMENTS = 10  # with those that can only be given by name


def modules() -> dict[str, Path]:
    """Return every file of the library by its name below dettoolkit: 'heads.ssdlite', 'cli'."""
    found = {}
    for folder, prefix in (
        (ROOT / "dettoolkit", ()),
        (ROOT / "heads", ("heads",)),
        (ROOT / "datasets", ("datasets",)),
    ):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if not prefix and parts[0] in ("heads", "datasets"):
                continue  # the links to the other two
            found[".".join(part for part in prefix + parts if part != "__init__")] = path
    return found


MODULES = modules()
each_module = pytest.mark.parametrize("name", sorted(MODULES))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of every module that is imported anywhere in the file, in functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            if name == "dettoolkit":
                yield from ((node.lineno, f"dettoolkit.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, name


def unit(name: str) -> str:
    return name.partition(".")[0]


def complaint(importer: str, target: str) -> str | None:
    """Return what is wrong with `importer` (a name below dettoolkit) importing `target`; None for nothing."""
    own, library = unit(importer), unit(target)
    if target.startswith("."):
        return "write the whole name; a relative import breaks between the top-level folders and their links"
    if library in NEVER:
        return f"no {library} here: {NEVER[library]}"
    if library != "dettoolkit":
        if own == "config" and library not in CONFIG_LIBRARIES | sys.stdlib_module_names:
            return f"config imports only {sorted(CONFIG_LIBRARIES)} and the standard library"
        if own not in ONLY_IN.get(library, {own}):
            return f"only {sorted(ONLY_IN[library])} may import {library}"
        return None
    other = unit(target.removeprefix("dettoolkit").removeprefix("."))
    if other == own or not other:
        return None
    if (importer, target) in LATE:
        return None
    if other not in LAYER_OF or LAYER_OF[other] >= LAYER_OF[own] or other in FORBIDDEN.get(own, ()):
        return f"{own} may not import {other}"
    if other in ROOMS and LAYER_OF[own] > LAYER_OF["tasks"]:
        return f"{own} may not import {other}: it asks the task's spec, which tasks.spec_of finds"
    return None


def test_everything_has_a_layer():
    units = {unit(name) for name in MODULES} - {""}
    assert units >= {
        "backbones",
        "cli",
        "config",
        "datasets",
        "heads",
        "tasks",
        "training",
        "weights",
        *ROOMS,
    }
    unplaced = units - LAYER_OF.keys()
    assert not unplaced, f"give {sorted(unplaced)} a line in LAYERS of this test and in docs/architecture.md"


@each_module
def test_imports_go_one_way(name):
    found = [
        f"{MODULES[name]}:{line}: import of {target}: {problem}"
        for line, target in imported(MODULES[name])
        if (problem := complaint(name, target))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("importer", "target"),
    [
        ("heads.ssdlite", "dettoolkit.datasets.coco"),
        ("datasets.coco", "dettoolkit.backbones"),
        ("config.recipe", "torch"),
        ("config.recipe", "dettoolkit.backbones.tables"),
        ("detection.task", "dettoolkit.tasks"),
        ("config.files", "dettoolkit.tasks"),
        ("detection.task", "dettoolkit.segmentation.task"),
        ("detection.task", "lightning.pytorch"),
        ("training.trainer", "dettoolkit.detection.task"),
        ("inference.predictor", "dettoolkit.segmentation.result"),
        ("loading", "dettoolkit.cli"),
        ("evaluation.coco", "albumentations"),
        ("datasets.coco", "datasets"),
        ("heads.ssdlite", ".raspp"),
        ("weights.load", "dettoolkit.run"),
        ("loading", "dettoolkit.unheard_of"),
    ],
)
def test_the_check_sees_what_is_wrong(importer, target):
    assert complaint(importer, target)


def test_the_check_sees_imports_in_functions_and_from_the_package(tmp_path):
    file = tmp_path / "file.py"
    file.write_text(
        "def f():\n    from dettoolkit import run, cli\n    import torch.nn\n    from . import x\n"
    )
    assert list(imported(file)) == [(2, "dettoolkit.run"), (2, "dettoolkit.cli"), (3, "torch.nn"), (4, ".")]


def test_the_command_line_starts_and_reads_recipes_without_torch(tmp_path):
    heavy = {"torch", "torchvision", "lightning", "cv2", "albumentations"}
    code = f"import sys, dettoolkit.cli, dettoolkit.config; print(*({heavy} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []


@each_module
def test_files_and_functions_stay_small(name):
    path = MODULES[name]
    text = path.read_text(encoding="utf-8")
    relative = path.relative_to(ROOT).as_posix()
    found = []
    if (lines := len(text.splitlines())) > LONGER_FILES.get(relative, FILE_LINES):
        found.append(f"{relative}: {lines} lines, at most {FILE_LINES}: one idea per file")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += [f"{relative}:{node.lineno}: {node.name}: {problem}" for problem in oversized(node)]
    assert not found, "\n".join(found)


def oversized(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    documented = ast.get_docstring(function) is not None
    docstring = function.body[0].end_lineno - function.body[0].lineno + 1 if documented else 0
    lines = function.end_lineno - function.lineno + 1 - docstring
    if lines > FUNCTION_LINES:
        yield f"{lines} lines without the docstring, at most {FUNCTION_LINES}"
    arguments = function.args
    positional = [a.arg for a in arguments.posonlyargs + arguments.args if a.arg not in ("self", "cls")]
    if len(positional) > POSITIONAL_ARGUMENTS:
        yield f"{len(positional)} positional arguments, at most {POSITIONAL_ARGUMENTS}"
    if len(positional) + len(arguments.kwonlyargs) > ARGUMENTS:
        yield f"{len(positional) + len(arguments.kwonlyargs)} arguments, at most {ARGUMENTS}"


def test_nothing_is_a_drawer_for_everything():
    drawers = {"utils", "util", "helpers", "misc", "common", "core"}
    assert not [name for name in MODULES if drawers & set(name.split("."))]


def test_modules_of_one_name_mean_the_same():
    named: dict[str, list[str]] = {}
    for name, path in MODULES.items():
        if path.name != "__init__.py":
            named.setdefault(path.stem, []).append(name)
    found = [names for stem, names in named.items() if len(places(stem, names)) > 1]
    assert not found, f"two ideas have one name: {found}"


def places(stem: str, names: list[str]) -> set[str]:
    """Return the places of modules of one name, of which one idea has one."""
    bases = {"run": "run", "spec": "spec"}  # what the tasks' own are made of
    return {
        "a task" if unit(name) in ROOMS or bases.get(stem) == name
        else "a format" if name.startswith("formats.") and name.count(".") == 2
        else name
        for name in names
    }  # fmt: skip


def test_the_check_sees_two_modules_of_one_name():
    assert places("boxes", ["drawing.boxes", "detection.boxes"]) == {"drawing.boxes", "a task"}
    assert places("open", ["formats.onnx.open", "formats.pt2.open"]) == {"a format"}
    assert places("run", ["run", "detection.run", "segmentation.run"]) == {"a task"}
