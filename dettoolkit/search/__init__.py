"""Searching for networks: Optuna proposes, short trainings judge, and the best are trained in full."""
