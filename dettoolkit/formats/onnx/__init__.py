"""ONNX: files are opened and written here."""
