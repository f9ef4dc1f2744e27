"""Correlation of the student's and the teacher's probabilities, within rows and within classes."""

import math

from torch import Tensor

from lightning_kd.losses.base import (
    DistillationLoss,
    check_temperature,
    drop_masked_rows,
    masked_log_softmax,
    mean_over_heads,
)
from lightning_kd.losses.standardized import standardize_logits
from lightning_kd.outputs import Outputs


def _correlation_distance(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - Pearson's correlation of each row, mean over the rows; 0 without rows."""
    product = standardize_logits(student, mask) * standardize_logits(teacher, mask)
    count = product.shape[-1] if mask is None else mask.sum(dim=-1)
    return (1 - product.sum(dim=-1) / count).sum() / max(len(product), 1)


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""1 - Pearson's correlation of the probabilities, over classes (inter) and over rows (intra), times T².

    .. math::
        T^2 \Bigl(\frac{\beta}{N} \sum_n (1 - \rho(q_{n:}, p_{n:}))
        + \frac{\gamma}{C} \sum_c (1 - \rho(q_{:c}, p_{:c}))\Bigr)

    The student need not match the teacher's probabilities, only how they rise and fall. Huang et al. 2022, Knowledge
    Distillation from A Stronger Teacher, section 3; T² as in the official code. There a constant is added to
    the divisor, so that classes that no row of a batch is likely to have hardly count; here all classes count alike.

    Args:
        student_logits: (N, C), any floating dtype; computed in float32.
        teacher_logits: (N, C).
        temperature: T > 0; divides both logits.
        inter_weight: Of the correlations over the classes of each row, beta >= 0.
        intra_weight: Of the correlations over the rows of each class, gamma >= 0. These rows are one batch's on one
            device; accumulating gradients or adding devices does not add rows.
        mask: (N, C), True = the class counts; None = all of them. Only with ``intra_weight`` 0.

    Returns:
        Float32 scalar; 0 with zero gradient if no row is left. What is constant, in student or teacher, has no
        correlation: it counts 1, with the gradient of the covariance.

    Raises:
        ValueError: If there is a mask and ``intra_weight`` is not 0: a column then holds a class of some rows only.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]])
        >>> bool(dist_loss(logits, logits) < 1e-6)
        True
    """
    if mask is not None and intra_weight:
        raise ValueError(
            f"dist_loss: intra_weight must be 0 where classes are masked, got {intra_weight}; classes that are "
            "positions of a row have nothing in common between rows"
        )
    if mask is not None:
        mask, student_logits, teacher_logits = drop_masked_rows(mask, student_logits, teacher_logits)
    log_q, log_p = (masked_log_softmax(z.float() / temperature, mask) for z in (student_logits, teacher_logits))
    total = inter_weight * _correlation_distance(log_q.exp(), log_p.exp(), mask)
    if intra_weight and len(log_q):
        # a correlation does not change with the scale: without it the squares of small probabilities are 0
        scaled = [(z - z.detach().amax(dim=0)).exp().T for z in (log_q, log_p)]
        total = total + intra_weight * _correlation_distance(*scaled)
    return total * temperature**2


class DISTLoss(DistillationLoss):
    """Correlation of the student's with the teacher's probabilities, within each row and within each class.

    The paper weighs both parts alike, at temperature 1 for ImageNet and 4 for CIFAR-100. The part within classes
    compares the rows of a batch on one device, so batches should have many.

    Args:
        weight: Factor of this loss in the total, >= 0.
        temperature: Divides both logits, > 0.
        inter_weight: Weight of the part within rows, >= 0.
        intra_weight: Weight of the part within classes, >= 0; 0 for question answering, whose classes are positions.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 1.0,
        inter_weight: float = 1.0,
        intra_weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        check_temperature(temperature, type(self).__name__)
        self.temperature = temperature
        for name, value in (("inter_weight", inter_weight), ("intra_weight", intra_weight)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"DISTLoss: {name} must be a finite number >= 0, got {value}")
        self.inter_weight = inter_weight
        self.intra_weight = intra_weight
        self.compares_examples = intra_weight > 0

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Mean over the heads of ``dist_loss``."""
        assert teacher is not None  # promised by requires_teacher
        weights = (self.inter_weight, self.intra_weight)
        return mean_over_heads(
            [dist_loss(s.logits, t.logits, self.temperature, *weights, s.mask) for s, t in student.zip_heads(teacher)]
        )
