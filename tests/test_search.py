"""What a search is made of: spaces, networks, objectives and samplers. Optuna is in the extra `search`."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dettoolkit.backbones.own_blocks import recipe_with, table_of
from dettoolkit.backbones.tables import TABLES
from dettoolkit.config import RecipeError, load_recipe
from dettoolkit.config.space import CHOICES, load_space
from dettoolkit.search.networks import NetworkSpace, check_space
from dettoolkit.search.objectives import Objective

V3_SMALL = TABLES["mobilenet_v3_small"]
SPACE = """\
kernel: [3, 5]
width: [0.5, 1.0]
activation: [hardswish]
stages:
  - {stage: 1, fused: [true, false], kernel: [3]}
  - {stage: 3, depth: [-2, 0, 1], expansion: [3, 4.5], squeeze_excite: [false]}
"""


def space_of(text: str, folder: Path, *, table: Any = V3_SMALL) -> NetworkSpace:
    path = folder / "space.yaml"
    path.write_text(text)
    file = load_space(path)
    check_space(file, table)
    return NetworkSpace(table, file.space)


def test_a_space_has_its_choices_for_each_stage(tmp_path: Path) -> None:
    """V3-Small has stages of 16, 24, 40, 48 and 96 channels."""
    space = space_of(SPACE, tmp_path)
    assert space.parameters == {
        "stage1.width": (0.5, 1.0),
        "stage1.fused": (True, False),
        **{f"stage{n}.{name}": options for n in (2, 3, 4, 5)
           for name, options in (("kernel", (3, 5)), ("width", (0.5, 1.0)))},
        "stage3.expansion": (3.0, 4.5),
        "stage3.depth": (-2, 0, 1),
    }  # fmt: skip


def test_networks_by_hand(tmp_path: Path) -> None:
    space = space_of(SPACE, tmp_path)
    chosen = {name: options[0] for name, options in space.parameters.items()}
    table = space.network(chosen | {"stage3.depth": 1, "stage3.width": 1.0, "stage3.expansion": 4.5})
    assert [row.channels for row in table.rows] == [8, 16, 16, 40, 40, 40, 40, 24, 24, 48, 48, 48]
    assert [row.stride for row in table.rows] == [2, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1]
    assert [row.fused for row in table.rows] == [True] + [False] * 11
    assert [row.expansion for row in table.rows[3:7]] == [72, 184, 184, 184]  # 4.5 x 16, 4.5 x 40 in eights
    assert [row.squeeze for row in table.rows] == [True, False, False, *[False] * 4, *[True] * 5]
    assert {row.activation for row in table.rows} == {"hardswish"}
    assert table.rows[1].expansion == 40  # 72 / 16 of its 8 inputs, in eights
    assert len(space.network(chosen | {"stage3.depth": -2}).rows) == 9


def test_the_recipe_itself_is_in_its_space(tmp_path: Path) -> None:
    space = space_of("kernel: [3, 5]\nwidth: [0.5, 1.0]\n", tmp_path)
    own = {f"stage{n}.{name}": value for n, kernel in enumerate((3, 3, 5, 5, 5), 1)
           for name, value in (("kernel", kernel), ("width", 1.0))}  # fmt: skip
    rows = [replace(row, factor=None) for row in V3_SMALL.rows]
    assert list(space.network(own).rows) == rows


@pytest.mark.parametrize("name", sorted(TABLES))
def test_all_networks_of_a_space_are_recipes_that_build(name: str, tmp_path: Path) -> None:
    import torch

    from dettoolkit.tasks import spec_of

    recipe = load_recipe("imagenet_mnv3_small", [f"model.backbone.type={name}"]).recipe
    table = table_of(recipe.model.backbone)
    text = "kernel: [3, 7]\nwidth: [0.5, 1.25]\n"
    if name != "mobilenet_v1":  # whose blocks do not expand
        text += "expansion: [1, 4]\ndepth: [0, 1]\nsqueeze_excite: [true, false]\n"
    space, chance = space_of(text, tmp_path, table=table), random.Random(0)
    for _ in range(3):
        changed = recipe_with(recipe, space.network(space.random(chance)))
        with torch.device("meta"):
            network = spec_of(changed).build_network(changed, num_classes=3).eval()
        assert network(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, 3)


def test_the_smallest_network_has_the_fewest_of_everything(tmp_path: Path) -> None:
    space = space_of(SPACE, tmp_path)
    smallest = space.smallest()
    assert smallest["stage3.depth"] == -2
    assert smallest["stage1.fused"] is False
    assert set(smallest) == set(space.parameters)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernal: [3]\n", "space.yaml:1: kernal: unknown key; did you mean 'kernel'?"),
        ("kernel: [4]\n", "space.yaml:1: kernel[0]: expected 3, 5 or 7, got 4"),
        ("kernel: 3\n", "space.yaml:1: kernel: expected a list, got 3"),
        ("width: [0.5, 0.5]\n", "space.yaml:1: width: 0.5 is listed twice; keep one"),
        ("expansion: [0.5]\n", "space.yaml:1: expansion[0]: must be at least 1, got 0.5"),
        ("fused: [yes, no]\n", "space.yaml:1: fused[0]: expected true or false, got 'yes'"),
        ("stages:\n  - {kernel: [3]}\n", "space.yaml:2: stages[0].stage: missing; required"),
        ("stages:\n  - {stage: 6, kernel: [3, 5]}\n", "has 5 stages, got 6"),
        (
            "stages:\n  - {stage: 2}\n  - {stage: 2}\n",
            "space.yaml:3: stages[1].stage: stage 2 is listed twice",
        ),
        (
            "kernel: [3, 5]\nfused: [true, false]\n",
            "space.yaml:2: fused: stage 5 cannot be fused: heads read",
        ),
        (
            "stages:\n  - {stage: 5, fused: [true]}\n",
            "space.yaml:2: stages[0].fused: stage 5 cannot be fused",
        ),
        ("depth: [-1, 0]\n", "space.yaml:1: depth: stage 1 has 1 row: -1 leaves none"),
        ("kernel: [3]\n", "the space has one network only: list two options of something"),
        ("", "the file is empty"),
        ("kernel: !!python/object:os.system [3]\n", "is not allowed"),
    ],
)
def test_wrong_spaces(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        space_of(text, tmp_path)
    assert message in str(error.value)


def test_a_fused_stage_may_be_given_where_the_last_one_has_its_own(tmp_path: Path) -> None:
    space = space_of("fused: [true, false]\nstages:\n  - {stage: 5, fused: [false]}\n", tmp_path)
    assert "stage5.fused" not in space.parameters
    assert "stage4.fused" in space.parameters


def test_every_choice_has_bounds() -> None:
    from dettoolkit.config.space import Choices

    for name in CHOICES:
        limits = [getattr(each, "max_length", None) for each in Choices.model_fields[name].metadata]
        assert 16 in limits


def test_objectives_by_hand() -> None:
    soft = Objective(kind="mnasnet", target_ms=5.0)
    assert soft.values(0.4, 5.0) == (pytest.approx(0.4),)
    # MnasNet, section 3.1: about 5 % more accuracy for twice the latency are worth the same.
    assert soft.values(0.4 * 1.05, 10.0)[0] == pytest.approx(soft.values(0.4, 5.0)[0], rel=1e-3)
    hard = Objective(kind="mnasnet", target_ms=5.0, exponents=(0.0, -1.0))
    assert hard.values(0.4, 2.0) == (0.4,)
    assert hard.values(0.4, 10.0) == (pytest.approx(0.2),)
    absolute = Objective(kind="absolute", target_ms=5.0, weight=-0.07)
    assert absolute.values(0.4, 10.0) == (pytest.approx(0.33),)
    assert absolute.values(0.4, 2.5) == (pytest.approx(0.365),)
    assert Objective(kind="pareto", target_ms=5.0).values(0.4, 2.0) == (0.4, 2.0)


def test_bad_trials_are_given_up_and_the_first_ones_never() -> None:
    goal = Objective(kind="mnasnet", target_ms=5.0)
    others = [(0.1, 5.0), (0.2, 5.0), (0.3, 5.0), (0.4, 5.0)]
    assert goal.is_bad((0.24, 5.0), others)
    assert not goal.is_bad((0.26, 5.0), others)
    assert goal.is_bad((0.26, 50.0), others)
    assert not goal.is_bad((0.0, 5.0), others[:3])
    both = Objective(kind="pareto", target_ms=5.0)
    assert both.is_bad((0.05, 6.0), others)
    assert not both.is_bad((0.05, 4.0), others)  # it is faster


@pytest.mark.parametrize("sampler", ["random", "tpe", "evolution"])
def test_samplers_find_what_is_good(sampler: Any) -> None:
    """Of ten choices with four options each one is best; TPE and evolution come closer than random search."""
    optuna = pytest.importorskip("optuna")
    from dettoolkit.search.network_samplers import build_sampler

    parameters = {f"stage{number}.kernel": (0, 1, 2, 3) for number in range(10)}

    def best(name: Any, seed: int) -> float:
        study = optuna.create_study(direction="maximize")
        for number in range(80):
            study.sampler = build_sampler(name, parameters, seed=(seed, number))
            trial = study.ask()
            study.tell(trial, sum(trial.suggest_categorical(key, each) for key, each in parameters.items()))
        return float(study.best_value)

    found = sum(best(sampler, seed) for seed in range(3)) / 3
    assert found >= (27 if sampler == "evolution" else 22)


def test_evolution_changes_one_choice_of_a_good_parent() -> None:
    optuna = pytest.importorskip("optuna")
    from dettoolkit.search.network_samplers import build_sampler

    parameters = {"stage1.kernel": (3, 5), "stage2.kernel": (3, 5), "stage2.width": (0.5, 1.0, 1.5)}
    for directions in (["maximize"], ["maximize", "minimize"]):
        study = optuna.create_study(directions=directions)
        for number in range(30):
            before = [each.params for each in study.trials]
            study.sampler = build_sampler("evolution", parameters, seed=(7, number))
            trial = study.ask()
            chosen = {name: trial.suggest_categorical(name, each) for name, each in parameters.items()}
            if number >= 5:
                assert any(sum(chosen[key] != other[key] for key in chosen) == 1 for other in before)
            study.tell(trial, [sum(map(float, chosen.values()))] * len(directions))
