"""What makes a detector of a backbone and a head: default boxes, targets, losses and post-processing."""
