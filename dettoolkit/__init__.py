"""Detection and segmentation for small devices. Imports nothing, so a wrong recipe is refused at once."""
