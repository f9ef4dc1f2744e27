"""Trains a student that is going to be int8."""

from importlib.util import find_spec

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_kd.training.module import DistillationModule


class QuantizationAwareTraining(Callback):
    """Rounds the student's linear maps to int8 in the forward pass while it trains, so that it learns to live with it.

    torchao's fake quantisation (Jacob et al. 2018, Quantization and Training of Neural Networks): weights symmetric, by
    output channel, activations asymmetric, by token; gradients pass as if nothing had been rounded. Weights are kept
    and exported in float32: write the int8 network with ``ONNXExport``. Scores are those of the rounded student.

    Needs ``pip install 'lightning-kd[qat]'``.

    Raises:
        ValueError: Before training, if torchao is missing.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the rounding into the student; the names of its weights stay the same."""
        if stage != "fit":
            return
        if not isinstance(pl_module, DistillationModule):
            raise ValueError(
                f"QuantizationAwareTraining: works on a DistillationModule, got {type(pl_module).__name__}"
            )
        if find_spec("torchao") is None:
            raise ValueError(
                "QuantizationAwareTraining needs torchao, not installed; run pip install 'lightning-kd[qat]'"
            )
        from torchao.quantization import quantize_
        from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

        activations = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
        weights = IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True)
        config = QATConfig(activation_config=activations, weight_config=weights, step="prepare")
        quantize_(pl_module.build_student(), config)
