"""What makes a segmenter of a backbone and a head: losses, inference and the counts that scores come from."""
