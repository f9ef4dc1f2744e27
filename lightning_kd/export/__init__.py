"""Export of a trained student: model folder, model card, ONNX, TorchScript, Neuron.

A new format needs a conversion in this package, a callback that subclasses a class of ``callbacks/export_base.py``, a
name in ``cli/export.py`` and a branch in ``artifacts.py``; see ``docs/extending.md``.
"""
