"""Random weights for comparing networks."""

import math

import torch
from torch import nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large


def randomize(module, seed=0):
    """Draw everything, BN statistics too, so that no two tensors of one shape could be swapped unseen."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data.normal_(0, math.sqrt(2 / layer.weight[0].numel()), generator=generator)
            if layer.bias is not None:
                layer.bias.data.normal_(0, 0.1, generator=generator)
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 2.0, generator=generator)
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.normal_(0, 0.2, generator=generator)
    return module.eval()


def write_detector_of_cats(path):
    """Write torchvision's detector as it publishes it, with random weights that see cats everywhere."""
    torch.manual_seed(0)
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    with torch.no_grad():
        for layer in network.head.classification_head.module_list:
            layer[-1].bias.view(-1, 91)[:, 17] = 4.0
    torch.save(network.state_dict(), path)
    return path
