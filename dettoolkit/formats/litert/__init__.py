"""LiteRT, formerly TensorFlow Lite: .tflite files, computed by XNNPACK on the CPU."""
