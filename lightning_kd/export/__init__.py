"""Export of a trained student: model folder, model card, ONNX, TorchScript, Neuron.

A new format has its conversion here, a callback on ``callbacks/export_base.py``, a name in ``cli/export.py`` and a
branch in ``artifacts.py``; see ``docs/extending.md``.
"""
