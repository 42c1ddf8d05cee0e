"""Searching for MobileNetV3 (arXiv 1905.02244): its tables, and ours beside them."""
