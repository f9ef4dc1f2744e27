"""Gradient clipping in cases that Lightning does not support."""

from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from lightning_kd.optim.lazy_adamw import dense_gradient_views


def clip_special_gradients(
    optimizer: Optimizer, clip_val: float | None, algorithm: str | None, precision: Precision
) -> bool:
    """Clip sparse gradients, and gradients of a fused optimizer in bf16.

    Lightning (2.6) does not clip gradients of fused optimizers in mixed precision, because these unscale gradients
    themselves; but in bf16, gradients are not scaled.

    Args:
        optimizer: The optimizer whose gradients are clipped.
        clip_val: Maximum norm or absolute value; None or <= 0 = no clipping.
        algorithm: ``norm`` or ``value``; None = ``norm``.
        precision: The trainer's precision plugin.

    Returns:
        True if the gradients were clipped; False if Lightning must clip them.
    """
    parameters = list(precision.main_params(optimizer))
    is_sparse = any(parameter.grad is not None and parameter.grad.is_sparse for parameter in parameters)
    is_unscaled = type(precision) is MixedPrecision and precision.scaler is None
    if not clip_val or clip_val < 0 or not (is_sparse or is_unscaled):
        return False
    clip = clip_grad_value_ if algorithm == "value" else clip_grad_norm_
    clip(dense_gradient_views(parameters), clip_val)
    return True
