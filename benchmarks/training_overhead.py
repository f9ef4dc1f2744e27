"""Measure the overhead of DistillationModule and the Trainer over a bare PyTorch loop.

Both train the same student on the same batches in alternating steps: a callback runs one step of the bare loop before
each odd step of the Trainer and after each even one. So other load on the machine affects both equally, and so does the
compilation of oneDNN's kernels for each new shape. Both times include fetching the batch; the Trainer has its progress
bar, TensorBoard and logged losses enabled. After the attention of the last layer, the bare models compute the first
position only, as in lightning_kd, so that both do the same work. At the end the weights are compared: without a teacher
they must be equal bit for bit, or the two did not do the same work; with one they differ by rounding.

    python benchmarks/training_overhead.py --student <folder> --data <CLINC150 file or folder> [--teacher <folder>]
"""

import argparse
import copy
import statistics
import tempfile
import time
from functools import partial

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

from lightning_kd import CLINC150DataModule, DistillationModule, SequenceClassification
from lightning_kd.losses import HardLabelLoss, LogitMSELoss, SoftTargetLoss
from lightning_kd.models import encoder_layers

WEIGHTS = {"hard": 0.3, "soft": 0.6, "mse": 0.1}
TEMPERATURE = 4.0
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class BareLoop(Callback):
    """Alternates steps in plain PyTorch with those of the Trainer, and times both.

    Args:
        student: A copy of the module's student.
        teacher: A copy of the module's teacher; None = hard labels only.
        args: Arguments of this program.

    Attributes:
        bare: Time of each step of the bare loop, in seconds.
        module: Time of each step of the Trainer, in seconds.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module | None, args: argparse.Namespace) -> None:
        self.student, self.teacher, self.args = student.train(), teacher, args
        self.bare: list[float] = []
        self.module: list[float] = []

    def on_train_start(self, trainer, pl_module):
        decay = [p for p in self.student.parameters() if p.ndim >= 2]
        no_decay = {"params": [p for p in self.student.parameters() if p.ndim < 2], "weight_decay": 0.0}
        self.optimizer = torch.optim.AdamW([{"params": decay}, no_decay], lr=1e-4, fused=True)
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, 0, self.args.steps)
        self.started = time.perf_counter()

    def on_train_epoch_start(self, trainer, pl_module):
        self.batches = iter(trainer.datamodule.train_dataloader())

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.row_ids, self.time_before = batch["row_id"], 0.0
        if batch_idx % 2:
            self.time_before = self.bare_step(pl_module, batch, batch_idx)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.module.append(time.perf_counter() - self.started - self.time_before)
        if batch_idx % 2 == 0:
            self.bare_step(pl_module, batch, batch_idx)
        self.started = time.perf_counter()

    def bare_step(self, pl_module, batch, batch_idx) -> float:
        """Run one step with the module's dropout, and return the time of this call in seconds."""
        called = time.perf_counter()
        pl_module.on_train_batch_start(batch, batch_idx)  # seeds dropout by the batch's number
        self.bare.append(self.step())
        return time.perf_counter() - called

    def step(self) -> float:
        """Run one step and return its time in seconds."""
        started = time.perf_counter()
        batch = next(self.batches)
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.student(**inputs).logits
            with torch.no_grad():
                target = self.teacher(**inputs).logits if self.teacher is not None else None
        loss = nn.functional.cross_entropy(logits.float(), batch["labels"])
        if target is not None:
            z_s, z_t = logits.float() / TEMPERATURE, target.float() / TEMPERATURE
            soft = nn.functional.kl_div(z_s.log_softmax(-1), z_t.softmax(-1), reduction="batchmean") * TEMPERATURE**2
            mse = nn.functional.mse_loss(logits.float(), target.float())
            loss = WEIGHTS["hard"] * loss + WEIGHTS["soft"] * soft + WEIGHTS["mse"] * mse
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        elapsed = time.perf_counter() - started
        assert torch.equal(batch["row_id"], self.row_ids), "the two loops saw different batches"
        return elapsed


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", required=True, help="folder or hub id of the student")
    parser.add_argument(
        "--teacher", help="folder or hub id of a classifier with the same labels; without it, fine-tune"
    )
    parser.add_argument("--data", required=True, help="CLINC150 file or folder")
    parser.add_argument("--batch-size", type=int, default=64, help="examples per batch (default: %(default)s)")
    parser.add_argument(
        "--steps",
        type=int,
        default=200,
        help="steps of each loop, the first tenth is not counted (default: %(default)s)",
    )
    args = parser.parse_args()
    seed_everything(1, verbose=False)
    data = CLINC150DataModule(args.data, args.student, batch_size=args.batch_size, max_length=64)

    def build(source: str) -> nn.Module:
        names = dict(enumerate(data.label_names or []))
        return AutoModelForSequenceClassification.from_pretrained(
            source, id2label=names, num_labels=len(names), ignore_mismatched_sizes=True
        )

    def first_position_only(model: nn.Module) -> nn.Module:
        _, layers = encoder_layers(model)  # type: ignore[misc]
        norm = next(module for module in layers[-1].modules() if isinstance(module, nn.LayerNorm))
        norm.register_forward_pre_hook(lambda module, args: (args[0][:, :1],))
        return model

    student, teacher = build(args.student), build(args.teacher).eval() if args.teacher else None
    bare_student = first_position_only(copy.deepcopy(student))
    losses: dict[str, nn.Module] = {"hard": HardLabelLoss(WEIGHTS["hard"] if teacher else 1.0)}
    if teacher is not None:
        losses |= {"soft": SoftTargetLoss(WEIGHTS["soft"], TEMPERATURE), "mse": LogitMSELoss(WEIGHTS["mse"])}
    optimizer = partial(torch.optim.AdamW, lr=1e-4, fused=True)
    module = DistillationModule(
        SequenceClassification(), student, teacher, losses, optimizer, ignore_checks=["weak_teacher"]
    )
    bare = BareLoop(bare_student, None if teacher is None else first_position_only(copy.deepcopy(teacher)), args)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            precision="bf16-mixed",
            max_steps=args.steps,
            limit_val_batches=0,
            callbacks=[bare],
            logger=TensorBoardLogger(folder),
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data)
    skipped = args.steps // 10  # warm-up
    pairs = list(zip(bare.module, bare.bare, strict=True))[skipped:]
    ratios = sorted(module / plain for module, plain in pairs)
    weights = zip(student.state_dict().values(), bare_student.state_dict().values(), strict=True)
    distance = max(float((a.double() - b.double()).abs().max()) for a, b in weights)
    table = Table("", "median step (ms)", title=f"{len(pairs)} alternating steps of {args.batch_size} examples")
    for name, column in (("bare loop", 1), ("DistillationModule", 0)):
        table.add_row(name, f"{1e3 * statistics.median(pair[column] for pair in pairs):.1f}")
    quartiles = statistics.quantiles(ratios, n=4)
    table.add_row("ratio of sums", f"{sum(p[0] for p in pairs) / sum(p[1] for p in pairs):.3f}")
    table.add_row("ratio, median (quartiles)", f"{quartiles[1]:.3f} ({quartiles[0]:.3f} to {quartiles[2]:.3f})")
    table.add_row("largest difference between weights", f"{distance:g}")
    Console().print(table)


if __name__ == "__main__":
    main()
