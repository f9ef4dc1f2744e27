"""The teacher's most likely classes, and all others as one."""

import torch
from torch import Tensor


def merge_tail_classes(
    student_logits: Tensor, teacher_logits: Tensor, top_k: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits of the teacher's k most likely classes and one that stands for the rest, of student and teacher.

    The rest's logit is the log of the sum of its exponentials, so that its probability is the sum of theirs: what the
    top k leave is neither dropped nor spread over the top k, which would bias the student (Anshumann et al. 2025,
    Sparse Logit Sampling). Divide by the temperature before.

    Args:
        student_logits: (N, C), float32.
        teacher_logits: (N, C), float32; picks the classes.
        top_k: k, in [1, C).
        mask: (N, C), True = the class counts; None = all of them.

    Returns:
        Student's and teacher's logits, (N, k + 1), and which of them count, (N, k + 1), or None for all.

    Example:
        >>> student, teacher, _ = merge_tail_classes(torch.zeros(1, 3), torch.tensor([[0.0, 2.0, 1.0]]), 1)
        >>> student
        tensor([[0.0000, 0.6931]])
    """
    ranked = teacher_logits.detach() if mask is None else teacher_logits.detach().masked_fill(~mask, -torch.inf)
    top = ranked.topk(top_k, dim=-1).indices
    class_mask = torch.ones_like(ranked, dtype=torch.bool) if mask is None else mask
    rest = class_mask.scatter(-1, top, False)

    def merge(logits: Tensor) -> Tensor:
        # not -inf: where the rest is empty, its gradient would be NaN
        tail = logits.masked_fill(~rest, torch.finfo(logits.dtype).min).logsumexp(dim=-1, keepdim=True)
        return torch.cat([logits.gather(-1, top), tail], dim=-1)

    merged_mask = None if mask is None else torch.cat([mask.gather(-1, top), rest.any(dim=-1, keepdim=True)], dim=-1)
    return merge(student_logits), merge(teacher_logits), merged_mask
