"""Write a trained student in other forms: ONNX, TorchScript, Neuron, model card."""
