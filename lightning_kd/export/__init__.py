"""Export of a trained student: model folder, model card, ONNX, TorchScript, Neuron."""
