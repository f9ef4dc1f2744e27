"""Students outside PyTorch: ONNX and traced graphs, and whether they still say the same."""
