"""NetAdapt: a trained network made narrower, space by space, until it meets a latency."""
