"""RMSProp as TensorFlow computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class RMSpropTF(torch.optim.Optimizer):
    """RMSProp of `tf.train.RMSPropOptimizer`, which networks of Google's papers were trained with.

    For a gradient g, with the weight decay's share in it:

        square = smoothing * square + (1 - smoothing) * g ** 2
        velocity = momentum * velocity + lr * g / sqrt(square + eps)
        weight = weight - velocity

    `torch.optim.RMSprop` differs in three ways: eps is outside the root there, the mean of squares starts at
    zero and not at one (TensorFlow's `ones_initializer`), and the rate multiplies the velocity, so that a
    change of rate acts on past gradients too.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        smoothing: decay of the mean of squares.
        momentum: decay of the velocity.
        eps: added below the root.
        weight_decay: times the weight, is added to its gradient (L2).
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
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            pairs = [(weight, weight.grad) for weight in group["params"] if weight.grad is not None]
            if pairs:
                weights, gradients = (list(each) for each in zip(*pairs, strict=True))
                self._step_group(group, weights, gradients)
        return loss

    def _step_group(
        self, group: dict[str, Any], weights: list[torch.Tensor], gradients: list[torch.Tensor]
    ) -> None:
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["square"] = torch.ones_like(weight)
                state["velocity"] = torch.zeros_like(weight)
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
