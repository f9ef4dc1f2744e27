"""AdamW that updates only the word embeddings of tokens in the batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW


class LazyAdamW(AdamW):
    """AdamW (Loshchilov and Hutter 2019) that updates only the rows of a word embedding that occur in the batch.

    A batch contains a few hundred of the tens of thousands of tokens, but AdamW updates all rows and their two moments,
    which takes most of a step of a small student. Here, a row that does not occur keeps its value and its moments,
    without momentum and weight decay, as in PyTorch's ``SparseAdam`` and TensorFlow's ``LazyAdam``. All other
    parameters are updated as in ``AdamW``.

    ``DistillationModule`` enables sparse gradients of the student's word embeddings for this optimizer (in distributed
    training they can be reduced across CPUs only). Embeddings tied to an output layer have dense gradients and are
    updated as in ``AdamW``.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the square root of the second moment.
        weight_decay: Decoupled weight decay.
        fused: If True, update all dense parameters in one kernel.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        fused: bool | None = True,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, fused=fused)
        # private flag that a fused AdamW sets (torch 2.13), so that GradScaler leaves unscaling to the optimizer
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    sparse.append((group, parameter, parameter.grad.coalesce()))
                    parameter.grad = None
        super().step()
        for group, parameter, gradient in sparse:
            self._update_rows(group, parameter, gradient)
            parameter.grad = gradient
        return loss

    def _update_rows(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step, (beta1, beta2), lr = float(state["step"]), group["betas"], group["lr"]
        rows, values = gradient.indices()[0], gradient.values()
        first = state["exp_avg"][rows].lerp_(values, 1 - beta1)
        second = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        updated = parameter[rows].mul_(1 - lr * group["weight_decay"])
        divisor = second.sqrt_().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
        parameter.index_copy_(0, rows, updated.addcdiv_(first, divisor, value=-lr / (1 - beta1**step)))


def set_sparse_gradients(model: nn.Module, enabled: bool) -> None:
    """Enable or disable sparse gradients of a model's word embeddings; tied embeddings always have dense ones."""
    get_embeddings = getattr(model, "get_input_embeddings", None)
    embeddings = get_embeddings() if get_embeddings is not None else None
    if isinstance(embeddings, nn.Embedding):
        named = model.named_parameters(remove_duplicate=False)
        embeddings.sparse = enabled and sum(parameter is embeddings.weight for _, parameter in named) == 1


def dense_gradient_views(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Return parameters with dense gradients that share memory with the given ones' gradients.

    For gradient clipping, which PyTorch does not implement for sparse gradients.
    """
    dense = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values = parameter.grad.values()
            view = nn.Parameter(torch.empty_like(values))
            view.grad = values
            dense.append(view)
        else:
            dense.append(parameter)
    return dense
