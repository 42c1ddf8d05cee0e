"""Scores of predictions against ground truth, and the figures that show both."""
