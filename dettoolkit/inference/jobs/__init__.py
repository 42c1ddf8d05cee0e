"""Prediction jobs over many images, which stop and resume."""
