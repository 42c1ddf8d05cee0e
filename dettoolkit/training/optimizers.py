"""The recipe's optimizer: which rate at which step, which parameter decays, and RMSProp as TensorFlow's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from dettoolkit.config import Recipe
from dettoolkit.config.sections import Optim, Schedule


def count_steps(recipe: Recipe, images: int, trainer: Trainer) -> tuple[int, int]:
    """Count the optimizer steps of an epoch and of the whole run, for a training set of `images`."""
    section, batch_size = recipe.trainer, recipe.data.batch_size
    per_process = -(-images // trainer.world_size)
    if 2 <= per_process < batch_size:  # of fewer, the loader says more
        raise ValueError(
            f"data.batch_size is {batch_size}, but there are {images} training images for "
            f"{trainer.world_size} process(es); the learning rate is meant for full batches: set "
            f"data.batch_size={per_process} or less"
        )
    batches, limit = max(1, per_process // batch_size), trainer.limit_train_batches
    used = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if used < 1:
        raise ValueError(
            f"trainer.extra.limit_train_batches={limit:g} of {batches} batches is less than one: set it to "
            f"at least 1/{batches}, or to a number of batches such as 1"
        )
    epoch = -(-used // section.accumulate)  # the last step may have fewer batches
    total = section.max_steps or epoch * (section.max_epochs or 0)
    check_length(recipe.optim.schedule, total)
    return epoch, total


def check_length(schedule: Schedule, total_steps: int) -> None:
    """Refuse a warm-up that would fill the run, by a ValueError."""
    if schedule.warmup_steps >= total_steps:
        raise ValueError(
            f"optim.schedule.warmup_steps is {schedule.warmup_steps}, but the whole run has {total_steps} "
            "steps: the learning rate would never reach its full value. Set a shorter warm-up (for example "
            f"optim.schedule.warmup_steps={max(0, total_steps // 20)}) or train longer"
        )


def rate_factor(step: int, *, total_steps: int, epoch_steps: int, schedule: Schedule) -> float:
    """Return the fraction of the full learning rate at `step`, counted from 0.

    A line from warmup_factor to 1 over the warm-up. Then from 1 to final_factor at the end of the run: half a
    cosine, as TensorFlow's `cosine_decay_with_warmup`, or (1 - progress) ** power, DeepLab's poly policy
    (arXiv 1606.00915, section 4.1.1). Or (1 - decay) ** (epochs / decay_epochs), an epoch being `epoch_steps`
    steps after the warm-up: TensorFlow's `exponential_decay`.
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return schedule.warmup_factor + (1 - schedule.warmup_factor) * step / warmup
    if schedule.type == "constant":
        return 1.0
    if schedule.type == "exponential":
        cuts = (step - warmup) / (schedule.decay_epochs * epoch_steps)
        # 1e-9: 0.3 / 0.1 is 2.9999999999999996
        cuts = math.floor(cuts + 1e-9) if schedule.staircase else cuts
        return max(schedule.final_factor, math.pow(1 - schedule.decay, cuts))
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    if schedule.type == "poly":
        fraction = math.pow(1 - progress, schedule.power)
    else:
        fraction = 0.5 * (1 + math.cos(math.pi * progress))
    return schedule.final_factor + (1 - schedule.final_factor) * fraction


def restore_rates(scheduler: LambdaLR) -> None:
    """Set the optimizer's rates to the schedule's at its present step.

    A checkpoint carries the rates of the run that wrote it; when the length has changed since then, the first
    step of the resumed run would still take the old one.
    """
    groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, rate, factor in groups:
        group["lr"] = rate * factor(scheduler.last_epoch)


def scaled_rate(optim: Optim, images_per_step: int) -> float:
    """Scale the recipe's rate linearly to the images of one optimizer step (arXiv 1706.02677)."""
    return optim.lr if optim.lr_batch_size is None else optim.lr * images_per_step / optim.lr_batch_size


def parameter_groups(network: nn.Module, optim: Optim, *, lr: float) -> list[dict[str, Any]]:
    """Split parameters by weight decay; the backbone's apart if it has a learning rate of its own."""
    named = [(name, each) for name, each in network.named_parameters() if each.requires_grad]
    if optim.backbone_lr_factor == 1:
        return _by_decay([each for _, each in named], optim, lr=lr)
    parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, each in named:
        parts["backbone" in name.split(".")].append(each)
    others, backbone = parts
    return _by_decay(others, optim, lr=lr) + _by_decay(backbone, optim, lr=lr * optim.backbone_lr_factor)


def _by_decay(trained: list[nn.Parameter], optim: Optim, *, lr: float) -> list[dict[str, Any]]:
    """Split parameters by weight decay: kernels (two dimensions or more) decay, BN and biases do not."""
    if optim.decay_on == "all":
        return [{"params": trained, "weight_decay": optim.weight_decay, "lr": lr}]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": optim.weight_decay, "lr": lr},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "lr": lr},
    ]


def build_optimizer(network: nn.Module, optim: Optim, *, lr: float) -> torch.optim.Optimizer:
    """Build the recipe's optimizer at learning rate `lr`."""
    groups, momentum, eps = parameter_groups(network, optim, lr=lr), optim.momentum, optim.eps
    match optim.type:
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=momentum)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=lr, alpha=optim.smoothing, eps=eps, momentum=momentum)
        case "rmsprop_tf":
            return RMSpropTF(groups, lr=lr, smoothing=optim.smoothing, momentum=momentum, eps=eps)
    return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999))


class RMSpropTF(torch.optim.Optimizer):
    """RMSProp of `tf.train.RMSPropOptimizer`, which networks of Google's papers were trained with.

    For a gradient g, weight decay (L2) added to it:

        square = smoothing * square + (1 - smoothing) * g ** 2
        velocity = momentum * velocity + lr * g / sqrt(square + eps)
        weight = weight - velocity

    `torch.optim.RMSprop` differs in three ways: eps is outside the root there, the mean of squares starts at
    zero and not at one (TensorFlow's `ones_initializer`), and the rate multiplies the velocity, so that a
    change of rate acts on past gradients too.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        smoothing: float,
        momentum: float,
        eps: float,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "smoothing": smoothing, "momentum": momentum, "eps": eps}
        super().__init__(params, {**defaults, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the weights by their gradients; parameters without one stay."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step_group(group, weights, [weight.grad for weight in weights])
        return loss

    def _step_group(
        self, group: dict[str, Any], weights: list[torch.Tensor], gradients: list[torch.Tensor]
    ) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {"square": torch.ones_like(weight), "velocity": torch.zeros_like(weight)}
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        squares = [self.state[weight]["square"] for weight in weights]
        velocities = [self.state[weight]["velocity"] for weight in weights]
        torch._foreach_mul_(squares, group["smoothing"])
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["smoothing"])
        roots = torch._foreach_add(squares, group["eps"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_addcdiv_(velocities, gradients, roots, value=group["lr"])
        torch._foreach_sub_(weights, velocities)
