"""From a checkpoint to a file for a device: converters, the gate that each must pass, quantization."""
