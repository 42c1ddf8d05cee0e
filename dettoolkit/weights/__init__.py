"""Weights: read safely, written, and every difference named."""
