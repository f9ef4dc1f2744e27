"""What a step of masked-LM distillation spares by projecting the masked tokens only.

Two ways in turn on the same batches, forward and backward of the student and forward of the teacher, with soft targets
and hard labels: both networks project every token to the vocabulary and the losses take the masked ones, as usually
written; and this package, where the head sees the masked tokens only. Both get the same dropout, so the losses agree to
rounding. (What chunks spare in memory is in tests/losses/test_chunked.py.)

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


def everywhere(student: nn.Module, teacher: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Project all tokens, then pick."""
    masked = batch["labels"] >= 0
    logits = call_model(student, batch).logits[masked].float()
    with torch.no_grad():
        target = call_model(teacher, batch).logits[masked].float()
    log_q, p = (logits / TEMPERATURE).log_softmax(-1), (target / TEMPERATURE).softmax(-1)
    soft = nn.functional.kl_div(log_q, p, reduction="batchmean") * TEMPERATURE**2
    return soft + nn.functional.cross_entropy(logits, batch["labels"][masked])


def masked_only(student: nn.Module, teacher: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What DistillationModule does."""
    task = MaskedLM()
    ours = task.run(student, batch)
    with torch.no_grad():
        theirs = task.run(teacher, batch)
    return SoftTargetLoss(temperature=TEMPERATURE)(ours, theirs) + HardLabelLoss()(ours)


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", required=True)
    parser.add_argument("--teacher", required=True)
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
    ways = {"all tokens": everywhere, "masked tokens only": masked_only}
    times: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[float]] = {name: [] for name in ways}
    for batch, _ in zip(data.train_dataloader(), range(args.steps + 1), strict=False):
        for name, way in ways.items():
            torch.manual_seed(1)  # the same dropout
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                loss = way(student, teacher, batch)
            loss.backward()
            times[name].append(time.perf_counter() - started)
            losses[name].append(float(loss))
            student.zero_grad()
    title = f"{args.steps} steps of {args.batch_size} x {args.max_length} tokens"
    table = Table("", "ms a step (median)", "loss, mean", title=title)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first warms up
    for name in ways:
        table.add_row(name, f"{1e3 * medians[name]:.0f}", f"{statistics.mean(losses[name]):.4f}")
    Console().print(table)
    names = list(ways)
    print(f"speedup: {medians[names[0]] / medians[names[1]]:.2f}")


if __name__ == "__main__":
    main()
