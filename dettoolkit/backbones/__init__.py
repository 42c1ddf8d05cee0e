"""Backbones: tables of networks, one builder, and the weights that load into it."""
