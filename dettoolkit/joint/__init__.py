"""What makes one network of a detector and a segmenter: two heads on one backbone, trained and run as one."""
