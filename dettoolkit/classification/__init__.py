"""Classification: the model, what it is trained with, and its task."""
