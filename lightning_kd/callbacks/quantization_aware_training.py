"""Quantization-aware training of the student."""

import torch
from lightning.pytorch import Trainer

from lightning_kd.callbacks.base import DistillationModuleCallback
from lightning_kd.export.requirements import require_packages
from lightning_kd.training.module import DistillationModule


class QuantizationAwareTraining(DistillationModuleCallback):
    """Rounds the student's linear layers to int8 in the forward pass, so that training adapts to int8.

    Uses torchao's fake quantization (Jacob et al. 2018, Quantization and Training of Neural Networks): weights are
    symmetric per output channel, activations asymmetric per token, and gradients ignore the rounding. Weights are kept
    and exported in float32; export the int8 model with ``ONNXExport``. Scores are those of the rounded student.

    Needs ``pip install 'lightning-kd[qat]'``.

    Raises:
        ValueError: Before training, if torchao is missing.
    """

    def setup_fit(self, trainer: Trainer, pl_module: DistillationModule) -> None:
        """Add fake quantization to the student; the names of its weights stay the same."""
        require_packages("QuantizationAwareTraining", "qat", "torchao")
        from torchao.quantization import quantize_
        from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

        activations = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
        weights = IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True)
        config = QATConfig(activation_config=activations, weight_config=weights, step="prepare")
        quantize_(pl_module.build_student(), config)
