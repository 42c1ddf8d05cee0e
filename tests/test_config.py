"""Recipes: what loads, what is refused and in which words."""

import inspect
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from recipe_values import recipe_from_dict
from ruamel.yaml import YAML

from dettoolkit.config import (
    Recipe,
    RecipeError,
    ResolvedRecipe,
    find_recipe,
    load_recipe,
    recipe_to_dict,
    shipped_folder,
)
from dettoolkit.config.errors import one_edit
from dettoolkit.config.files import json_schema
from dettoolkit.config.recipe import any_recipe
from dettoolkit.config.schema import OWNED, key_paths, sections
from dettoolkit.config.sections import Section, TrainerExtra
from dettoolkit.config.yaml12 import scalar_value

SHIPPED = sorted(shipped_folder().glob("*.yaml"))
PAPER = "ssdlite_mnv3_large"

SMALL = """\
model:
  type: ssdlite
  backbone: {type: mobilenet_v3_small}
  loss:
    type: focal
    alpha: 0.7
data:
  type: coco
  root: data/coco
optim:
  lr: 0.1
trainer:
  max_epochs: 3
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a file below the working directory, so that errors name it shortly."""
    monkeypatch.chdir(tmp_path)

    def write_file(text: str | bytes, name: str = "r.yaml") -> str:
        Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
        return name

    return write_file


def refuse(recipe: str, extras: Sequence[str] = ()) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, extras)
    return str(caught.value).splitlines()


def small(extras: Sequence[str], write: Any) -> ResolvedRecipe:
    return load_recipe(write(SMALL), extras)


# what is shipped


def test_something_is_shipped() -> None:
    assert PAPER in {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_loads_and_round_trips(path: Path, write: Any) -> None:
    resolved = load_recipe(path.stem)
    assert resolved.name == path.stem
    for text in (resolved.to_yaml(), resolved.with_provenance()):
        again = load_recipe(write(text))
        assert again.recipe == resolved.recipe
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(resolved.recipe)))) == resolved.recipe


def keys_of(values: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from keys_of(value, (*above, key))


def typos(word: str) -> set[str]:
    made = set()
    for i, letter in enumerate(word):
        made.add(word[:i] + word[i + 1 :])
        made.add(word[:i] + ("q" if letter == "x" else "x") + word[i + 1 :])
        made.add(word[:i] + letter + word[i:])
        made.add(word[:i] + word[i + 1 : i + 2] + letter + word[i + 2 :])
    return made - {word, ""}


def misspell(values: dict[str, Any], path: tuple[str, ...], typo: str) -> dict[str, Any]:
    changed = {}
    for key, value in values.items():
        if key != path[0]:
            changed[key] = value
        elif len(path) == 1:
            changed[typo] = value
        else:
            changed[key] = misspell(value, path[1:], typo)
    return changed


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_one_letter_typo_is_refused(path: Path) -> None:
    values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    valid = {dotted for paths in key_paths(any_recipe()).values() for dotted in paths}
    tried = 0
    for keys in keys_of(values):
        for typo in typos(keys[-1]):
            dotted = ".".join((*keys[:-1], typo))
            if dotted in valid:
                continue
            tried += 1
            with pytest.raises(RecipeError) as caught:
                recipe_from_dict(misspell(values, keys, typo))
            line = next(line for line in str(caught.value).splitlines() if f" {dotted}: " in line)
            if len(keys[-1]) >= 4:
                assert f"'{keys[-1]}'" in line.partition("did you mean")[2], line
    assert tried > 500


def test_the_paper_recipe_has_the_facts_figures() -> None:
    recipe = load_recipe(PAPER).recipe
    assert recipe.model.backbone.type == "mobilenet_v3_large"
    assert recipe.model.backbone.tail == "reduced"
    assert recipe.model.loss.type == "focal"
    assert (recipe.model.loss.alpha, recipe.model.loss.gamma) == (0.75, 2.0)
    assert (recipe.optim.lr, recipe.optim.lr_batch_size, recipe.optim.weight_decay) == (0.4, 512, 4e-5)
    assert (recipe.trainer.max_steps, recipe.optim.schedule.warmup_steps) == (400_000, 2000)
    assert recipe.evaluation.score_threshold == 1e-8


# finding


def test_find_by_path_and_by_name(write: Any) -> None:
    mine = write(SMALL)
    assert find_recipe(mine) == Path(mine)
    for name in (PAPER, f"{PAPER}.yaml", f"configs/{PAPER}.yaml"):
        assert find_recipe(name) == shipped_folder() / f"{PAPER}.yaml"
    Path(PAPER).mkdir()  # a folder of that name does not hide the recipe
    assert find_recipe(PAPER) == shipped_folder() / f"{PAPER}.yaml"


def test_find_overlay_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs" / "overlays"
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text("optim: {lr: 1.0}\n")
    monkeypatch.setattr("dettoolkit.config.files.shipped_folder", lambda: tmp_path / "configs")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(SMALL)
    for name in ("tiny.yaml", "overlays/tiny.yaml", "configs/overlays/tiny.yaml"):
        assert load_recipe(str(recipe), [name]).recipe.optim.lr == 1.0
    with pytest.raises(RecipeError, match=r"overlay 'tinny.yaml' not found.*did you mean 'tiny'\?"):
        load_recipe(str(recipe), ["tinny.yaml"])
    assert refuse(str(recipe), ["tiny"]) == [
        "'tiny' is neither an overlay (a .yaml file) nor an override (key=value); did you mean 'tiny.yaml'?"
    ]


def test_not_found_and_folder(write: Any) -> None:
    with pytest.raises(RecipeError, match=rf"recipe 'ssdlite_mnv3_lage' not found.*'{PAPER}'.*shipped: "):
        find_recipe("ssdlite_mnv3_lage")
    with pytest.raises(RecipeError, match="not found"):
        find_recipe(f"elsewhere/{PAPER}.yaml")
    Path("sub").mkdir()
    assert refuse("sub") == ["recipe 'sub' is a folder; specify a YAML file"]


def test_found_in_an_installed_package(tmp_path: Path) -> None:
    package, source = tmp_path / "dettoolkit", shipped_folder()
    package.mkdir()
    shutil.copytree(Path(inspect.getfile(Recipe)).parent, package / "config")
    shutil.copytree(source, package / "configs")
    (package / "__init__.py").touch()
    code = f"import dettoolkit.config as c; print(c.__file__); print(c.load_recipe('{PAPER}').name)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=source.parent.parent,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines() == [str(package / "config" / "__init__.py"), PAPER]


# layers


def test_later_layers_win_and_merge(write: Any) -> None:
    overlay = write("optim: {lr: 0.2, momentum: 0.8}\nmodel: {head: {extra_channels: [8]}}\n", "o.yaml")
    optim = small([overlay, "optim.lr=0.3"], write).recipe.optim
    assert (optim.lr, optim.momentum) == (0.3, 0.8)
    recipe = small(["optim.lr=0.3", overlay], write).recipe
    assert recipe.optim.lr == 0.2
    assert recipe.model.head.extra_channels == [8]
    assert recipe.data.root == "data/coco"


def test_override_values_are_yaml_1_2(write: Any) -> None:
    extras = [
        "optim.lr=1e-3",
        "data.root=on",
        "model.anchors.aspect_ratios=[2, 3.5]",
        "trainer.ema={decay: 0.9}",
        "model.input_hw=[256, 512]",
        "trainer.extra.limit_train_batches=0.5",
        "data.train.annotations=a/b.yaml",
        "model.weights=torchvision:COCO_V1",
    ]
    recipe = small(extras, write).recipe
    assert recipe.optim.lr == 0.001
    assert recipe.data.root == "on"
    assert recipe.model.anchors.aspect_ratios == [2.0, 3.5]
    assert recipe.trainer.ema is not None
    assert recipe.trainer.ema.decay == 0.9
    assert recipe.model.input_hw == (256, 512)
    assert recipe.trainer.extra.model_dump() == {"limit_train_batches": 0.5}
    assert recipe.data.train.annotations == "a/b.yaml"
    assert recipe.data.train.images == "train2017"  # the rest of a section's default stays
    assert recipe.model.weights == "torchvision:COCO_V1"


def test_null_unsets(write: Any) -> None:
    text = SMALL + "  ema: {decay: 0.5}\n  extra: {limit_train_batches: 2}\nevaluation: {figures: 3}\n"
    overlay = write("data: {batch_size: 7, workers: 1}\n", "o.yaml")
    extras = [
        overlay,
        "data.batch_size=null",
        "trainer.max_epochs=null",
        "trainer.max_steps=9",
        "trainer.ema=null",
        "trainer.extra.limit_train_batches=null",
        "evaluation=null",
    ]
    resolved = load_recipe(write(text), extras)
    recipe = resolved.recipe
    assert (recipe.data.batch_size, recipe.data.workers) == (32, 1)
    assert (recipe.trainer.max_epochs, recipe.trainer.max_steps) == (None, 9)
    assert recipe.trainer.ema is None
    assert recipe.trainer.extra.model_dump() == {}
    assert recipe.evaluation.figures == 16
    unset = "default (unset by override 1 'data.batch_size=null')"
    assert resolved.provenance["data.batch_size"] == unset
    assert resolved.provenance["evaluation.figures"] == "default (unset by override 6 'evaluation=null')"
    assert resolved.provenance["trainer.max_epochs"] == "override 2 'trainer.max_epochs=null'"


def test_null_in_the_recipe_itself_is_a_value(write: Any) -> None:
    lines = refuse(write(SMALL.replace("lr: 0.1", "lr: 0.1\n  momentum: null")))
    assert lines == ["r.yaml:12: optim.momentum: expected a number, got nothing (null)"]


def test_what_has_no_default_cannot_be_unset(write: Any) -> None:
    assert refuse(write(SMALL), ["optim.lr=null", "model.loss=null"]) == [
        "override 1 'optim.lr=null': optim.lr: cannot be unset: it has no default",
        "override 2 'model.loss=null': model.loss: cannot be unset: it has no default",
    ]


def test_switching_the_type_drops_what_earlier_layers_set_for_the_old_one(write: Any) -> None:
    overlay = write("model: {loss: {type: multibox}}\n", "o.yaml")
    for extras in (["model.loss.type=multibox"], [overlay], ["model.loss.gamma=1", overlay]):
        loss = small(extras, write).recipe.model.loss
        assert loss.type == "multibox"
        assert loss.negatives_per_positive == 3.0


@pytest.mark.parametrize(
    "extras",
    [
        ["model.loss.type=multibox", "model.loss.alpha=1"],
        ["model.loss={type: multibox, alpha: 1}"],
        ["model.loss.type=multibox", "model.loss.alpha=1", "model.loss.type=multibox"],
    ],
)
def test_switching_the_type_keeps_later_mistakes(extras: list[str], write: Any) -> None:
    [line] = refuse(write(SMALL), extras)
    assert line.endswith("model.loss.alpha: a key of type 'focal' or 'varifocal', not of 'multibox'")


@pytest.mark.parametrize("matcher", ["{iou_threshold: 0.4}", "{type: max_iou, iou_threshold: 0.4}", "{}"])
def test_a_default_type_is_switched_like_any_other(matcher: str, write: Any) -> None:
    """A recipe that was written before there was a choice names no type."""
    recipe = write(SMALL.replace("  loss:", f"  matcher: {matcher}\n  loss:"))
    assert load_recipe(recipe).recipe.model.matcher.type == "max_iou"
    assert load_recipe(recipe, ["model.matcher.type=atss"]).recipe.model.matcher.type == "atss"
    [line] = refuse(recipe, ["model.matcher={type: atss, iou_threshold: 1}"])
    assert line.endswith("model.matcher.iou_threshold: a key of type 'max_iou', not of 'atss'")


def test_the_same_type_again_hides_no_mistake(write: Any) -> None:
    wrong = SMALL.replace("alpha: 0.7", "negatives_per_positive: 2")
    assert refuse(write(wrong), ["model.loss.type=focal"]) == [
        "r.yaml:6: model.loss.negatives_per_positive: a key of type 'multibox', not of 'focal'"
    ]


def test_provenance(write: Any) -> None:
    overlay = write("# comment\noptim:\n  momentum: 0.8\n", "o.yaml")
    resolved = small([overlay, "model.loss.alpha=0.5", "trainer.ema={decay: 0.5}"], write)
    origin = resolved.provenance
    assert origin["data.root"] == "r.yaml:9"
    assert origin["optim.momentum"] == "o.yaml:3"
    assert origin["model.loss.alpha"] == "override 1 'model.loss.alpha=0.5'"
    assert origin["trainer.ema.decay"] == "override 2 'trainer.ema={decay: 0.5}'"
    assert origin["model.loss.gamma"] == "default"
    comments = [line for line in resolved.with_provenance().splitlines() if "#" in line]
    assert len({line.index("# ") for line in comments}) == 1  # aligned
    assert len(comments) == len(origin)
    assert "#" not in resolved.to_yaml()


# what is refused


def test_three_mistakes_are_all_reported(write: Any) -> None:
    text = SMALL.replace("loss:", "lss:").replace("lr: 0.1", "lr: fast").replace("root:", "rot:")
    assert refuse(write(text)) == [
        "r.yaml:4: model.lss: unknown key; did you mean 'loss'?",
        "r.yaml:9: data.rot: unknown key; did you mean 'root'?",
        "r.yaml:11: optim.lr: expected a number, got 'fast'",
    ]


def test_mistakes_below_a_misspelled_key_and_type_are_reported_too(write: Any) -> None:
    text = SMALL.replace("model:", "modle:").replace("focal", "focl").replace("alpha: 0.7", "alpha: 7")
    assert refuse(write(text)) == [
        "r.yaml:1: modle: unknown key; did you mean 'model'?",
        "r.yaml:5: model.loss.type: expected 'focal', 'multibox', 'varifocal' or 'quality_focal', got "
        "'focl'; did you mean 'focal'?",
        "r.yaml:6: model.loss.alpha: must be at most 1, got 7",
    ]


def test_a_contradiction_beside_a_wrong_value_is_reported(write: Any) -> None:
    lines = refuse(write(SMALL + "  max_steps: 5\n  precision: 32\n"))
    assert lines[0].startswith("r.yaml:12: trainer: set exactly one of max_epochs and max_steps")
    assert lines[1:] == [
        "r.yaml:15: trainer.precision: expected '32-true', '16-mixed' or 'bf16-mixed', got 32"
    ]


def test_a_wrong_value_makes_no_contradiction(write: Any) -> None:
    assert refuse(write(SMALL.replace("max_epochs: 3", "max_epochs: three"))) == [
        "r.yaml:13: trainer.max_epochs: expected an integer, got 'three'"
    ]


def test_errors_of_all_layers_in_order(write: Any) -> None:
    overlay = write("data:\n  bath_size: 3\n", "o.yaml")
    lines = refuse(write(SMALL.replace("lr:", "lrr:")), ["optim.typ=sgd", overlay, "x", "none.yaml", "a.b=["])
    assert lines == [
        "r.yaml:11: optim.lrr: unknown key; did you mean 'lr'?",
        "override 1 'optim.typ=sgd': optim.typ: unknown key; did you mean 'type'?",
        "o.yaml:2: data.bath_size: unknown key; did you mean 'batch_size'?",
        "'x' is neither an overlay (a .yaml file) nor an override (key=value)",
        lines[4],
        "override 2 'a.b=[': a.b: not valid YAML: expected the node content, but found the end, column 2 "
        "(while parsing a flow node that starts at line 1) (quote the value?)",
    ]
    assert lines[4].startswith("overlay 'none.yaml' not found")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "optim.lrr: unknown key; did you mean 'lr'?"),
        ("model.anchors.mix_scale=1", "unknown key; did you mean 'min_scale' or 'max_scale'?"),
        ("backbone.width=2", "backbone: unknown key here; did you mean 'model.backbone'?"),
        ("trainer.batch_size=2", "unknown key here; did you mean 'data.batch_size'?"),
        ("trainer.limit_train_batches=2", "did you mean 'trainer.extra.limit_train_batches'?"),
        ("trainer.accumulate_grad_batches=2", "did you mean 'trainer.accumulate'?"),
        ("model.loss.zzz=2", "unknown key; model.loss has type, box, box_weight, alpha and gamma"),
        ("evaluation.picture_threshold=0.5", "unknown key; did you mean 'threshold'?"),
        ("zzz=2", "zzz: unknown key; the recipe has model, data, optim, trainer, evaluation and distill"),
        ("data.batch_size=abc", "data.batch_size: expected an integer, got 'abc'"),
        ("data.batch_size=1.0", "expected an integer, got 1.0"),
        ("data.batch_size=true", "expected an integer, got true"),
        ("data.batch_size='4'", "expected an integer, got '4' (remove the quotes)"),
        ("optim.lr=0", "optim.lr: must be above 0, got 0"),
        ("data.workers=-1", "must be at least 0, got -1"),
        ("optim.lr=.inf", "expected a finite number"),
        ("data.root=3", "data.root: expected text, got 3"),
        ("data.drop_empty=on", "expected true or false, got 'on' (YAML 1.2 has only true and false)"),
        (
            "model.loss.type=fcal",
            "expected 'focal', 'multibox', 'varifocal' or 'quality_focal', got 'fcal'; did you mean 'focal'?",
        ),
        (
            "model.loss.type=7",
            "model.loss.type: expected 'focal', 'multibox', 'varifocal' or 'quality_focal', got 7",
        ),
        ("model.loss=7", "model.loss: expected a mapping (key: value lines), got 7"),
        ("model.loss=[7]", "model.loss: expected a mapping (key: value lines), got the list [7]"),
        (
            "optim.type=adam",
            "expected 'sgd', 'adamw', 'rmsprop' or 'rmsprop_tf', got 'adam'; did you mean 'adamw'?",
        ),
        ("model.backbone.output_stride=8", "expected 16 or 32, got 8"),
        ("trainer.precision=bf16", "got 'bf16'; did you mean 'bf16-mixed'?"),
        ("model.input_hw=[320]", "model.input_hw: expected 2 values, got 1"),
        ("model.input_hw=[320, 16]", "model.input_hw[1]: must be at least 32, got 16"),
        ("data.mean=[1, 2, 3, 4]", "data.mean: expected 3 values, got 4"),
        ("data.mean=[1]", "data.mean: expected 3 values, got 1"),
        ("data.mean=0.5", "data.mean: expected a list, got 0.5"),
        ("model.head.extra_channels=[]", "expected at least 1 value, got 0"),
        ("model.head.extra_channels=[8, x]", "model.head.extra_channels[1]: expected an integer, got 'x'"),
        ("model.head.extra_channels.0=8", "model.head.extra_channels: expected a list, got a mapping"),
        ("trainer.devices=two", "trainer.devices: expected an integer, 'auto' or a list, got 'two'"),
        ("trainer.devices=0", "trainer.devices: must be above 0, got 0"),
        ("trainer.devices=[0, a]", "trainer.devices[1]: expected an integer, got 'a'"),
        ("trainer.ema=3", "trainer.ema: expected a mapping (key: value lines), got 3"),
        ("trainer.early_stopping={}", "trainer.early_stopping.patience: missing; required: Validations"),
        ("data.std=[0, 1, 1]", "data.std[0]: must be at least 0.001, got 0"),
        ("model.anchors.min_scale=0.96", "model.anchors: min_scale 0.96 is not below max_scale 0.95"),
        ("optim.lr=", "no value; write null to unset the key"),
        ("data.root=#1", "no value: in YAML a # starts a comment; quote the value"),
        ("optim..lr=1", "'optim..lr' is not a dotted key such as optim.lr"),
        ("op tim=1", "'op tim' is not a dotted key such as optim.lr"),
        ("optim.lr=a: b: c", "not valid YAML: mapping values are not allowed here"),
        ("data.augment=storng", "or a mapping (key: value lines), got 'storng'; did you mean 'strong'?"),
        ("optim.lr=!!python/name:os.system", "the tag '!!python/name:os.system' is not allowed"),
    ],
)
def test_messages(override: str, message: str, write: Any) -> None:
    [line] = refuse(write(SMALL), [override])
    assert message in line
    assert override in line or line.startswith("r.yaml:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml:1: the file is empty"),
        ("# only a comment\n", "r.yaml:1: the file is empty"),
        ("- 1\n", "r.yaml:1: expected a mapping (key: value lines) at the top, got a list"),
        ("text\n", "r.yaml:1: expected a mapping (key: value lines) at the top, got a single value"),
        (b"a: 1\nb: \xe9\n", "r.yaml:2: not UTF-8 (byte 0xe9); save the file as UTF-8"),
        ("model:\n\ttype: ssdlite\n", "r.yaml:2: not valid YAML: a tab in the indentation"),
        ("model:\n  a: [1,\n", "r.yaml:3: not valid YAML: expected the node content, but found the end"),
        ("model: a: b\n", "r.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("model:\n  a: \x00\n", "r.yaml:2: not valid YAML: the character U+0000 is not allowed"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: a second YAML document"),
        ("a: 1\nb: *c\n", "r.yaml:2: the alias '*c' has no anchor '&c' before it"),
        ("a: &c [*c]\n", "r.yaml:1: a[0]"),
        ("a: &c [*c]\n", "nested more than 40 deep"),
        ("a: " + "[" * 99 + "]" * 99, "nested more than 40 deep"),
        ("a: " + "[" * 2000, "nested more than 40 deep"),
        ("a: [" + "1," * 100_000 + "]", "r.yaml:1: more than 200000 characters"),
        ("# comment\n%YAML 1.3\n---\na: 1\n", "r.yaml:2: only YAML 1.2 is read; remove the %YAML line"),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{n}: &{n} [{', '.join([f'*{m}'] * 10)}]\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True)
        ), "more than 20000 values"),
    ],
)  # fmt: skip
def test_unreadable_files(text: str | bytes, message: str, write: Any) -> None:
    [line] = refuse(write(text))
    assert message in line


def test_missing_keys_point_at_their_mapping(write: Any) -> None:
    text = SMALL.replace("  lr: 0.1\n", "  momentum: 0.5\n").replace("    type: focal\n", "")
    assert refuse(write(text)) == [
        "r.yaml:4: model.loss.type: missing; choose 'focal', 'multibox', 'varifocal' or 'quality_focal'",
        "r.yaml:9: optim.lr: missing; required: Learning rate for lr_batch_size images per step",
    ]
    assert refuse(write("\nmodel:\n")) == [
        "r.yaml:2: data: missing; required",
        "r.yaml:2: model: expected a mapping (key: value lines), got nothing (null)",
        "r.yaml:2: optim: missing; required: The optimizer and its schedule",
        "r.yaml:2: trainer: missing; required: How long, where and how the run trains",
    ]


def test_duplicate_keys_name_both_lines(write: Any) -> None:
    text = SMALL.replace("lr: 0.1", "lr: 0.1\n  momentum: 0.5\n  lr: 0.2\n  bogus: 1")
    lines = refuse(write(text))
    assert lines[0] == "r.yaml:13: optim.lr: duplicate key: it is set already on line 11; keep one of the two"
    assert lines[1].startswith("r.yaml:14: optim.bogus: unknown key")
    assert refuse(write(SMALL), ["optim.lr=2", "data={root: a, root: b}"]) == [
        "override 2 'data={root: a, root: b}': data.root: duplicate key: it is set twice in this override; "
        "keep one of the two"
    ]


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch pwned']",
        "!!python/object/new:os.system ['touch pwned']",
        "!!python/name:os.system",
        "!custom {a: 1}",
    ],
)
def test_tags_run_nothing(value: str, write: Any) -> None:
    tag = value.split()[0]
    expected = f"the tag '{tag}' is not allowed: a recipe is plain data"
    assert refuse(write(SMALL.replace("data/coco", value))) == [f"r.yaml:9: data.root: {expected}"]
    [line] = refuse(write(SMALL), [f"data.root={value}"])
    assert line.endswith(expected)
    assert not Path("pwned").exists()


def test_keys_are_plain_text(write: Any) -> None:
    assert refuse(write(SMALL + "? [a]\n: 1\n")) == ["r.yaml:14: a key must be plain text"]


def test_merge_keys_and_yaml_1_1_are_refused(write: Any) -> None:
    assert "r.yaml:14: <<: merge keys are not YAML 1.2; write the keys out" in refuse(
        write(SMALL + "<<: {evaluation: {figures: 3}}\n")
    )
    assert refuse(write("%YAML 1.1\n---\n" + SMALL)) == [
        "r.yaml:1: only YAML 1.2 is read; remove the %YAML line"
    ]
    assert load_recipe(write("%YAML 1.2\n---\n" + SMALL)).recipe.optim.lr == 0.1


def test_aliases_work(write: Any) -> None:
    text = SMALL.replace("root:", "train: &split {images: i, annotations: a}\n  val: *split\n  root:")
    data = load_recipe(write(text)).recipe.data
    assert data.train == data.val
    # changing one does not change the other
    data = load_recipe("r.yaml", ["data.val.images=j"]).recipe.data
    assert (data.train.images, data.val.images) == ("i", "j")
    again = text.replace("root:", "root: &split")  # an anchor may be set again
    assert load_recipe(write(again)).recipe.data.root == "data/coco"


# lightning's own arguments


def test_trainer_arguments_are_lightnings() -> None:
    trainer = pytest.importorskip("lightning.pytorch").Trainer
    arguments = set(inspect.signature(trainer.__init__).parameters) - {"self"}
    assert not set(OWNED) & set(TrainerExtra.model_fields)
    assert set(OWNED) | set(TrainerExtra.model_fields) <= arguments


def test_trainer_extra_is_checked(write: Any) -> None:
    extra = small(["trainer.extra.detect_anomaly=true"], write).recipe.trainer.extra
    assert extra.model_dump() == {"detect_anomaly": True}
    override = "trainer.extra={limit_train_batchs: 2, logger: true, max_epochs: 3}"
    assert refuse(write(SMALL), [override]) == [
        f"override 1 '{override}': trainer.extra.{line}"
        for line in (
            "limit_train_batchs: unknown key; did you mean 'limit_train_batches'?",
            "logger: cannot be set here: set trainer.loggers",
            "max_epochs: cannot be set here: set trainer.max_epochs",
        )
    ]


def test_owned_arguments_name_fields_that_exist() -> None:
    fields = {path for paths in key_paths(any_recipe()).values() for path in paths}
    for text in OWNED.values():
        for word in text.split():
            assert not word.startswith("trainer.") or word in fields


# YAML and dictionaries


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E3", 1000.0), (".5", 0.5), ("-.5", -0.5), ("1.", 1.0), ("+12", 12), ("017", 17),
        ("0o17", 15), ("0xFf", 255), ("on", "on"), ("yes", "yes"), ("True", True), ("FALSE", False),
        ("~", None), ("", None), ("Null", None), ("nULL", "nULL"), ("tRUE", "tRUE"), ("1_000", "1_000"),
        ("12:30:00", "12:30:00"), ("2020-01-01", "2020-01-01"), ("-.INF", float("-inf")), (".", "."),
        ("e3", "e3"), ("0b1", "0b1"), ("-0o7", "-0o7"), ("1e", "1e"), ("= ", "= "),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    resolved = scalar_value(text)
    assert resolved == value
    assert type(resolved) is type(value)


AWKWARD = (
    "on", "No", "y", "null", "~", "~/data", "", " ", "1e-3", ".5", "1_000", "0x1F", "12:30", "2020-01-01",
    "32-true", "a: b", "a #b", "#a", "- a", "-", "[a]", "{a", "'", '"', "a\\b", "C:\\data", "a\nb\n", "\ttab",
    "é", "日本", "\u2028\u0085\ufeff", "\U0001f600", "%a", "@a", "!a", "&a", "*a", "|", "a,b", "=", "<<", ".",
    "..", "---", "...", "true", "True", "inf", ".inf", "x" * 300,
)  # fmt: skip


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_survives(text: str, write: Any) -> None:
    values = recipe_to_dict(load_recipe("lraspp_scenes").recipe)
    values["data"]["root"] = text or "x"
    values["model"]["loss"]["class_weights"] = {text: 1e-6}
    values["data"]["classes"] = [{"name": text or "x", "ids": [1], "color": None}]
    resolved = ResolvedRecipe("x", recipe_from_dict(values), {})
    written = resolved.to_yaml()
    assert load_recipe(write(written)).recipe == resolved.recipe
    assert YAML(typ="safe", pure=True).load(written) == values  # another reader of 1.2
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(written) == values  # and one of 1.1


def test_recipe_to_dict_is_plain(write: Any) -> None:
    def check(value: object) -> None:
        assert type(value) in (dict, list, str, int, float, bool, type(None))
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(item)

    check(recipe_to_dict(small([], write).recipe))


def test_json_schema() -> None:
    schema = json.loads(json_schema())
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["$schema"].startswith("https://json-schema.org/")


def test_every_key_has_a_sentence() -> None:
    def without(section: type[Section], path: str) -> Iterator[str]:
        for name, field in section.model_fields.items():
            if not field.description and not sections(field.annotation) and name != "type":
                yield f"{path}.{name}"
            for nested in sections(field.annotation):
                yield from without(nested, f"{path}.{name}")

    assert list(without(any_recipe(), "")) == []


def edit_distance_by_search(one: str, two: str) -> int:
    """Breadth-first over all edits; words of a and b only."""
    reached, distance = {one}, 0
    while two not in reached:
        distance += 1
        near = set()
        for word in reached:
            for i in range(len(word) + 1):
                near |= {word[:i] + c + word[i:] for c in "ab"} | {
                    word[:i] + c + word[i + 1 :] for c in ("a", "b", "")
                }
                near.add(word[:i] + word[i : i + 2][::-1] + word[i + 2 :])
        reached |= near
    return distance


def test_one_edit() -> None:
    words = ["", "a", "b", "ab", "ba", "aab", "bab", "abb"]
    for one in words:
        for two in words:
            assert one_edit(one, two) == (edit_distance_by_search(one, two) <= 1), (one, two)
    assert not one_edit("min_scale", "max_scale")


# speed


def test_a_wrong_recipe_is_refused_without_heavy_imports(write: Any, record_property: Any) -> None:
    name = write(SMALL.replace("max_epochs", "max_epoch") + "  extra: {limit_train_batchs: 1}\n")
    code = (
        "import sys\n"
        "from dettoolkit.config import RecipeError, load_recipe\n"
        "try:\n"
        f"    load_recipe({name!r})\n"
        "except RecipeError as error:\n"
        "    print(error)\n"
        "print([m for m in ('torch', 'lightning', 'numpy', 'torchvision') if m in sys.modules])\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    record_property("seconds", round(time.perf_counter() - start, 2))  # under 1 on a machine that is not busy
    assert done.stdout.splitlines() == [
        "r.yaml:13: trainer.max_epoch: unknown key; did you mean 'max_epochs'?",
        "r.yaml:14: trainer.extra.limit_train_batchs: unknown key; did you mean 'limit_train_batches'?",
        "[]",
    ]
