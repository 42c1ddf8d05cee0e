"""Generated street scenes: a COCO and a Cityscapes data set without a download."""
