"""Learning rate and weight decay: which rate at which step, which parameter decays."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from dettoolkit.config.sections import Optim, Schedule
from dettoolkit.training.optimizers import RMSpropTF


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


def epoch_steps(batches: int, *, limit: float, accumulate: int) -> int:
    """Count the optimizer steps of an epoch.

    Args:
        batches: of the whole set.
        limit: how many of them are used, or as a float which fraction.
        accumulate: batches of a step; the last step may have fewer.

    Raises:
        ValueError: the fraction is less than one batch.
    """
    used = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if used < 1:
        raise ValueError(
            f"trainer.extra.limit_train_batches={limit:g} of {batches} batches is less than one: set it to "
            f"1/{batches} at least, or to a number of batches such as 1"
        )
    return -(-used // accumulate)


def check_length(schedule: Schedule, total_steps: int) -> None:
    """Refuse a warm-up that would fill the run.

    Raises:
        ValueError: the warm-up is not shorter than the run.
    """
    if schedule.warmup_steps >= total_steps:
        raise ValueError(
            f"optim.schedule.warmup_steps is {schedule.warmup_steps}, but the whole run has {total_steps} "
            "steps: the learning rate would never reach its value. Set a shorter warm-up (say "
            f"optim.schedule.warmup_steps={max(0, total_steps // 20)}) or train longer"
        )


def restore_rates(scheduler: object) -> None:
    """Set the optimizer's rates to the schedule's at its present step.

    A checkpoint carries the rates of the run that wrote it; when the length has changed since then, the first
    step of the resumed run would still take the old one.
    """
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        raise TypeError(f"the schedule must be a LambdaLR, got {type(scheduler).__name__}")
    step = scheduler.last_epoch
    groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, rate, factor in groups:
        group["lr"] = rate * factor(step)


def scaled_rate(optim: Optim, images_per_step: int) -> float:
    """Scale the recipe's rate linearly to the images of one optimizer step (arXiv 1706.02677)."""
    if optim.lr_batch_size is None:
        return optim.lr
    return optim.lr * images_per_step / optim.lr_batch_size


def parameter_groups(network: nn.Module, optim: Optim) -> list[dict[str, Any]]:
    """Split parameters by weight decay: kernels (two dimensions or more) decay, BN and biases do not."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if optim.decay_on == "all":
        return [{"params": trained, "weight_decay": optim.weight_decay}]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def build_optimizer(network: nn.Module, optim: Optim, *, lr: float) -> torch.optim.Optimizer:
    """Build the recipe's optimizer at learning rate `lr`."""
    groups = parameter_groups(network, optim)
    if optim.type == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=optim.momentum)
    if optim.type == "rmsprop":
        return torch.optim.RMSprop(
            groups, lr=lr, alpha=optim.smoothing, eps=optim.eps, momentum=optim.momentum
        )
    if optim.type == "rmsprop_tf":
        return RMSpropTF(groups, lr=lr, smoothing=optim.smoothing, momentum=optim.momentum, eps=optim.eps)
    return torch.optim.AdamW(groups, lr=lr, betas=(optim.momentum, 0.999))
