from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from dettoolkit.config import load_recipe
from dettoolkit.config.sections import Optim, Schedule
from dettoolkit.tasks import spec_of
from dettoolkit.training.optimizers import (
    RMSpropTF,
    build_optimizer,
    check_length,
    parameter_groups,
    rate_factor,
    restore_rates,
    scaled_rate,
)


def optim(**changes: object) -> Optim:
    return Optim(**{"lr": 0.1, **changes})  # type: ignore[arg-type]


def factors(schedule: Schedule, total: int, epoch: int = 1) -> list[float]:
    return [
        rate_factor(step, total_steps=total, epoch_steps=epoch, schedule=schedule)
        for step in range(total + 1)
    ]


# The learning rate


def test_warm_up_is_a_line_and_the_rest_half_a_cosine() -> None:
    # By hand: 1/4 + 3/4 * step/4 for four steps, then (1 + cos(pi * k/4)) / 2 for k = 0 … 4.
    half = math.sqrt(0.5)
    wanted = [0.25, 0.4375, 0.625, 0.8125, 1.0, (1 + half) / 2, 0.5, (1 - half) / 2, 0.0]
    found = factors(Schedule(warmup_steps=4, warmup_factor=0.25), 8)
    assert found == pytest.approx(wanted, abs=1e-12)


def test_final_factor_and_constant() -> None:
    found = factors(Schedule(final_factor=0.2), 4)
    assert found == pytest.approx([1.0, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.6, 0.31716, 0.2], abs=1e-5)
    assert factors(Schedule(type="constant", warmup_steps=2, warmup_factor=0.5), 4) == [0.5, 0.75, 1, 1, 1]
    assert (
        rate_factor(9, total_steps=4, epoch_steps=1, schedule=Schedule()) == 0.0
    )  # steps beyond the end stay at it


def test_poly_by_hand_and_as_torchs() -> None:
    # (1 - step/4) ** 0.9: exp(0.9 * ln 0.75) = exp(-0.258914), exp(-0.623832), exp(-1.247665).
    assert factors(Schedule(type="poly"), 4) == pytest.approx(
        [1.0, 0.771889, 0.535887, 0.287175, 0], abs=1e-6
    )
    # After a warm-up of two steps the rest is the whole: 0.1 + 0.9 * (1 - k/3) ** 2 for k = 0 … 3.
    schedule = Schedule(type="poly", power=2.0, warmup_steps=2, warmup_factor=0.5, final_factor=0.1)
    assert factors(schedule, 5) == pytest.approx([0.5, 0.75, 1.0, 0.5, 0.2, 0.1])
    assert rate_factor(9, total_steps=5, epoch_steps=1, schedule=schedule) == pytest.approx(
        0.1
    )  # beyond the end
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=90, power=0.9)
    for factor in factors(Schedule(type="poly", power=0.9), 90):
        assert factor == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()


def test_exponential_falls_in_stairs_of_epochs_or_smoothly() -> None:
    # A fifth off every two epochs of three steps: stairs of six.
    stairs = Schedule(type="exponential", decay=0.2, decay_epochs=2)
    found = factors(stairs, 13, epoch=3)
    assert found == pytest.approx([1.0] * 6 + [0.8] * 6 + [0.64] * 2)
    smooth = Schedule(type="exponential", decay=0.2, decay_epochs=2, staircase=False)
    assert factors(smooth, 13, epoch=3) == pytest.approx([0.8 ** (step / 6) for step in range(14)])
    # After a warm-up the stairs begin; final_factor is the least.
    late = Schedule(
        type="exponential", decay=0.5, decay_epochs=1, warmup_steps=2, warmup_factor=0.5, final_factor=0.3
    )
    assert factors(late, 6, epoch=2) == pytest.approx([0.5, 0.75, 1, 1, 0.5, 0.5, 0.3])
    # Epochs that are no whole number of stairs, where 0.1 x 3 is not 0.3 to a computer.
    tenths = Schedule(type="exponential", decay=0.5, decay_epochs=0.1)
    assert factors(tenths, 3, epoch=10) == pytest.approx([1, 0.5, 0.25, 0.125])


def test_exponential_is_torchs_step_and_exponential_schedule() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.973)  # by epochs
    ours = factors(Schedule(type="exponential", decay=0.027, decay_epochs=2), 100, epoch=10)
    for epoch in range(10):
        assert ours[10 * epoch] == ours[10 * epoch + 9] == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_deeplabs_recipe_has_deeplabs_rates() -> None:
    settings = load_recipe("lraspp_mnv3_large").recipe.optim
    found = [
        settings.lr * rate_factor(s, total_steps=90_000, epoch_steps=185, schedule=settings.schedule)
        for s in (0, 45_000)
    ]
    assert found == pytest.approx([0.01, 0.01 * 0.535887], rel=1e-5)  # DeepLab's 0.01 and power of 0.9


def test_paper_recipe_has_tensorflows_rates() -> None:
    settings = load_recipe("ssdlite_mnv3_large").recipe.optim
    total = 400_000
    steps = np.array([0, 1, 1000, 1999, 2000, 2001, 100_000, 201_000, 399_999, 400_000])
    found = [
        settings.lr * rate_factor(int(s), total_steps=total, epoch_steps=231, schedule=settings.schedule)
        for s in steps
    ]
    assert found[0] == pytest.approx(0.13333, abs=1e-5)
    assert found[4] == pytest.approx(0.4, abs=1e-12)
    assert found[-1] == pytest.approx(0.0, abs=1e-12)
    # object_detection/utils/learning_schedules.py, cosine_decay_with_warmup, with the published config's
    # learning_rate_base 0.4, warmup_learning_rate 0.13333, warmup_steps 2000, total_steps 400000.
    base, warm, warmup = 0.4, 0.13333, 2000
    cosine = 0.5 * base * (1 + np.cos(np.pi * (steps - warmup) / (total - warmup)))
    line = (base - warm) / warmup * steps + warm
    assert found == pytest.approx(np.where(steps < warmup, line, cosine), abs=3e-6)


def test_warm_up_longer_than_the_run_is_refused() -> None:
    for total in (100, 40):
        with pytest.raises(
            ValueError,
            match=rf"warmup_steps is 100, but the whole run has {total} steps: .*"
            rf"optim.schedule.warmup_steps={total // 20}\) or train longer",
        ):
            check_length(Schedule(warmup_steps=100), total)
    check_length(Schedule(warmup_steps=100), 101)
    check_length(Schedule(), 1)


def test_rate_scales_with_the_images_of_a_step() -> None:
    assert scaled_rate(optim(lr=0.4, lr_batch_size=512), 64) == pytest.approx(0.05)
    assert scaled_rate(optim(lr=0.4, lr_batch_size=512), 512) == pytest.approx(0.4)
    assert scaled_rate(optim(lr=0.4), 64) == 0.4


def test_schedule_of_another_length_holds_from_the_first_step() -> None:
    def schedule(total: int) -> torch.optim.lr_scheduler.LambdaLR:
        optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))]}], lr=0.1)
        factor = partial(rate_factor, total_steps=total, epoch_steps=1, schedule=Schedule())
        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    short = schedule(4)
    for _ in range(4):
        short.optimizer.step()
        short.step()
    longer = schedule(8)
    longer.load_state_dict(short.state_dict())
    longer.optimizer.load_state_dict(short.optimizer.state_dict())
    assert longer.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)  # the checkpoint's
    restore_rates(longer)
    assert longer.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


# Weight decay


def test_only_convolution_kernels_decay_and_every_parameter_is_trained_once() -> None:
    recipe = load_recipe("ssdlite_mnv3_large").recipe
    network = spec_of(recipe).build_network(recipe, num_classes=3)
    kernels = {id(layer.weight) for layer in network.modules() if isinstance(layer, nn.Conv2d)}
    decaying, others = parameter_groups(network, recipe.optim, lr=0.1)
    assert decaying["weight_decay"] == 4e-5
    assert others["weight_decay"] == 0
    assert {id(parameter) for parameter in decaying["params"]} == kernels
    everything = [id(parameter) for group in (decaying, others) for parameter in group["params"]]
    assert sorted(everything) == sorted(id(parameter) for parameter in network.parameters())


def test_decay_on_all_and_frozen_parameters() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    network[0].weight.requires_grad_(False)
    (group,) = parameter_groups(network, optim(weight_decay=0.1, decay_on="all"), lr=0.1)
    assert group["weight_decay"] == 0.1
    assert [id(p) for p in group["params"]] == [id(p) for p in (network[0].bias, *network[1].parameters())]
    assert parameter_groups(network, optim(weight_decay=0.1), lr=0.1)[0]["params"] == []


def test_the_backbone_has_a_learning_rate_of_its_own() -> None:
    network = nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 1), "heads": nn.Conv2d(4, 2, 1)})
    built = build_optimizer(network, optim(weight_decay=0.1, backbone_lr_factor=0.1), lr=0.3)
    found = {
        id(p): (group["lr"], group["weight_decay"]) for group in built.param_groups for p in group["params"]
    }
    wanted = {"backbone": pytest.approx(0.03), "heads": 0.3}
    for name, part in network.items():
        assert found[id(part.weight)] == (wanted[name], 0.1)
        assert found[id(part.bias)] == (wanted[name], 0.0)
    assert built.param_groups[0]["lr"] == 0.3  # the rate that is shown


def test_optimizers_take_the_recipes_settings() -> None:
    network = nn.Conv2d(3, 4, 1)
    sgd = build_optimizer(network, optim(momentum=0.8, weight_decay=0.1), lr=0.3)
    assert isinstance(sgd, torch.optim.SGD)
    assert [group["lr"] for group in sgd.param_groups] == [0.3, 0.3]
    assert [group["momentum"] for group in sgd.param_groups] == [0.8, 0.8]
    adamw = build_optimizer(network, optim(type="adamw", momentum=0.8), lr=0.3)
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["betas"] == (0.8, 0.999)
    for type_, kind, smoothing in (
        ("rmsprop", torch.optim.RMSprop, "alpha"),
        ("rmsprop_tf", RMSpropTF, "smoothing"),
    ):
        rmsprop = build_optimizer(network, optim(type=type_, momentum=0.8, smoothing=0.7, eps=0.01), lr=0.3)
        assert isinstance(rmsprop, kind)
        settings = rmsprop.param_groups[1]
        assert [settings[key] for key in ("lr", "momentum", smoothing, "eps")] == [0.3, 0.8, 0.7, 0.01]


# RMSProp


def test_tensorflows_rmsprop_by_hand() -> None:
    # Weight 1, gradients 2 and then -1, rates 0.1 and then 0.2, smoothing 0.9, momentum 0.5, eps 0.5.
    # square = 0.9 * 1 + 0.1 * 4 = 1.3;    velocity = 0.1 * 2 / sqrt(1.8) = 0.149071;  weight = 0.850929
    # square = 0.9 * 1.3 + 0.1 * 1 = 1.27; velocity = 0.5 * 0.149071 - 0.2 / sqrt(1.77) = -0.075794
    weight = nn.Parameter(torch.ones(1))
    optimizer = RMSpropTF([weight], lr=0.1, smoothing=0.9, momentum=0.5, eps=0.5)
    for gradient, rate, wanted in ((2.0, 0.1, 0.850929), (-1.0, 0.2, 0.926723)):
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        assert weight.item() == pytest.approx(wanted, abs=1e-6)
    # The weight decay is a share of the gradient: 0.1 * 1 makes it 2.1, and its square 4.41.
    decayed = nn.Parameter(torch.ones(1))
    decayed.grad = torch.tensor([2.0])
    RMSpropTF([decayed], lr=0.1, smoothing=0.9, momentum=0.5, eps=0.5, weight_decay=0.1).step()
    assert decayed.item() == pytest.approx(1 - 0.21 / math.sqrt(0.9 + 0.441 + 0.5), abs=1e-6)


def test_tensorflows_rmsprop_leaves_what_has_no_gradient_and_continues_from_its_state() -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    still = nn.Parameter(torch.ones(2))

    def optimizer_of(weights: list[nn.Parameter]) -> RMSpropTF:
        return RMSpropTF(weights, lr=0.1, smoothing=0.9, momentum=0.9, eps=1e-3)

    one = optimizer_of([*network.parameters(), still])

    def step(optimizer: RMSpropTF, layer: nn.Linear) -> None:
        optimizer.zero_grad()
        layer(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()

    step(one, network)
    copied = nn.Linear(3, 2)
    copied.load_state_dict(network.state_dict())
    other = optimizer_of([*copied.parameters(), nn.Parameter(torch.ones(2))])
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    step(one, network)
    step(other, copied)
    assert torch.equal(network.weight, copied.weight)
    assert torch.equal(still, torch.ones(2))
