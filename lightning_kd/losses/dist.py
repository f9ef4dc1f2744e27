"""Correlation of the student's and the teacher's probabilities, within examples and within classes."""

from torch import Tensor

from lightning_kd.losses.base import (
    DistillationLoss,
    check_logits,
    check_temperature,
    drop_masked_targets,
    masked_log_softmax,
    mean_of_losses,
)
from lightning_kd.losses.logit_transforms import standardize_logits
from lightning_kd.outputs import Outputs


def _correlation_distance(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return 1 - Pearson's correlation of each row, averaged over the rows; 0 if there are none."""
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
    r"""Compute 1 - Pearson's correlation of the probabilities over classes (inter) and over targets (intra), times T².

    .. math::
        T^2 \Bigl(\frac{\beta}{N} \sum_n (1 - \rho(q_{n:}, p_{n:}))
        + \frac{\gamma}{C} \sum_c (1 - \rho(q_{:c}, p_{:c}))\Bigr)

    The student matches the teacher's probabilities up to shift and scale only. Huang et al. 2022, Knowledge
    Distillation from A Stronger Teacher, section 3; T² as in the official code. The official code adds a constant to
    the divisor, so classes that are unlikely in the whole batch hardly contribute; here all classes contribute equally.

    Args:
        student_logits: (N, C), any floating dtype; computed in float32.
        teacher_logits: (N, C).
        temperature: T > 0; divides both logits.
        inter_weight: Weight beta >= 0 of the correlations over the classes of each target.
        intra_weight: Weight gamma >= 0 of the correlations over the targets of each class, within the batch of one
            device; gradient accumulation and more devices do not add targets.
        mask: (N, C), True = included; None = all. Requires ``intra_weight`` 0.

    Returns:
        Float32 scalar; 0 with zero gradient if there is no target. Constant probabilities, of student or teacher, have
        no correlation: they contribute 1, with the gradient of the covariance.

    Raises:
        ValueError: If a shape or the temperature is wrong; if there is a mask and ``intra_weight`` is not 0, because a
            class would lack some targets.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]])
        >>> bool(dist_loss(logits, logits) < 1e-6)
        True
    """
    check_logits("dist_loss", student_logits, teacher_logits, mask)
    check_temperature("dist_loss", temperature)
    if mask is not None and intra_weight:
        raise ValueError(
            f"dist_loss: intra_weight must be 0 with masked classes, got {intra_weight}; classes that are positions "
            "cannot be compared between examples"
        )
    if mask is not None:
        mask, student_logits, teacher_logits = drop_masked_targets(mask, student_logits, teacher_logits)
    log_q, log_p = (masked_log_softmax(z.float() / temperature, mask) for z in (student_logits, teacher_logits))
    total = inter_weight * _correlation_distance(log_q.exp(), log_p.exp(), mask)
    if intra_weight and len(log_q):
        # a correlation does not depend on the scale, but the squares of small probabilities would underflow
        scaled = [(z - z.detach().amax(dim=0)).exp().T for z in (log_q, log_p)]
        total = total + intra_weight * _correlation_distance(*scaled)
    return total * temperature**2


class DISTLoss(DistillationLoss):
    """Correlation of the student's and the teacher's probabilities, within each example and within each class.

    The paper gives both parts the same weight, at temperature 1 for ImageNet and 4 for CIFAR-100. The part within
    classes compares the examples of a batch on one device, so it needs large batches.

    Args:
        weight: Weight of this loss in the total, >= 0.
        temperature: Divides both logits, > 0.
        inter_weight: Weight of the part within examples, >= 0.
        intra_weight: Weight of the part within classes, >= 0; 0 for question answering, whose classes are positions.

    Raises:
        ValueError: If an argument is out of range.
    """

    requires_classes = True

    def __init__(
        self, weight: float = 1.0, temperature: float = 1.0, inter_weight: float = 1.0, intra_weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        self._check_temperature(temperature)
        self._check_nonnegative(inter_weight=inter_weight, intra_weight=intra_weight)
        self.temperature = temperature
        self.inter_weight = inter_weight
        self.intra_weight = intra_weight
        self.compares_examples = intra_weight > 0

    def check_num_classes(self, num_classes: int, field: str) -> str | None:
        """Warn if the part within examples is constant."""
        if not self.inter_weight or num_classes != 2:
            return None
        return f"{field}.inter_weight: two classes always correlate with 1 or -1, without a gradient; set it to 0"

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Return the mean of ``dist_loss`` over the heads."""
        arguments = (self.temperature, self.inter_weight, self.intra_weight)
        pairs = self._head_pairs(student, teacher)
        return mean_of_losses([dist_loss(s.logits, t.logits, *arguments, s.mask) for s, t in pairs])
