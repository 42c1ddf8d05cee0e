"""From images to results: sources, the predictor that any engine serves, what it finds, where that goes."""
