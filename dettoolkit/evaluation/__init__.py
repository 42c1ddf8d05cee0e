"""Scores of predictions against ground truth, and the pictures that show both."""
