"""What `pip install` gives: the wheel holds the three folders and the recipes, and nothing else."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

PAGE = (".html", ".css", ".js", ".svg", ".txt")  # of the browser demo
IMPORT_ALL = """
import pathlib, sys, dettoolkit, dettoolkit.config, dettoolkit.datasets, dettoolkit.heads
for module in (dettoolkit, dettoolkit.config, dettoolkit.datasets, dettoolkit.heads):
    print(pathlib.Path(module.__file__).parent)
for name in sys.argv[1:]:
    print(dettoolkit.config.find_recipe(name))
"""


def files_of_the_project(repository: Path) -> list[Path]:
    """Return what a commit of everything would hold, relative to the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if shutil.which("git") is None:
        pytest.skip("git is not installed, so what belongs to the project is not known")
    listed = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip(f"this is no git checkout, so what belongs to it is not known: {listed.stderr.strip()}")
    found = [Path(name) for name in listed.stdout.split("\0") if name]
    return [path for path in found if (repository / path).is_symlink() or (repository / path).is_file()]


def copy_of_the_project(repository: Path, target: Path, symlinks: bool = True) -> Path:
    """Copy the checkout; without symlinks as git does where there are none: a file that holds the path."""
    for path in files_of_the_project(repository):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if (repository / path).is_symlink() and not symlinks:
            (target / path).write_text(os.readlink(repository / path))
        else:
            shutil.copy2(repository / path, target / path, follow_symlinks=False)
    return target


def build(source: Path, target: Path, *what: str) -> Path:
    """Build as pip does, with this environment's setuptools; return the file."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), *what, str(source)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=target.parent)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Warning" not in ran.stderr, ran.stderr  # such as: package 'x' is absent from `packages`
    (built,) = target.iterdir()
    return built


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as opened:
        return sorted(name for name in opened.namelist() if ".dist-info/" not in name)


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build(copy_of_the_project(repository, folder / "source"), folder / "dist", "--wheel")


def test_the_wheel_holds_the_three_folders_and_the_recipes_and_nothing_else(repository, wheel):
    suffix = {
        "dettoolkit": (".py", *PAGE),
        "heads": (".py",),
        "datasets": (".py",),
        "configs": (".yaml",),
    }
    found = [
        path
        for path in files_of_the_project(repository)
        if path.suffix in suffix.get(path.parts[0], ()) or path.match("dettoolkit/paper/*.csv")
    ]
    wanted = {
        path.as_posix() if path.parts[0] == "dettoolkit" else f"dettoolkit/{path.as_posix()}"
        for path in found
    }
    wanted.add("dettoolkit/py.typed")
    assert names_in(wheel) == sorted(wanted)
    assert {
        "dettoolkit/cli/__init__.py",
        "dettoolkit/heads/ssdlite.py",
        "dettoolkit/datasets/coco.py",
        "dettoolkit/configs/ssdlite_mnv3_large.yaml",
    } <= wanted


def test_a_clone_without_symlinks_and_a_source_archive_give_the_same_wheel(repository, wheel, tmp_path):
    plain = copy_of_the_project(repository, tmp_path / "plain", symlinks=False)
    assert (plain / "dettoolkit" / "heads").read_text() == "../heads"
    assert names_in(build(plain, tmp_path / "from_plain", "--wheel")) == names_in(wheel)

    archive = build(plain, tmp_path / "archive", "--sdist")
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert names_in(build(unpacked, tmp_path / "from_archive", "--wheel")) == names_in(wheel)


def test_the_wheel_tells_its_licence_and_its_command(repository, wheel):
    with zipfile.ZipFile(wheel) as opened:
        texts = {
            name.partition(".dist-info/")[2]: name for name in opened.namelist() if ".dist-info/" in name
        }
        metadata = Parser().parsestr(opened.read(texts["METADATA"]).decode())
        assert opened.read(texts["licenses/LICENSE"]) == (repository / "LICENSE").read_bytes()
        assert "dettoolkit = dettoolkit.cli:main" in opened.read(texts["entry_points.txt"]).decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    licence = (repository / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in licence
    assert "APPENDIX: How to apply the Apache License to your work." in licence


def test_an_installed_wheel_is_imported_from_itself_and_finds_its_recipes(repository, wheel, tmp_path):
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(installed)
    recipes = sorted(path.name for path in (repository / "configs").glob("*.yaml"))
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", IMPORT_ALL, *recipes]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stderr
    package = installed / "dettoolkit"
    folders = [package, package / "config", package / "datasets", package / "heads"]
    assert ran.stdout.splitlines() == [
        str(path) for path in folders + [package / "configs" / name for name in recipes]
    ]


@pytest.mark.parametrize("name", ["heads", "datasets"])
def test_the_folders_refuse_to_be_top_level_packages(repository, name):
    command = [sys.executable, "-B", "-c", f"import {name}"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    assert ran.returncode == 1
    assert re.search(rf"ImportError: .*dettoolkit\.{name}", ran.stderr), ran.stderr


@pytest.mark.parametrize("name", ["heads", "datasets"])
def test_the_links_are_relative_and_lead_to_the_folders(repository, name):
    link = repository / "dettoolkit" / name
    if not link.is_symlink():
        pytest.skip("this clone has no symlinks (git's core.symlinks=false); the build does without them")
    assert os.readlink(link) == f"../{name}"


def test_every_folder_of_code_is_listed_as_a_package(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    kinds = (".py", ".yaml", *PAGE)
    folders = {path.parent for path in files_of_the_project(repository) if path.suffix in kinds}
    folders = {
        path
        for path in folders
        if path.parts[:1] in (("dettoolkit",), ("heads",), ("datasets",), ("configs",))
    }
    names = {
        ".".join(path.parts if path.parts[0] == "dettoolkit" else ("dettoolkit", *path.parts))
        for path in folders
    }
    assert names == set(project["tool"]["setuptools"]["packages"])


def test_requirements_are_those_that_may_be_there(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    required = [line for lines in project["optional-dependencies"].values() for line in lines] + project[
        "dependencies"
    ]
    names = [re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in required]
    assert {
        "torch",
        "torchvision",
        "lightning",
        "pycocotools",
        "albumentations",
        "pydantic",
        "ruamel.yaml",
    } <= set(names)
    # AGPL; the successor of albumentations, AGPL too; a package that would hide ours
    assert not {"ultralytics", "albumentationsx", "datasets"} & set(names)
    names = [name for name in names if name != "dettoolkit"]  # an extra that includes another
    assert len(names) == len(set(names) | {"setuptools"})
    (lightning,) = (line for line in required if line.startswith("lightning"))
    bound = re.fullmatch(r"lightning>=(\d+)\.(\d+)\.(\d+)", lightning)
    assert bound, f"{lightning!r}: the one form that this test reads is lightning>=x.y.z"
    assert tuple(map(int, bound.groups())) >= (2, 6, 4), "2.6.2 and 2.6.3 were compromised releases"


def test_every_library_that_is_imported_is_required(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[^\w.-]", line)[0].lower() for line in project["dependencies"]}
    onnx = {re.split(r"[^\w.-]", line)[0] for line in project["optional-dependencies"]["onnx"]} | {"onnx-ir"}
    called = {
        "cv2": "opencv-python-headless",
        "PIL": "pillow",
        "ruamel": "ruamel.yaml",
        "pydantic_core": "pydantic",
    }
    missing = {}
    for path in files_of_the_project(repository):
        if path.suffix == ".py" and path.parts[0] in ("dettoolkit", "heads", "datasets"):
            for library in imported_libraries(repository / path):
                name = called.get(library, library.replace("_", "-").lower())
                # What writes these is imported when that is asked for, after a check of its libraries.
                formats = {"onnx": onnx, "xnnpack": {"executorch", "torchao"}}
                optional = set().union(*(formats.get(part, ()) for part in path.with_suffix("").parts))
                if name not in required | optional:
                    missing[name] = path.as_posix()
    assert not missing, f"imported, and not in [project] dependencies: {missing}"


def imported_libraries(path: Path) -> set[str]:
    """Return the libraries that the file imports at its top, less the standard library and our own."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names - sys.stdlib_module_names - {"dettoolkit"}
