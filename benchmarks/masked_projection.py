"""Measure the speedup of masked-LM distillation from projecting only the masked tokens to the vocabulary.

Two implementations alternate on the same batches: forward and backward pass of the student and forward pass of the
teacher, with soft targets and hard labels. In the usual one, both models project every token and the losses select the
masked ones. In lightning_kd, the heads receive only the masked tokens. Dropout is the same, so the losses agree up to
rounding. (tests/losses/test_chunked.py tests the memory that chunked losses save.)

    python benchmarks/masked_projection.py --student <folder> --teacher <folder> --data <text file or folder>
"""

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoModelForMaskedLM

from lightning_kd import MaskedLM, MaskedLMDataModule
from lightning_kd.losses import HardLabelLoss, SoftTargetLoss
from lightning_kd.models import call_model

TEMPERATURE = 2.0


def project_all_tokens(student: nn.Module, teacher: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute the loss from the logits of all tokens."""
    masked = batch["labels"] >= 0
    logits = call_model(student, batch).logits[masked].float()
    with torch.no_grad():
        target = call_model(teacher, batch).logits[masked].float()
    log_q, p = (logits / TEMPERATURE).log_softmax(-1), (target / TEMPERATURE).softmax(-1)
    soft = nn.functional.kl_div(log_q, p, reduction="batchmean") * TEMPERATURE**2
    return soft + nn.functional.cross_entropy(logits, batch["labels"][masked])


def project_masked_tokens(student: nn.Module, teacher: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute the loss as DistillationModule does."""
    task = MaskedLM()
    outputs = task.run(student, batch)
    with torch.no_grad():
        targets = task.run(teacher, batch)
    return SoftTargetLoss(temperature=TEMPERATURE)(outputs, targets) + HardLabelLoss()(outputs)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", required=True, help="folder or hub id of a masked language model")
    parser.add_argument(
        "--teacher", required=True, help="folder or hub id of a masked language model with the same vocabulary"
    )
    parser.add_argument("--data", required=True, help="text file, or folder with files named after splits")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.manual_seed(0)
    data = MaskedLMDataModule(args.data, args.student, batch_size=args.batch_size, max_length=args.max_length)
    data.setup("fit")
    student, teacher = (AutoModelForMaskedLM.from_pretrained(source) for source in (args.student, args.teacher))
    student.train()
    teacher.eval()
    implementations = {"all tokens": project_all_tokens, "masked tokens only": project_masked_tokens}
    times: dict[str, list[float]] = {name: [] for name in implementations}
    losses: dict[str, list[float]] = {name: [] for name in implementations}
    for batch, _ in zip(data.train_dataloader(), range(args.steps + 1), strict=False):
        for name, compute_loss in implementations.items():
            torch.manual_seed(1)  # the same dropout
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                loss = compute_loss(student, teacher, batch)
            loss.backward()
            times[name].append(time.perf_counter() - started)
            losses[name].append(loss.item())
            student.zero_grad()
    title = f"{args.steps} steps of {args.batch_size} x {args.max_length} tokens"
    table = Table("", "median step (ms)", "mean loss", title=title)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first is a warm-up
    for name in implementations:
        table.add_row(name, f"{1e3 * medians[name]:.0f}", f"{statistics.mean(losses[name]):.4f}")
    Console().print(table)
    print(f"speedup: {medians['all tokens'] / medians['masked tokens only']:.2f}")


if __name__ == "__main__":
    main()
