"""PyTorch itself as a runtime, for networks from checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NetworkEngine:
    """Run a network on a device, in evaluation mode and without gradients.

    Args:
        network: moved to the device and set to evaluation mode.
        device: where it runs.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map normalised images (N, 3, H, W) to the network's raw outputs."""
        outputs = self.network(images)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
